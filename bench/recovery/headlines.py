"""What of `bench.recovery` goes into the report of all benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

from bench.document import Figure, at_most, none_of
from bench.recovery.faults import Row
from bench.recovery.figures import Spread
from bench.recovery.report import FIRST_MS, HANG_MS, HEAL_MS

CHOSEN = ("crash, as chosen", "hang, as chosen")
"""Rows in which nothing was forced: what a user has."""


def headlines(subject: str, rows: Sequence[Row]) -> list[Figure]:
    """Of one subject."""
    found: list[Figure] = []
    for row in rows:
        if row.name not in CHOSEN:
            continue
        first, full = (
            Spread.of(values) for values in ([f.first_ms for f in row.faults], [f.full_ms for f in row.faults])
        )
        limit_ms = HANG_MS if row.name.startswith("hang") else FIRST_MS
        name, note = f"{subject}, {row.name.partition(',')[0]}", f"{first.count} times"
        found.append(at_most(f"{name}: first answer", first.p95, limit_ms, "ms, p95", note=note))
        found.append(at_most(f"{name}: full accuracy again", full.p95, HEAL_MS, "ms, p95", note=note))
    sent = sum(row.tally.sent for row in rows)
    found += [
        none_of(f"{subject}: frames lost", sum(row.tally.lost for row in rows), note=f"of {sent}"),
        none_of(f"{subject}: answered twice", sum(row.tally.doubled for row in rows)),
        none_of(f"{subject}: wrong without a label", sum(row.tally.wrong for row in rows)),
        none_of(f"{subject}: got stuck", sum(len(row.stuck) for row in rows)),
    ]
    return found
