"""Driver: several nodes at once: every pair of five, and all but one."""

from __future__ import annotations

from itertools import combinations

from bench.recovery.cases import Case
from bench.recovery.cluster import FaultyCluster, Ready
from bench.recovery.faults import CALM_S, Row, fail, repeat, restore
from bench.recovery.stream import Stream

NODES = 5


async def measure_pairs(case: Case, *, most: int | None, rate_per_s: float) -> tuple[Row, Row]:
    """Every pair of nodes killed at once, and for each node all the others. `most`: of each, so many only."""
    pairs = Row(name=f"two of {NODES}", techniques=())
    others = Row(name=f"all but one of {NODES}", techniques=())
    for row, count in ((pairs, 2), (others, NODES - 1)):

        async def do(
            cluster: FaultyCluster, stream: Stream, ready: Ready, places: tuple[int, ...], row: Row = row
        ) -> None:
            await stream.run_for(CALM_S[0])
            victims = [list(ready.stages)[place] for place in places]
            row.faults.append(await fail(cluster, stream, ready, victims))
            await restore(cluster, stream, victims)

        sets = _spread(list(combinations(range(NODES), count)), most)
        await repeat(case, row, sets, do, nodes=NODES, rate_per_s=rate_per_s)
    return pairs, others


def _spread(sets: list[tuple[int, ...]], most: int | None) -> list[tuple[int, ...]]:
    """At most so many of them, evenly."""
    if most is None or most >= len(sets):
        return sets
    return [sets[round(place * (len(sets) - 1) / max(1, most - 1))] for place in range(most)]
