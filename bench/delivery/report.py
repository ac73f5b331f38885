"""What `bench.delivery` prints and writes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.delivery.comparison import PLACES, TENSORS, Comparison, Side, wanted
from bench.document import Figure, at_least, figure, none_of
from bench.harness import with_quartiles

QUIET = 0.1


def show(console: Console, run: Comparison) -> None:
    console.print()
    for table in (_ratios(run), _costs(run), _awake(run)):
        console.print(table)
    disturbed = max(side.others for side in run.sides)
    if disturbed > QUIET:
        console.print(f"[yellow]not a quiet machine: other processes took {disturbed:.0%} of the cores[/]")


def document(run: Comparison) -> dict[str, Any]:
    """One size of frames as JSON values; METHODOLOGY.md lists the fields."""
    return {
        "frame_bytes": run.subject.spec.cut_bytes(0),
        "stages": run.stages,
        "window": run.window,
        "batch": run.batch,
        "modes": {
            side.name: {
                "ratio": asdict(run.ratio(side.name)),
                "ratio_to_tensors": asdict(run.ratio(side.name, TENSORS)),
                "cpu_ratio": asdict(run.cpu_ratio(side.name)),
                "cpu_ratio_to_tensors": asdict(run.cpu_ratio(side.name, TENSORS)),
                "net_cpu_ratio": asdict(run.net_cpu_ratio(side.name)),
                "wanted": wanted(side.name, run.subject.spec.cut_bytes(0)),
            }
            for side in run.modes
        },
        "sides": {side.name: _side(side) for side in run.sides},
    }


def figures(run: Comparison) -> list[Figure]:
    """For `bench.document`: the ratios to the bare chain, and whether every answer was right."""
    frame_bytes = run.subject.spec.cut_bytes(0)
    size = f"{frame_bytes / 1e3:.0f} kB"
    found: list[Figure] = []
    for side in run.modes:
        name, ratio, goal = f"{side.name} / bare, {size}", run.ratio(side.name).median, wanted(side.name, frame_bytes)
        found.append(figure(name, ratio) if goal is None else at_least(name, ratio, goal))
    return [*found, none_of(f"wrong answers, {size}", sum(side.wrong for side in run.sides))]


def _side(side: Side) -> dict[str, Any]:
    return {
        "cpu_us_per_frame": side.cpu_us,
        "awake_cpu": side.awake_by_place,
        "wrong": side.wrong,
        "rounds": [{"frames_per_s": one.frames_per_s, **asdict(one)} for one in side.streamed],
    }


def _ratios(run: Comparison) -> Table:
    title = (
        f"{run.subject.title}, window {run.window}, batch {run.batch}: frames/s, and the median of the rounds' ratios "
        f"to the bare chain \\[quartiles]"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("frames/s", "its IQR", "ratio", "wanted", "to tensors", "CPU ratio", "net CPU ratio", "wrong"):
        table.add_column(column, justify="right")
    for side in run.sides:
        rate = side.rate
        compared = ["-"] * 5
        if side in run.modes:
            compared = _compared(run, side.name)
        wrong = f"[red]{side.wrong}[/]" if side.wrong else "0"
        table.add_row(side.name, f"{rate.median:.0f}", f"{rate.spread:.0%}", *compared, wrong)
    return table


def _compared(run: Comparison, mode: str) -> list[str]:
    ratio, goal = run.ratio(mode), wanted(mode, run.subject.spec.cut_bytes(0))
    text = with_quartiles(ratio)
    if goal is not None:
        text = f"[{'green' if ratio.median >= goal else 'yellow'}]{text}[/]"
    return [
        text,
        "-" if goal is None else f"{goal:.2f}",
        with_quartiles(run.ratio(mode, TENSORS)),
        with_quartiles(run.cpu_ratio(mode)),
        with_quartiles(run.net_cpu_ratio(mode)),
    ]


def _costs(run: Comparison) -> Table:
    table = _places("CPU time of a frame, us (of a bare chain: head = first stage)")
    for side in run.sides:
        by_place = side.cpu_us
        table.add_row(side.name, *(f"{value:.0f}" for value in (sum(by_place.values()), *by_place.values())))
    return table


def _awake(run: Comparison) -> Table:
    table = _places("what time costs: CPU time with four frames a second, share of one core")
    for side in run.sides:
        by_place = side.awake_by_place
        table.add_row(side.name, *(f"{value:.1%}" for value in (sum(by_place.values()), *by_place.values())))
    return table


def _places(title: str) -> Table:
    table = Table(title=title, title_justify="left", min_width=len(title) + 2)
    table.add_column("")
    for column in ("all", *PLACES):
        table.add_column(column, justify="right")
    return table
