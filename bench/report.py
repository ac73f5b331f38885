"""What `bench.throughput` prints and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.comparison import BATCHED, CALLERS, DECODING, SAME, Comparison
from bench.document import Figure, at_least, none_of
from bench.harness import Summary, cores, cpu_per_hop_us, summarise, with_quartiles
from bench.pipeline import CLIENT, SERVER
from bench.subjects import Subject

GOOD = 0.9
QUIET = 0.1
OTHERS = {DECODING: "to decoding", CALLERS: "to callers", BATCHED: "to batched"}


def show(console: Console, subject: Subject, runs: Sequence[Comparison]) -> None:
    console.print()
    for table in (_ratios(subject, runs), _costs(runs), _hops(subject, runs)):
        console.print(table)
    disturbed = max(run.others for run in runs)
    if disturbed > QUIET:
        console.print(f"[yellow]not a quiet machine: other processes took {disturbed:.0%} of the cores[/]")


def document(subject: Subject, runs: Sequence[Comparison]) -> dict[str, Any]:
    """One subject as JSON values; METHODOLOGY.md lists the fields."""
    one = _one_stage_cpu(runs)
    return {
        "name": subject.name,
        "title": subject.title,
        "frames": subject.frame_kind,
        "runs": [_run_document(run, one) for run in runs],
    }


def figures(subject: Subject, runs: Sequence[Comparison]) -> list[Figure]:
    """For `bench.document`: the ratios, and whether every answer was right."""
    stages = [
        at_least(f"{subject.name} in {run.pipeline.stages} stages / one process", run.ratio(SAME).median, GOOD)
        for run in runs
    ]
    return [*stages, none_of(f"{subject.name}: wrong answers", sum(run.wrong for run in runs))]


def _run_document(run: Comparison, one: float | None) -> dict[str, Any]:
    pipeline = run.pipeline
    return {
        "stages": pipeline.stages,
        "threads": run.threads,
        "cuts": pipeline.cuts,
        "cut_bytes": [pipeline.subject.spec.cut_bytes(cut) for cut in pipeline.cuts],
        "window": pipeline.flow.window,
        "batch": pipeline.flow.batch,
        "pipeline": [_with_rate(asdict(streamed), streamed.frames_per_s) for streamed in run.streamed],
        "references": {
            kind: {
                "mode": asdict(run.modes[kind]),
                "rounds": [_with_rate(asdict(measured), measured.frames_per_s) for measured in rounds],
                "ratio": asdict(run.ratio(kind)),
            }
            for kind, rounds in run.references.items()
        },
        "cpu_ratio": asdict(run.cpu_ratio),
        "wrong": run.wrong,
        "cpu_us_per_frame": run.cpu_s_per_frame * 1e6,
        "cpu_us_per_hop": None if one is None else cpu_per_hop_us(run.cpu_s_per_frame, one, pipeline.stages),
        "single_frame_us": {
            "round_trip": asdict(summarise(run.singles.round_trip_us)),
            "in_stages": asdict(summarise(run.singles.in_stages_us)),
            "head": asdict(summarise(run.singles.outside_us)),
            "hop": {str(cut): asdict(summarise(values)) for cut, values in run.singles.gap_us.items()},
        },
        "idle_cpu": run.idle,
        "rss_bytes": {"before": run.rss_before, "after": run.rss_after},
    }


def _with_rate(measured: dict[str, Any], frames_per_s: float) -> dict[str, Any]:
    return {"frames_per_s": frames_per_s, **measured}


def _ratios(subject: Subject, runs: Sequence[Comparison]) -> Table:
    title = f"{subject.title} ({subject.frame_kind}): frames/s; median of the rounds' ratios \\[quartiles]"
    table = Table(title=title, title_justify="left")
    for column in ("K", "threads", "pipeline", "reference", "its IQR", "ratio", "CPU ratio", *OTHERS.values(), "batch"):
        table.add_column(column, justify="right")
    table.add_column("wrong", justify="right")
    for run in runs:
        ratio = run.ratio(SAME)
        reference = summarise(measured.frames_per_s for measured in run.references[SAME])
        table.add_row(
            str(run.pipeline.stages),
            f"{run.modes[SAME].threads} of {run.threads}",
            _rate(summarise(streamed.frames_per_s for streamed in run.streamed)),
            _rate(reference),
            f"{reference.spread:.0%}",
            f"[{'green' if ratio.median >= GOOD else 'yellow'}]{with_quartiles(ratio)}[/]",
            f"{run.cpu_ratio.median:.2f}",
            *(f"{run.ratio(kind).median:.2f}" if kind in run.references else "-" for kind in OTHERS),
            str(run.pipeline.flow.batch),
            f"[red]{run.wrong}[/]" if run.wrong else "0",
        )
    return table


def _costs(runs: Sequence[Comparison]) -> Table:
    table = Table(title="CPU while streaming (share of all cores; us per frame), idle (share of one core), memory")
    table.title_justify = "left"
    for column in (
        "K",
        "busy",
        "others",
        "us/frame",
        "ref. us/frame",
        "client",
        "server",
        "head",
        "other nodes",
        "idle",
    ):
        table.add_column(column, justify="right")
    table.add_column("largest node's RSS, growth", justify="right")
    for run in runs:
        table.add_row(str(run.pipeline.stages), *_streaming_cells(run), f"{_idle(run.idle):.1%}", _memory(run))
    return table


def _streaming_cells(run: Comparison) -> list[str]:
    available = [streamed.elapsed_s * cores() for streamed in run.streamed]
    pairs = list(zip(run.streamed, available, strict=True))
    busy = summarise(sum(streamed.cpu_s.values()) / seconds for streamed, seconds in pairs)
    reference = summarise(measured.cpu_s / measured.frames for measured in run.references[SAME])
    roles = {
        role: summarise(streamed.cpu_s[role] / streamed.frames for streamed in run.streamed).median * 1e6
        for role in run.pipeline.pids
    }
    # The head is on the node of the first stage; which that is, the planner decides.
    nodes = sorted((roles[name] for name in run.pipeline.nodes), reverse=True)
    first = roles[run.pipeline.head]
    rest = sum(nodes) - first
    return [
        f"{busy.median:.0%}",
        f"{run.others:.0%}",
        *(_us(value) for value in (run.cpu_s_per_frame * 1e6, reference.median * 1e6)),
        *(_us(value) for value in (roles[CLIENT], roles[SERVER], first)),
        _us(rest) if len(nodes) > 1 else "-",
    ]


def _idle(idle: Mapping[str, float]) -> float:
    """Of the pipeline: the client is the benchmark itself."""
    return sum(value for role, value in idle.items() if role != CLIENT)


def _memory(run: Comparison) -> str:
    largest = max(run.rss_after, key=lambda name: run.rss_after[name])
    growth = max(run.rss_after[name] - run.rss_before[name] for name in run.rss_after)
    return f"{run.rss_after[largest] / 1e6:.0f} MB, {growth / 1e6:+.0f} MB"


def _hops(subject: Subject, runs: Sequence[Comparison]) -> Table:
    table = Table(title="one frame at a time, us: median \\[quartiles]", title_justify="left")
    for column in ("K", "round trip", "in the stages", "head", "per hop", "each hop (its activation)", "CPU per hop"):
        table.add_column(column, justify="right")
    one = _one_stage_cpu(runs)
    for run in runs:
        singles = run.singles
        hops = [
            f"{_us(summarise(values).median)} ({subject.spec.cut_bytes(cut) / 1e3:.0f} kB)"
            for cut, values in sorted(singles.gap_us.items())
        ]
        everything = [value for values in singles.gap_us.values() for value in values]
        cpu = None if one is None else cpu_per_hop_us(run.cpu_s_per_frame, one, run.pipeline.stages)
        table.add_row(
            str(run.pipeline.stages),
            _with_quartiles(summarise(singles.round_trip_us)),
            _us(summarise(singles.in_stages_us).median),
            _us(summarise(singles.outside_us).median),
            _with_quartiles(summarise(everything)) if everything else "-",
            "  ".join(hops) or "-",
            "-" if cpu is None else _us(cpu),
        )
    return table


def _one_stage_cpu(runs: Sequence[Comparison]) -> float | None:
    return next((run.cpu_s_per_frame for run in runs if run.pipeline.stages == 1), None)


def _rate(rate: Summary) -> str:
    return f"{rate.median:.0f}" if rate.median >= 100 else f"{rate.median:.1f}"


def _us(value: float) -> str:
    return f"{value:.0f}"


def _with_quartiles(summary: Summary) -> str:
    return f"{summary.median:.0f} \\[{summary.q1:.0f}-{summary.q3:.0f}]"
