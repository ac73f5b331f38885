"""What `bench.scenarios` prints and writes: a row for each fault, and of each scenario the worst of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.document import Figure, at_most, figure, none_of
from bench.recovery.report import HANG_MS, HEAL_MS
from bench.scenarios.series import SLOT_S, Slot
from understudy.emulation.scenario import REPAIRS

REPAIRING = frozenset(REPAIRS.values())
VANISHING = frozenset({"kill", "pause", "cut"})
"""A machine that is gone with its broker, or hangs, tells nobody: it is noticed by its silence, as a hang is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """A scenario that was carried out. `document`: of `understudy.emulation.report.Outcome`."""

    name: str
    about: str
    document: dict[str, Any]
    slots: Sequence[Slot]

    @property
    def faults(self) -> list[dict[str, Any]]:
        return [fault for fault in self.document["faults"] if fault["action"] not in REPAIRING]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A scenario that could not be carried out."""

    name: str
    reason: str


def worst(faults: Iterable[dict[str, Any]], key: str) -> float | None:
    """The largest of the times that are known."""
    return max((fault[key] for fault in faults if fault[key] is not None), default=None)


def figures(runs: Sequence[Rehearsed], failed: Sequence[Failed]) -> list[Figure]:
    """Headlines: of each scenario the worst of its faults, and the frames of all."""
    found: list[Figure] = []
    for run in runs:
        names = ", ".join(dict.fromkeys(fault["action"] for fault in run.faults))
        note = f"the worst of {len(run.faults)}: {names}" if len(run.faults) > 1 else ""
        vanished = [fault for fault in run.faults if fault["action"] in VANISHING]
        if vanished:
            found += [
                figure(f"{run.name}: noticed", worst(vanished, "noticed_ms"), "ms", note=note),
                at_most(f"{run.name}: first answer", worst(vanished, "first_answer_ms"), HANG_MS, "ms", note=note),
                at_most(f"{run.name}: full accuracy again", worst(vanished, "full_ms"), HEAL_MS, "ms", note=note),
            ]
        found.append(figure(f"{run.name}: longest silence", worst(run.faults, "silence_ms"), "ms", note=note))
    documents = [run.document for run in runs]
    published = sum(each["published"] for each in documents)
    degraded = sum(sum(each["degraded"].values()) for each in documents)
    right = sum(each["degraded_right"] for each in documents)
    found += [
        none_of("frames lost", _total(documents, "lost"), note=f"of {published}"),
        none_of("answered twice", _total(documents, "answered_twice")),
        none_of("wrong without a label", _total(documents, "wrong")),
        none_of("answered with an error", sum(sum(each["errors"].values()) for each in documents)),
        figure("sent again by heads", _total(documents, "sent_again")),
        figure("degraded answers", degraded, note=f"{right} of them right all the same"),
        figure("cores busy", max((100 * (each["cpu_busy"] or 0) for each in documents), default=None), "%, at most"),
        none_of("scenarios that could not be carried out", len(failed), note="; ".join(one.name for one in failed)),
    ]
    return found


def details(runs: Sequence[Rehearsed], failed: Sequence[Failed]) -> dict[str, Any]:
    """All that was measured, as JSON values; METHODOLOGY.md lists the fields."""
    return {
        "slot_s": SLOT_S,
        "scenarios": [{"name": run.name, "about": run.about, **run.document, "series": run.slots} for run in runs],
        "failed": [asdict(one) for one in failed],
    }


def _total(documents: Iterable[dict[str, Any]], key: str) -> int:
    return sum(document[key] for document in documents)


def show(console: Console, runs: Sequence[Rehearsed], failed: Sequence[Failed]) -> None:
    table = Table(title="faults, ms after the engine had done them", title_justify="left")
    for column in ("scenario", "fault"):
        table.add_column(column)
    for column, _ in _COLUMNS:
        table.add_column(column, justify="right")
    for column in ("lost", "twice", "wrong", "busy"):
        table.add_column(column, justify="right")
    for run in runs:
        document = run.document
        counts = [str(document[key]) for key in ("lost", "answered_twice", "wrong")]
        busy = document["cpu_busy"]
        tail = [*counts, "-" if busy is None else f"{busy:.0%}"]
        for number, fault in enumerate(run.faults):
            cells = [cell(fault) for _, cell in _COLUMNS]
            first = number == 0
            table.add_row(
                run.name if first else "", f"{fault['action']} {fault['who']}", *cells, *(tail if first else [])
            )
    console.print(table)
    for run in runs:
        for note in (*run.document["notes"], *(fault["note"] for fault in run.faults if fault["note"])):
            console.print(f"[yellow]{run.name}: {note}[/]", highlight=False)
    for one in failed:
        console.print(f"[red]{one.name} could not be carried out:[/] {one.reason}", highlight=False)


def _ms(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda fault: "-" if fault[key] is None else f"{fault[key]:.0f}"


def _sent_again(fault: dict[str, Any]) -> str:
    return "-" if fault["journal"] is None else str(fault["journal"]["sent_again"])


def _degraded(fault: dict[str, Any]) -> str:
    names = ", ".join(f"{count} {name}" for name, count in fault["degraded"].items())
    return f"{names} ({fault['degraded_right']} right)" if names else "0"


_COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("noticed", _ms("noticed_ms")),
    ("first answer", _ms("first_answer_ms")),
    ("full accuracy", _ms("full_ms")),
    ("silence", _ms("silence_ms")),
    ("sent again", _sent_again),
    ("degraded", _degraded),
)
