"""A small pipeline and its parts, for the tests of what recovery chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from planner.chain import Chain
from planner.cluster import NodeSpec
from planner.part import SEVERITY, Part, Technique, stage_part
from planner.plan import Plan, Stage
from recovery.contingency import Setup
from recovery.estimates import Accuracy, Estimates
from recovery.objectives import Objectives, Weights
from recovery.options import Option, Placed, evaluate, stages_of
from tests.unit.planner_reference import make_chain

HEALTHY = Accuracy(value=0.9, low=0.88, high=0.92)

CHAIN = make_chain((10,) * 7, memory=(1_000_000,) * 6, peak=(0,) * 6, flops=(10_000_000,) * 6)
"""Six blocks, which three nodes share; each block takes 10 ms at `SPEED`."""

SPEED = 1e9

NODES = ("a", "b", "c")

PLAN = Plan(stages=tuple(Stage(first_block=2 * i, end_block=2 * i + 2, node=node) for i, node in enumerate(NODES)))

ESTIMATES = Estimates(chain=CHAIN, healthy=HEALTHY, speeds=dict.fromkeys((*NODES, "d", "e"), SPEED))


def part(technique: Technique, first: int, end: int, accuracy: float | None = None, **facts: Any) -> Part:
    return Part(technique=technique, first_block=first, end_block=end, accuracy=accuracy, **facts)


def spot(node: str, technique: Technique, first: int, end: int, accuracy: float | None = None, **facts: Any) -> Placed:
    return Placed(part=part(technique, first, end, accuracy, **facts), node=node)


STANDBY = spot("c", "standby", 2, 4, flops=20_000_000)
STAND_IN = spot("a", "stand-in", 2, 4, 0.85, flops=5_000_000)
SKIP = spot("a", "skip", 2, 4, 0.5)
EXIT = spot("a", "exit", 2, 6, 0.7, flops=1_000_000)

STAGES = stages_of(PLAN, CHAIN)


def standbys(plan: Plan, chain: Chain) -> list[Part]:
    """A catalogue: a standby in full precision for every stage."""
    return [stage_part(chain, stage.first_block, stage.end_block, "standby") for stage in plan.stages]


def specs(*names: str, memory: int | None = None) -> tuple[NodeSpec, ...]:
    return tuple(NodeSpec(name=name, memory_bytes=memory) for name in names)


def make_setup(*spares: Placed, objectives: Objectives | None = None, **changes: Any) -> Setup:
    setup = Setup(
        route=STAGES,
        spares=spares,
        nodes=specs(*NODES),
        head="a",
        estimates=ESTIMATES,
        objectives=objectives or Objectives(),
    )
    return replace(setup, **changes)


def every_path(placed: Sequence[Placed], blocks: int, alive: frozenset[str]) -> Iterator[tuple[Placed, ...]]:
    """All of them, one by one: the reference."""

    def onward(cut: int, hops: tuple[Placed, ...]) -> Iterator[tuple[Placed, ...]]:
        if cut == blocks:
            yield hops
            return
        for place in dict.fromkeys(placed):
            if place.part.first_block == cut and place.node in alive:
                yield from onward(place.part.end_block, (*hops, place))

    return onward(0, ())


def every_option(
    placed: Sequence[Placed], alive: frozenset[str], head: str | None, estimates: Estimates
) -> list[Option]:
    blocks = estimates.chain.blocks
    return [evaluate(hops, head or hops[0].node, estimates) for hops in every_path(placed, blocks, alive)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Estimates, tuple[Placed, ...], tuple[str, ...]]:
    """A chain of a few blocks, parts anywhere on four nodes, with measured and unknown accuracies."""
    blocks = draw(st.integers(2, 4))
    flops = draw(st.lists(st.integers(0, 50), min_size=blocks, max_size=blocks))
    chain: Chain = make_chain((10,) * (blocks + 1), memory=(10,) * blocks, peak=(1,) * blocks, flops=flops)
    nodes = ("a", "b", "c", "d")
    stages = [
        spot(draw(st.sampled_from(nodes)), "none", cut, cut + 1, flops=chain.block_flops[cut]) for cut in range(blocks)
    ]
    spares = []
    for _ in range(draw(st.integers(0, 8))):
        technique = draw(st.sampled_from(SEVERITY[1:]))
        first = draw(st.integers(0, blocks - 1))
        end = blocks if technique == "exit" else draw(st.integers(first + 1, blocks))
        accuracy = draw(st.none() | st.integers(1, 20).map(lambda share: share / 20))
        flops_of = draw(st.integers(0, 60))
        spares.append(spot(draw(st.sampled_from(nodes)), technique, first, end, accuracy, flops=flops_of))
    healthy = draw(st.sampled_from([None, HEALTHY]))
    speeds = {node: draw(st.sampled_from([1.0e3, 2.0e3])) for node in nodes}
    unique = {(place.part.name, place.node): place for place in (*stages, *spares)}
    return Estimates(chain=chain, healthy=healthy, speeds=speeds), tuple(unique.values()), nodes


@st.composite
def wishes(draw: st.DrawFn) -> Objectives:
    weight = st.integers(0, 4)
    accuracy, latency, downtime = draw(st.tuples(weight, weight, weight).filter(any))
    return Objectives(
        min_accuracy=draw(st.none() | st.sampled_from([0.3, 0.6, 0.8, 0.9])),
        max_latency_s=draw(st.none() | st.sampled_from([0.02, 0.05, 0.1])),
        max_downtime_s=draw(st.none() | st.sampled_from([0.03, 0.05, 0.3])),
        weights=Weights(accuracy=accuracy, latency=latency, downtime=downtime),
        techniques=frozenset((*draw(st.sets(st.sampled_from(SEVERITY))), "repartition")),
    )
