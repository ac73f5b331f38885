"""What a run found, as tables and as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.document import Figure, figure, none_of
from bench.faults.leaks import MOST_FILES, MOST_TASKS, Growth
from bench.faults.run import Outcome

MACHINE_PACKAGES = ("nats-py", "paho-mqtt", "onnxruntime")


def show(outcome: Outcome, console: Console) -> None:
    _show_faults(outcome, console)
    _show_tally(outcome, console)
    for line in outcome.ended[:5]:
        console.print(line, highlight=False)
    for line in outcome.crashes[:20]:
        console.print(f"[red]unexpected error[/red] {escape(line)}", highlight=False)
    if outcome.stuck:
        console.print(f"[red]stuck[/red] {outcome.stuck}", highlight=False)
    if outcome.logs:
        console.print(f"logs: {outcome.logs}", highlight=False)
    console.print("the promise was kept" if outcome.good else "[red]the promise was not kept[/red]")


def _show_faults(outcome: Outcome, console: Console) -> None:
    silences: dict[str, list[float]] = defaultdict(list)
    skipped: dict[str, str] = {}
    for done in outcome.faults:
        if done.skipped:
            skipped[done.planned.kind] = done.skipped
        else:
            silences[done.planned.kind].append(done.silence_s)
    table = Table(title="faults", title_justify="left")
    table.add_column("fault")
    for column in ("times", "median silence, s", "longest, s"):
        table.add_column(column, justify="right")
    for kind, found in sorted(silences.items()):
        ordered = sorted(found)
        table.add_row(kind, str(len(found)), f"{ordered[len(ordered) // 2]:.2f}", f"{ordered[-1]:.2f}")
    console.print(table)
    for kind, why in sorted(skipped.items()):
        console.print(f"skipped: {kind}: {why}", highlight=False)


def _show_tally(outcome: Outcome, console: Console) -> None:
    tally = outcome.tally
    away, missed = tally.unheard
    rows = {
        "frames published": tally.published,
        "answered": tally.answered,
        "superseded by newer ones, and said so": tally.superseded,
        "given up, where no answer is promised": tally.given_up,
        "lost": len(tally.lost),
        "answered twice on .out": len(tally.twice),
        "wrong without a label": len(tally.wrong),
        "on the reply subject alone, while the checker was away": len(away),
        "on the reply subject alone, while it listened": len(missed),
        "degraded, and labelled": ", ".join(f"{name} {n}" for name, n in tally.degraded.most_common()) or 0,
        "errors": ", ".join(f"{code} {n}" for code, n in tally.refused.most_common()) or 0,
        "published again": tally.published_again,
        "longest silence, s": f"{tally.longest_silence_s:.2f}",
        "processes that ended by themselves, and were started again": len(outcome.ended),
        "seconds": f"{outcome.seconds:.0f}",
    }
    table = Table(title="frames", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("count", justify="right")
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)


def show_growth(found: Sequence[Growth], console: Console, *, most_mb: float) -> None:
    table = Table(title="growth of processes, once warm", title_justify="left")
    table.add_column("process")
    for column in (
        "watched, s",
        "first, MB",
        "last, MB",
        "MB per min",
        "files per min",
        "threads per min",
        "tasks per min",
    ):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for one in found:
        table.add_row(
            one.name,
            f"{one.seconds:.0f}",
            f"{one.first_bytes / 1e6:.1f}",
            f"{one.last_bytes / 1e6:.1f}",
            f"{one.mb_per_min:+.2f}",
            f"{one.files_per_min:+.2f}",
            f"{one.threads_per_min:+.2f}",
            f"{one.tasks_per_min:+.2f}",
            "flat" if one.flat(most_mb) else "grows",
        )
    console.print(table)
    console.print(
        f"flat: at most {most_mb:g} MB, {MOST_FILES:g} files and threads and {MOST_TASKS:g} tasks more, by the line"
    )


def headlines(outcome: Outcome) -> list[Figure]:
    """For `bench.document`."""
    tally = outcome.tally
    return [
        none_of("frames lost", len(tally.lost), note=f"of {tally.published}"),
        none_of("answered twice", len(tally.twice)),
        none_of("wrong without a label", len(tally.wrong)),
        none_of("unexpected errors in logs", len(outcome.crashes)),
        figure("faults", sum(not done.skipped for done in outcome.faults)),
        figure("degraded, and labelled", tally.degraded.total()),
        figure("longest silence", tally.longest_silence_s, "s"),
    ]


def document(outcome: Outcome) -> dict[str, Any]:
    """Everything, for JSON."""
    meter = outcome.meter
    return {
        "tally": outcome.tally.document(),
        "faults": [
            {
                **asdict(done.planned),
                "on": done.on,
                "skipped": done.skipped,
                "silence_s": round(done.silence_s, 3),
            }
            for done in outcome.faults
        ],
        "stuck": outcome.stuck,
        "crashes": outcome.crashes,
        "ended": outcome.ended,
        "seconds": outcome.seconds,
        "rate_per_s": outcome.rate_per_s,
        "growth": [asdict(one) for one in meter.growth()] if meter else [],
        "samples": [asdict(sample) for sample in meter.samples] if meter else [],
        "good": outcome.good,
    }
