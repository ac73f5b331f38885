"""What `bench.scaling` prints and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.deployed import CPU_BOUND, Measured
from bench.document import Figure, at_least, figure, none_of
from bench.emulating import show_figures
from bench.harness import percentile
from bench.scaling.points import Point, Series, falls
from understudy.emulation.links import PAYLOAD_SHARE

Results = Mapping[Series, Sequence[Point]]

OF_PLAN = 0.10
OF_LINK = 0.94


def show(console: Console, results: Results) -> None:
    for series, points in results.items():
        console.print(_table(series, points))
    show_figures(console, figures(results))
    for series, points in results.items():
        for fall in falls(points):
            console.print(f"[red]{series.title}: {fall}[/]")


def _table(series: Series, points: Sequence[Point]) -> Table:
    table = Table(title=series.title, title_justify="left")
    for column in ("nodes", "stages", "frames/s", "spread", "planned", "of plan", "of link", "of 1 node"):
        table.add_column(column, justify="right")
    for column in ("alone ms", "planned", "full rate ms", "cores busy"):
        table.add_column(column, justify="right")
    table.add_column("bottleneck")
    alone = next((point.comparable for point in points if point.nodes == 1), None)
    for point in points:
        table.add_row(*_row(point, alone))
    return table


def _row(point: Point, alone: Measured | None) -> list[str]:
    found = point.measured
    if found is None:
        return [str(point.nodes), *[""] * 11, point.reason]
    comparable = not found.cpu_bound
    return [
        str(point.nodes),
        str(len(found.stages)),
        f"{found.frames_per_s:.2f}",
        f"{found.slices.spread:.1%}",
        f"{found.planned_per_s:.2f}",
        f"{found.of_plan:.1%}" if comparable else "-",
        f"{found.of_link:.1%}" if comparable and found.of_link is not None else "-",
        f"{found.frames_per_s / alone.frames_per_s:.2f}" if comparable and alone is not None else "-",
        f"{percentile(found.alone_ms, 0.5):.0f}",
        f"{found.planned_ms:.0f}",
        f"{percentile(found.loaded_ms, 0.5):.0f}",
        "not known" if found.cpu_busy is None else f"{found.cpu_busy:.0%}",
        found.bottleneck + ("" if comparable else "; CPU-bound: not comparable"),
    ]


def figures(results: Results) -> list[Figure]:
    every = [point for points in results.values() for point in points]
    kept = [point.comparable for point in every if point.comparable is not None]
    bound = sum(point.measured is not None for point in every) - len(kept)
    note = f"{len(kept)} of {len(every)} points"
    note += f"; {bound} with the cores more than {CPU_BOUND:.0%} busy left out" if bound else ""
    of_plan = max((found.of_plan for found in kept), key=lambda ratio: abs(ratio - 1), default=None)
    of_links = [found.of_link for found in kept if found.of_link is not None]
    of_link = min(of_links, default=None)
    fallen = sum(len(falls(points)) for points in results.values())
    faults = sum(point.measured.faults for point in every if point.measured is not None)
    links = f"{len(of_links)} points where a link is the bottleneck; TCP carries {PAYLOAD_SHARE:.3f} at best"
    return [
        Figure(
            name="measured / planned throughput, the farthest from 1",
            value=of_plan,
            wanted="0.90 to 1.10",
            met=None if of_plan is None else abs(of_plan - 1) <= OF_PLAN,
            note=note,
        ),
        at_least("least share of the bottleneck link", of_link, OF_LINK, note=links),
        none_of(
            "falls of throughput when nodes are added", fallen, note="beyond the spread, where the plan promises none"
        )
        if len(kept) > 1
        else figure("falls of throughput when nodes are added", None, note="fewer than two points to compare"),
        none_of("answers wrong, lost or twice", faults),
    ]


def details(results: Results) -> dict[str, Any]:
    """As JSON values; METHODOLOGY.md lists the fields."""
    return {
        "series": [
            {
                "model": series.model,
                "bandwidth": series.bandwidth,
                "memory": series.memory,
                "cpus": series.cpus,
                "falls": falls(points),
                "points": [_point(point) for point in points],
            }
            for series, points in results.items()
        ],
    }


def _point(point: Point) -> dict[str, Any]:
    found = point.measured
    return {"nodes": point.nodes} | ({"reason": point.reason} if found is None else found.document())
