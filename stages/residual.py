"""Which blocks the identity can replace: those that add to their input (skip connections, as in CONTINUER)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from stages.dataflow import Dataflow
from stages.tensor import TensorSpec

if TYPE_CHECKING:
    from onnx import NodeProto

SUMS = frozenset({"Add", "Sum"})

# What may lie on the shortcut: no weights, and (where the shape stays) what comes out is what went in, nearly.
SHORTCUT_OPS = frozenset({"Identity", "Dropout", "Relu", "LeakyRelu", "Clip", "Elu", "Gelu", "Slice", "Pad", "Reshape"})


def is_skippable(
    flow: Dataflow, specs: Mapping[str, TensorSpec], start: int, end: int, weighted: Callable[[NodeProto], bool]
) -> bool:
    """True if the identity can stand in for the dynamic nodes [start, end).

    What comes in has the same dtypes and shapes as what goes out, and each tensor that is replaced by another is an
    operand of a sum whose other operand depends on a weighted operator of the block.
    """
    if not any(flow.node_at(position).op_type in SUMS for position in range(start, end)):
        return False
    before, after = flow.crossing(start - 1), flow.crossing(end - 1)
    if [_kind(specs[name]) for name in before] != [_kind(specs[name]) for name in after]:
        return False
    replaced = {old for old, new in zip(before, after, strict=True) if old != new}
    moved = {name for old, new in zip(before, after, strict=True) if old != new for name in (old, new)}
    if not replaced or moved & (set(before) & set(after)):
        return False
    return replaced <= _added_to(flow, specs, start, end, weighted)


def _kind(spec: TensorSpec) -> tuple[str, tuple[int | None, ...], tuple[int, ...]]:
    return spec.dtype, spec.shape, spec.example_shape


def _added_to(
    flow: Dataflow, specs: Mapping[str, TensorSpec], start: int, end: int, weighted: Callable[[NodeProto], bool]
) -> set[str]:
    """The incoming tensors that a sum of the block adds a weighted result to."""
    origin = {name: name for name in flow.crossing(start - 1)}
    heavy: set[str] = set()
    found: set[str] = set()
    for position in range(start, end):
        node, reads = flow.node_at(position), flow.reads_at(position)
        if node.op_type in SUMS:
            found.update(
                origin[name]
                for name in reads
                if name in origin and any(other in heavy for other in reads if other != name)
            )
        if weighted(node) or heavy.intersection(reads):
            heavy.update(node.output)
        elif node.op_type in SHORTCUT_OPS and node.input[0] in origin:
            source = origin[node.input[0]]
            if specs[node.output[0]].example_shape == specs[source].example_shape:
                origin[node.output[0]] = source
    return found
