"""What `bench.recovery` prints: each figure beside the one that is wanted, and the papers'."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bench.recovery.changes import Changes
from bench.recovery.decision import Decisions
from bench.recovery.faults import Fault, Row
from bench.recovery.figures import Spread, verdict
from bench.recovery.healthy import Healthy
from bench.recovery.hindsight import Hindsight

QUIET = 0.1
FIRST_MS, FIRST_MEDIAN_MS = 50.0, 20.0
HANG_MS = 150.0
HEAL_MS = 1000.0
DECISION_MS = 1.0
LATE_MS = 50.0
HINDSIGHT = 0.99
PAPER_DECISION = "1.83-16.82 ms"
PAPER_HINDSIGHT = "86.12-99.86 %"


def table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left", min_width=len(title) + 2)
    for place, column in enumerate(columns):
        made.add_column(column, justify="left" if place == 0 else "right")
    return made


def show_healthy(console: Console, found: Healthy, command: str) -> None:
    share = found.rate_per_s / found.most_per_s if found.most_per_s else math.nan
    console.print(
        f"{found.rate_per_s:.0f} frames/s, {share:.0%} of the {found.most_per_s:.0f} that the healthy pipeline takes"
        f" with two under way per stage", highlight=False,
    )  # fmt: skip
    made = table(f"nothing fails, ms ({command})", "figure", "times", "median", "p95", "p99", "largest")
    for name, spread in (
        ("latency of a frame", found.latency),
        ("longest silence in a second", found.silence),
        ("from any moment to the next answer", found.next),
    ):
        made.add_row(name, *_cells(spread, p99=True))
    console.print(made)
    console.print(_loads([found.row]))


def show_faults(console: Console, rows: Sequence[Row], command: str) -> None:
    made = table(
        f"first answer after a failure, ms ({command})",
        "row", "times", "bridged", "median", "p95", "largest", "silence p95", "wanted", "kept",
    )  # fmt: skip
    for row in rows:
        kept = _of_technique(row)
        spread = Spread.of(fault.first_ms for fault in kept)
        silence = Spread.of(fault.silence_ms for fault in kept)
        wanted, ok = _wanted_first(row, spread)
        made.add_row(row.name, *_cells(spread, bridged=_share_bridged(row)), f"{silence.p95:.1f}", wanted, ok)
    console.print(made)
    heals = table("full accuracy again, ms", "row", "times", "median", "p95", "largest", "wanted", "kept")
    for row in rows:
        spread = Spread.of(fault.full_ms for fault in row.faults)
        heals.add_row(row.name, *_cells(spread), f"p95 <= {HEAL_MS:.0f}", verdict(spread.p95, HEAL_MS))
    console.print(heals)
    places = table("first answer by what was lost, median ms", "row", *_roles(rows))
    for row in rows:
        places.add_row(row.name, *(_place(row, role) for role in _roles(rows)))
    console.print(places)
    console.print(_loads(rows))


def show_decisions(console: Console, live: Sequence[Fault], found: Sequence[Decisions], command: str) -> None:
    made = table(
        f"decision, ms; wanted: p99 <= {DECISION_MS:g}; CONTINUER: {PAPER_DECISION} ({command})",
        "what", "times", "median", "p95", "p99", "largest", "kept",
    )  # fmt: skip
    decided = Spread.of(max(0.0, fault.decided_ms) for fault in live if fault.decided_ms is not None)
    routed = Spread.of(fault.record["routed_ms"] for fault in live if fault.record.get("routed_ms") is not None)
    for name, spread in (("live: known to decided", decided), ("live: known to the route sent", routed)):
        made.add_row(name, *_cells(spread, p99=True, digits=3), verdict(spread.p99, DECISION_MS))
    for one in found:
        for name, spread in (
            (f"{one.nodes} nodes, from the table", one.looked_up),
            (f"{one.nodes} nodes, without it", one.on_the_spot),
            (f"{one.nodes} nodes, two at once", one.pairs),
        ):
            made.add_row(name, *_cells(spread, p99=True, digits=3), verdict(spread.p99, DECISION_MS))
    console.print(made)
    tables = ", ".join(f"{one.nodes} nodes {one.prepare_ms:.0f} ms ({one.spares} spares)" for one in found)
    console.print(f"making the table beforehand: {tables}")


def show_changes(console: Console, found: Sequence[Changes], command: str) -> None:
    made = table(
        f"the slowest frame around a change, less the p99 before it, ms ({command})",
        "change", "times", "median", "p95", "largest", "wanted", "kept",
    )  # fmt: skip
    for kind, values in [item for changes in found for item in changes.late_ms.items()]:
        spread = Spread.of(values)
        made.add_row(kind, *_cells(spread), f"<= {LATE_MS:.0f}", verdict(spread.largest, LATE_MS))
    console.print(made)
    console.print(_loads([changes.row for changes in found]))


def show_pairs(console: Console, rows: Sequence[Row], command: str) -> None:
    made = table(
        f"several nodes at once, ms ({command})", "row", "times", "answered", "first median", "largest", "full largest"
    )
    for row in rows:
        first, full = (Spread.of(values) for values in zip(*((f.first_ms, f.full_ms) for f in row.faults), strict=True))
        made.add_row(
            row.name, str(first.count), str(len(row.faults)), f"{first.median:.1f}", f"{first.largest:.1f}",
            f"{full.largest:.1f}",
        )  # fmt: skip
    console.print(made)
    ways = table("by what was lost", "lost", "first answer, ms", "technique", "full accuracy, ms")
    for fault in (fault for row in rows for fault in row.faults):
        ways.add_row(", ".join(fault.roles), f"{fault.first_ms:.1f}", fault.technique, f"{fault.full_ms:.0f}")
    console.print(ways)
    console.print(_loads(rows))


def show_hindsight(console: Console, found: Hindsight, command: str) -> None:
    made = table(
        f"each technique forced: estimated / measured ({command})",
        "lost", "technique", "times", "accuracy", "latency, ms", "first answer, ms",
    )  # fmt: skip
    for one in sorted(found.forced, key=lambda one: (int(one.role.split("-")[0]), one.technique)):
        made.add_row(
            one.role, one.technique, str(one.times),
            f"{one.estimated_accuracy:.4f} / {one.accuracy:.4f}",
            f"{one.estimated_latency_ms:.1f} / {one.latency_ms:.1f} ± {one.latency_noise_ms:.1f}",
            f"{one.estimated_downtime_ms:.1f} / {one.downtime_ms:.1f} ± {one.downtime_noise_ms:.1f}",
        )  # fmt: skip
    console.print(made)
    same, good = (count / found.decisions if found.decisions else math.nan for count in (found.same, found.as_good))
    console.print(
        f"{found.decisions} decisions: {same:.2%} chosen as in hindsight, {good:.2%} as good within 2 standard errors; "
        f"wanted >= {HINDSIGHT:.0%}: {verdict(same, HINDSIGHT, least=True)}; CONTINUER: {PAPER_HINDSIGHT}; "
        f"largest regret {found.regret:.4f}"
    )
    for line in found.wrong[:10]:
        console.print(f"  {line}", style="dim")


def show_frames(console: Console, rows: Sequence[Row]) -> bool:
    """All frames of all rows. True where none was lost, doubled or wrong, and nothing got stuck."""
    columns = ("row", "sent", "degraded", "lost", "doubled", "wrong", "unseen")
    made = table("frames; wanted: none lost, doubled or wrong", *columns)
    for row in rows:
        counts = (getattr(row.tally, name) for name in columns[1:])
        made.add_row(row.name, *map(str, counts))
    console.print(made)
    for row in rows:
        for fault in row.faults:
            if fault.logs:
                console.print(
                    f"{row.name}: {', '.join(fault.victims)} healed after {fault.full_ms:.0f} ms: {fault.logs}"
                )
        for why in row.stuck:
            console.print(f"[red]{row.name} got stuck[/] {why}")
        for note in row.tally.notes[:5]:
            console.print(f"[red]{row.name}:[/] {note}")
    return not any(row.tally.faults or row.stuck for row in rows)


def _of_technique(row: Row) -> list[Fault]:
    """The failures at which the technique that was forced was there."""
    if len(row.techniques) != 1 or row.techniques == ("repartition",):
        return row.faults
    return [fault for fault in row.faults if fault.technique == row.techniques[0]]


def _share_bridged(row: Row) -> str:
    return f"{len(_of_technique(row))} of {len(row.faults)}"


def _wanted_first(row: Row, spread: Spread) -> tuple[str, str]:
    if row.name.startswith("hang"):
        return f"p95 <= {HANG_MS:.0f}", verdict(spread.p95, HANG_MS)
    if row.techniques == ("repartition",):
        return "-", "-"
    both = {verdict(spread.p95, FIRST_MS), verdict(spread.median, FIRST_MEDIAN_MS)}
    ok = "no such part" if "-" in both else "yes" if both == {"yes"} else "no"
    return f"p95 <= {FIRST_MS:.0f}, median <= {FIRST_MEDIAN_MS:.0f}", ok


def _roles(rows: Sequence[Row]) -> list[str]:
    roles = {fault.roles[0] for row in rows for fault in row.faults}
    return sorted(roles, key=lambda role: (int(role.split("-")[0]), role))


def _place(row: Row, role: str) -> str:
    values = [fault.first_ms for fault in _of_technique(row) if fault.roles[0] == role]
    return f"{Spread.of(values).median:.1f} ({len(values)})" if values else "-"


def _cells(spread: Spread, *, p99: bool = False, digits: int = 1, bridged: str | None = None) -> list[str]:
    values = [spread.median, spread.p95, *([spread.p99] if p99 else []), spread.largest]
    counts = [str(spread.count), *([bridged] if bridged is not None else [])]
    return [*counts, *(f"{value:.{digits}f}" for value in values)]


def _loads(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        if row.load is not None:
            note = " [yellow](not a quiet machine)[/]" if row.load.others > QUIET else ""
            lines.append(
                f"  {row.name}: cores {row.load.busy:.0%} busy, {row.load.others:.0%} by others{note}, load average "
                f"{row.load.average:.1f}, frames published up to {row.late_ms:.1f} ms late (p99)"
            )
    return "\n".join(lines)
