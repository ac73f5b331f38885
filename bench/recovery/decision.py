"""Driver: how long it takes to decide, in this process alone, over every failure of plans of 4, 8 and 20 nodes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from bench.recovery.figures import Spread
from planner.chain import Chain
from planner.cluster import NodeSpec
from planner.part import Part, Technique, stage_part
from planner.plan import Plan, Stage
from recovery.contingency import Setup, choose_for, prepare
from recovery.estimates import Accuracy, Estimates
from recovery.objectives import Objectives
from recovery.options import stages_of
from recovery.spares import place_spares

BLOCKS_PER_STAGE = 3
BLOCK_BYTES = 1_000_000
BLOCK_FLOPS = 10_000_000
HEALTHY = 0.9
NODES = (4, 8, 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """Of one plan, in milliseconds.

    Attributes:
        options: of one failure, in the mean.
        looked_up: what is done when a node is lost: the table is asked.
        on_the_spot: the same without the table.
        pairs: two nodes at once, as it is done: from the table up to 8 nodes, else on the spot.
        prepare_ms: making the table, which nobody waits for.
    """

    nodes: int
    spares: int
    looked_up: Spread
    on_the_spot: Spread
    pairs: Spread
    prepare_ms: float


def measure_decisions(repeats: int) -> list[Decisions]:
    """Each failure `repeats` times. Only the time of the decision itself."""
    return [_measure(count, repeats) for count in NODES]


def make_setup(count: int) -> Setup:
    """A plan of so many nodes with every kind of part that there is for each of its stages, all of them loaded."""
    blocks = BLOCKS_PER_STAGE * count
    chain = Chain(
        name="even",
        cut_bytes=(60_000,) * (blocks + 1),
        block_memory_bytes=(BLOCK_BYTES,) * blocks,
        block_peak_bytes=(200_000,) * blocks,
        block_flops=(BLOCK_FLOPS,) * blocks,
    )
    names = [f"node{number}" for number in range(1, count + 1)]
    stages = [
        Stage(first_block=BLOCKS_PER_STAGE * place, end_block=BLOCKS_PER_STAGE * (place + 1), node=name)
        for place, name in enumerate(names)
    ]
    plan = Plan(stages=tuple(stages))
    nodes = tuple(NodeSpec(name=name) for name in names)
    estimates = Estimates(
        chain=chain, healthy=Accuracy(value=HEALTHY, low=0.88, high=0.92), speeds=dict.fromkeys(names, 1e9)
    )
    objectives = Objectives()
    spares = place_spares(plan, _catalogue(chain, plan), nodes, estimates, objectives)
    return Setup(
        route=stages_of(plan, chain),
        spares=tuple(spares),
        nodes=nodes,
        head=names[0],
        standby_head=names[1],
        estimates=estimates,
        objectives=objectives,
    )


def _catalogue(chain: Chain, plan: Plan) -> list[Part]:
    found = []
    for place, stage in enumerate(plan.stages):
        first, end = stage.first_block, stage.end_block
        left = 0.8 + 0.1 * place / len(plan.stages)

        def part(
            technique: Technique, to: int, share: float, accuracy: float, variant: str = "", at: int = first
        ) -> Part:
            flops = round(share * (to - at) * BLOCK_FLOPS)
            size = round(share * (to - at) * BLOCK_BYTES)
            facts: dict[str, Any] = {"memory_bytes": size, "peak_bytes": 200_000, "flops": flops, "variant": variant}
            return Part(
                technique=technique, first_block=at, end_block=to, accuracy=accuracy,
                low=accuracy - 0.02, high=accuracy + 0.02, **facts,
            )  # fmt: skip

        found.append(stage_part(chain, first, end, "standby"))
        found += [part("standby", end, 0.25, 0.899, "int8"), part("standby", end, 0.125, 0.89, "int4")]
        found += [part("stand-in", end, 0.18, left, "small"), part("stand-in", end, 0.35, left + 0.02, "large")]
        found += [part("skip", end, 0.0, left - 0.3)]
        found += [part("exit", chain.blocks, 0.02, left - gap, kind) for kind, gap in (("small", 0.3), ("large", 0.1))]
    return found


def _measure(count: int, repeats: int) -> Decisions:
    setup = make_setup(count)
    started_s = time.perf_counter()
    contingency = prepare(setup)
    prepare_ms = (time.perf_counter() - started_s) * 1e3
    names = [node.name for node in setup.nodes]
    singles = [frozenset({name}) for name in names]
    pairs = [frozenset(pair) for pair in combinations(names, 2)]
    return Decisions(
        nodes=count,
        spares=len(setup.spares),
        looked_up=timed(contingency.answer, singles, 20 * repeats),
        on_the_spot=timed(lambda failed: choose_for(setup, failed), singles, repeats),
        pairs=timed(contingency.answer, pairs, max(1, repeats // 5)),
        prepare_ms=prepare_ms,
    )


def timed(decide: Callable[[frozenset[str]], object], failures: Sequence[frozenset[str]], repeats: int) -> Spread:
    """Each failure so many times: milliseconds of the decision alone."""
    found = []
    gc.collect()
    for _ in range(repeats):
        for failed in failures:
            started_s = time.perf_counter()
            decide(failed)
            found.append((time.perf_counter() - started_s) * 1e3)
    return Spread.of(found)
