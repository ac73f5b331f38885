"""`understudy inspect`: what a model is made of, and where it can be cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.cli.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.table import Table

    from stages.graph import Block, Cut, ModelGraph
    from stages.tensor import TensorSpec

PIPED_WIDTH = 160  # columns where the output is a file or a pipe, which do not say how wide they are


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file.", show_default=False)],
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=1,3,224,224",
            help="The shape of one frame of an input, where the model leaves it open. Repeat it for each input.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    """Show the blocks of a model, what each costs, and what crosses each cut.

    Example: understudy inspect resnet32.onnx --shape input=1,3,32,32
    """
    # Here, so that `understudy --help` does not wait for onnx.
    from stages.graph import ModelGraph

    graph = ModelGraph.load(model, shapes=parse_shapes(shape or []))
    if as_json:
        typer.echo(json.dumps(describe(graph), indent=2))
    else:
        _print(graph)


def parse_shapes(options: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """`["x=1,3,32,32"]` -> `{"x": (1, 3, 32, 32)}`. Raises typer.BadParameter for anything else."""
    shapes = {}
    for option in options:
        # The name may hold an equals sign or a colon, a shape never does.
        name, _, sizes = option.rpartition("=")
        try:
            shapes[name] = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            name = ""
        if not name:
            raise typer.BadParameter(f"'{option}' is not of the form NAME=1,3,224,224", param_hint="--shape")
    return shapes


def describe(graph: ModelGraph) -> dict[str, Any]:
    """The model as plain values for JSON; an open dimension is null."""
    return {
        "name": graph.name,
        "inputs": [_describe_tensor(tensor) for tensor in graph.inputs],
        "outputs": [_describe_tensor(tensor) for tensor in graph.outputs],
        "dynamic_batch": graph.dynamic_batch,
        "blocks": [
            {
                "index": block.index,
                "ops": dict(block.ops),
                "parameters": block.parameters,
                "memory_bytes": block.memory_bytes,
                "peak_bytes": block.peak_bytes,
                "flops": block.flops,
                "skippable": block.skippable,
            }
            for block in graph.blocks
        ],
        "cuts": [
            {
                "index": cut.index,
                "bytes": cut.size_bytes,
                "tensors": [_describe_tensor(tensor) for tensor in cut.tensors],
            }
            for cut in graph.cuts
        ],
        "totals": _totals(graph),
    }


def _describe_tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _totals(graph: ModelGraph) -> dict[str, int]:
    """Sums over the blocks, and the largest peak: what one node needs that runs all of them."""
    return {
        "blocks": len(graph.blocks),
        "skippable": sum(block.skippable for block in graph.blocks),
        "parameters": sum(block.parameters for block in graph.blocks),
        "memory_bytes": sum(block.memory_bytes for block in graph.blocks),
        "peak_bytes": max(block.peak_bytes for block in graph.blocks),
        "flops": sum(block.flops for block in graph.blocks),
    }


def _print(graph: ModelGraph) -> None:
    from rich.console import Console

    # Names of tensors hold brackets and slashes: they are data, not markup.
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=PIPED_WIDTH)
    totals = _totals(graph)
    console.print(graph.name, style="bold")
    console.print(f"inputs   {', '.join(f'{tensor.name} {_tensor_text(tensor)}' for tensor in graph.inputs)}")
    console.print(f"outputs  {', '.join(f'{tensor.name} {_tensor_text(tensor)}' for tensor in graph.outputs)}")
    console.print(
        f"{totals['blocks']} blocks ({totals['skippable']} skippable), "
        f"{format_count(totals['parameters'])} parameters, {format_bytes(totals['memory_bytes'])} weights, "
        f"{format_count(totals['flops'])} FLOPs per frame, batch {'open' if graph.dynamic_batch else 'fixed'}"
    )
    console.print(_table(graph))


def _table(graph: ModelGraph) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for heading in ("", "params", "weights", "peak", "FLOPs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("skip", no_wrap=True)
    table.add_column("sent", justify="right", no_wrap=True)
    table.add_column("as", overflow="fold", min_width=11)
    table.add_column("operators", overflow="fold", min_width=8)
    for block, cut in zip(graph.blocks, graph.cuts[1:], strict=True):
        table.add_row(*(Text(cell) for cell in _row(block, cut)))
    return table


def _row(block: Block, cut: Cut) -> tuple[str, ...]:
    return (
        str(block.index),
        format_count(block.parameters),
        format_bytes(block.memory_bytes),
        format_bytes(block.peak_bytes),
        format_count(block.flops),
        "yes" if block.skippable else "",
        format_bytes(cut.size_bytes),
        ", ".join(_tensor_text(tensor) for tensor in cut.tensors),
        summarise_ops(block.ops),
    )


def summarise_ops(ops: Mapping[str, int]) -> str:
    """`Conv 2, Relu 2, Add`: the most frequent first."""
    ranked = sorted(ops.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(name if count == 1 else f"{name} {count}" for name, count in ranked)


def _tensor_text(tensor: TensorSpec) -> str:
    """`?x64x8x8` with ? for an open dimension; the dtype where it is not float32."""
    sizes = "x".join("?" if size is None else str(size) for size in tensor.shape) or "scalar"
    return sizes if tensor.dtype == "float32" else f"{tensor.dtype} {sizes}"
