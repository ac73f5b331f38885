"""`understudy measure`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.cli.common import BrokerOption, ControlBrokerOption, JsonOption, locate_control, run

if TYPE_CHECKING:
    from understudy.measure import Measured

HEADER = """\
# Written by `understudy measure`: bytes per second, measured over the broker. docs/planner.md describes the file.
# flops_per_s is not measured: fill it in. Without it computing takes no time, and one node is always the best plan.
"""


class Topology(StrEnum):
    mesh = "mesh"
    star = "star"


def measure(
    pipeline: Annotated[str | None, typer.Argument(help="Its nodes and free ones. Default: all nodes.")] = None,
    broker: BrokerOption = None,
    control_broker: ControlBrokerOption = None,
    seconds: Annotated[float, typer.Option(min=0.05, max=10.0, help="Time for each direction of each pair.")] = 0.3,
    nodes: Annotated[str, typer.Option(help="Names, such as a,b,c. Default: all that are heard.")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a cluster file (YAML).")] = None,
    topology: Annotated[
        Topology, typer.Option(help="mesh: a broker on every node. star: one broker for all.")
    ] = Topology.mesh,
    json_: JsonOption = False,
) -> None:
    """Measure the links between all nodes, over the broker, and write a cluster file for the planner.

    Pairs that have no node in common are measured at the same time: 20 nodes take about 20 s. Exit code 1 if a node did
    not answer; what was measured is printed and written nevertheless.

    Example: understudy measure -o cluster.yaml

    Example: understudy measure --nodes kitchen,hall --seconds 1
    """
    from understudy.settings import read_settings

    settings = read_settings()
    url = locate_control(settings, broker, control_broker, pipeline)
    names = [name.strip() for name in nodes.split(",") if name.strip()]
    run(_measure(url, names, pipeline, seconds, output, topology.value, as_json=json_))


async def _measure(
    url: str,
    names: list[str],
    pipeline: str | None,
    seconds: float,
    output: Path | None,
    topology: str,
    *,
    as_json: bool,
) -> None:
    import json

    from broker.connect import connect
    from understudy.measure import find_nodes, measure

    broker = await connect(url, name="understudy-measure")
    try:
        there = await find_nodes(broker, names, pipeline=pipeline)
        with _progress() as on_progress:
            found = await measure(broker, there, seconds=seconds, on_progress=on_progress)
    finally:
        await broker.close()
    cluster = found.cluster(topology)
    if output is not None:
        _write(output, cluster)
    if as_json:
        typer.echo(json.dumps(document(found, cluster)))
    else:
        _print(found)
        if output is not None:
            typer.echo(f"written to {output}")
    if complaint := found.complaint():
        typer.echo(f"understudy: {complaint}", err=True)
        raise typer.Exit(1)


def document(found: Measured, cluster: dict[str, Any]) -> dict[str, Any]:
    """The measurements as JSON values."""
    return {
        "nodes": [name for name in found.nodes if name not in found.silent],
        "links": [
            {
                "from": sender,
                "to": receiver,
                "bytes_per_s": result.bytes_per_s,
                "alone_bytes_per_s": result.alone_bytes_per_s,
                "overhead_s": result.overhead_s,
            }
            for (sender, receiver), result in sorted(found.results.items())
        ],
        "failures": [
            {"from": sender, "to": receiver, "reason": why}
            for (sender, receiver), why in sorted(found.failures.items())
        ],
        "cluster": cluster,
    }


def _write(path: Path, cluster: dict[str, Any]) -> None:
    import yaml

    from understudy.files import write_text

    text = HEADER + yaml.safe_dump(cluster, sort_keys=False, default_flow_style=None, width=120)
    write_text(path, text)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where somebody sees it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("measuring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(found: Measured) -> None:
    from rich.console import Console
    from rich.table import Table

    names = [name for name in found.nodes if name not in found.silent]
    table = Table()
    table.add_column("Mbit/s")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for sender in names:
        table.add_row(sender, *("-" if sender == receiver else _cell(found, sender, receiver) for receiver in names))
    console = Console()
    # A matrix that is squeezed into 80 columns cannot be read, least of all by a program.
    console.width = max(console.width, 24 + sum(max(len(name), 8) + 3 for name in names) + max(map(len, names)))
    console.print("from the row's node to the column's")
    console.print(table)


def _cell(found: Measured, sender: str, receiver: str) -> str:
    result = found.results.get((sender, receiver))
    if result is None:
        return "?"
    mbit_per_s = result.bytes_per_s * 8e-6
    return (
        f"{mbit_per_s:.0f}"
        if mbit_per_s >= 99.5
        else f"{mbit_per_s:.1f}"
        if mbit_per_s >= 9.95
        else f"{mbit_per_s:.2f}"
    )
