"""What `bench.others` prints and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.document import QUIET, Figure, figure, none_of
from bench.harness import with_quartiles
from bench.others.comparison import BATCHING, OURS, Comparison, Side, promises

DISTANCE = 0.05
"""Ratios within this of 1 are called equal."""


def show(console: Console, run: Comparison) -> None:
    console.print()
    console.print(_measured(run))
    for line in verdict(run):
        console.print(line)
    disturbed = max(side.others for side in run.sides)
    if disturbed > QUIET:
        console.print(f"[yellow]not a quiet machine: other processes took {disturbed:.0%} of the cores[/]")


def show_promises(console: Console, names: Sequence[str], titles: Sequence[str]) -> None:
    """What the figures do not say."""
    table = Table(title="what each does for a frame when a stage ends", title_justify="left")
    for column in ("", "frames in it", "not promised"):
        table.add_column(column)
    for name, title in zip(names, titles, strict=True):
        if name != BATCHING:
            table.add_row(title, *promises(name))
    console.print()
    console.print(table)


def verdict(run: Comparison) -> list[str]:
    """Who is faster than the pipeline and who is slower, in words."""
    faster: list[str] = []
    equal: list[str] = []
    slower: list[str] = []
    for side in run.others:
        if side.name == BATCHING:
            continue
        ratio = run.rate(side).median
        group = faster if ratio > 1 + DISTANCE else slower if ratio < 1 - DISTANCE else equal
        group.append(f"{side.title} ({ratio:.2f})")
    named = (("faster than Understudy", faster), ("as fast", equal), ("slower", slower))
    return [f"{what}: {', '.join(sides)}" for what, sides in named if sides]


def figures(runs: Sequence[Comparison], left_out: Mapping[str, str]) -> list[Figure]:
    """Nothing is wanted of a comparison but right answers.

    Args:
        left_out: why, by what is not there.
    """
    made = [none_of("answers that differ from the whole network's", sum(s.wrong for run in runs for s in run.sides))]
    for run in runs:
        for side in run.others:
            broken, lacks = promises(side.name)
            note = "" if side.name == BATCHING else f"when a stage ends, the frames in it: {broken}; {lacks}"
            name = f"{run.subject.name}: {side.title} / Understudy"
            made.append(figure(f"{name}, frames/s", run.rate(side).median, "x", note=note))
            made.append(figure(f"{name}, CPU time of a frame", run.cpu(side).median, "x"))
            made.append(figure(f"{name}, latency of a single frame", run.latency(side).median, "x"))
    return made + [figure(what, None, note=f"left out: {reason}") for what, reason in left_out.items()]


def details(run: Comparison) -> dict[str, Any]:
    """One subject as JSON values; METHODOLOGY.md lists the fields."""
    return {
        "name": run.subject.name,
        "title": run.subject.title,
        "bounds": run.work.bounds,
        "cut_bytes": [run.work.spec.cut_bytes(cut) for cut in run.work.bounds],
        "batch": run.batch,
        "sides": {side.name: _side(run, side) for side in run.sides},
    }


def _side(run: Comparison, side: Side) -> dict[str, Any]:
    broken, lacks = promises(side.name)
    return {
        "title": side.title,
        "window": side.window,
        "frames_in_an_ended_stage": broken,
        "not_promised": lacks,
        "ratio": asdict(run.rate(side)),
        "cpu_ratio": asdict(run.cpu(side)),
        "latency_ratio": asdict(run.latency(side)),
        "cpu_us_per_frame": asdict(side.cpu_us),
        "latency_us": asdict(side.latency_us),
        "wrong": side.wrong,
        "rounds": [{"frames_per_s": one.frames_per_s, **asdict(one)} for one in side.streamed],
    }


def _measured(run: Comparison) -> Table:
    title = (
        f"{run.subject.title}, {run.work.stages} stages, window {run.ours.window}: medians, and of the rounds' ratios "
        f"to Understudy the median \\[quartiles]"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("frames/s", "its IQR", "ratio", "CPU us/frame", "ratio", "one frame, ms", "ratio", "wrong"):
        table.add_column(column, justify="right")
    for side in run.sides:
        wrong = f"[red]{side.wrong}[/]" if side.wrong else "0"
        compared = ["-"] * 3
        if side.name != OURS:
            compared = [with_quartiles(of(side)) for of in (run.rate, run.cpu, run.latency)]
        rate, cpu, latency = side.rate, side.cpu_us.median, side.latency_us.median / 1e3
        row = [f"{rate.median:.0f}", f"{rate.spread:.0%}", compared[0], f"{cpu:.0f}", compared[1]]
        title = f"{side.title} (up to {run.batch}, window {side.window})" if side.name == BATCHING else side.title
        table.add_row(title, *row, f"{latency:.2f}", compared[2], wrong)
    return table
