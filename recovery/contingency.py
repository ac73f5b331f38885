"""What to do about each failure, decided before it happens.

`prepare` makes a table: for every node that the active route needs, and for every pair in clusters of up to
`MAX_PAIR_NODES` nodes, the best option. What is not in the table is decided by the same function on the spot. A node
that only holds spares or nothing changes nothing when it is lost, and is not in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

from planner.cluster import NodeSpec
from planner.plan import Plan
from recovery.estimates import Estimates
from recovery.objectives import Choice, Objectives, choose, rank
from recovery.options import Option, Placed, Repartition, evaluate, options, repartition, stages_of

MAX_PAIR_NODES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Everything that decides about a failure.

    Attributes:
        route: the path that frames take now.
        spares: everything else that nodes have loaded.
        nodes: those that are alive now.
        head: the node of the head.
        standby_head: the node that takes over from it; None: the first hop's of the option.
        estimates, objectives: see there.
        plans: by the nodes that are lost, the new plan for the others, where one was made before; for other losses it
            is estimated what one would be (`estimated_healing`).
    """

    route: tuple[Placed, ...]
    spares: tuple[Placed, ...]
    nodes: tuple[NodeSpec, ...]
    head: str
    estimates: Estimates
    objectives: Objectives
    standby_head: str | None = None
    plans: Mapping[frozenset[str], Plan] = field(default_factory=dict)

    @property
    def needed(self) -> frozenset[str]:
        """The nodes whose loss ends what runs now."""
        return frozenset({self.head, *(hop.node for hop in self.route)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Contingency:
    """The choice for each set of lost nodes that was foreseen, and what it was made from."""

    table: Mapping[frozenset[str], Choice]
    setup: Setup

    def answer(self, failed: frozenset[str]) -> Choice | None:
        """The choice that was prepared, else one made now; None: nothing needs to change, or nothing can be done."""
        found = self.table.get(failed)
        return found if found is not None else choose_for(self.setup, failed)


def prepare(setup: Setup) -> Contingency:
    """The choices for every single failure, and for pairs in small clusters."""
    names = sorted({node.name for node in setup.nodes})
    foreseen = [frozenset({name}) for name in names]
    if len(names) <= MAX_PAIR_NODES:
        foreseen += [frozenset(pair) for pair in combinations(names, 2)]
    table = {}
    for failed in foreseen:
        choice = choose_for(setup, failed)
        if choice is not None:
            table[failed] = choice
    return Contingency(table=table, setup=setup)


def choose_for(setup: Setup, failed: frozenset[str]) -> Choice | None:
    """The best option when these nodes are lost; None: nothing needs to change, or nothing can be done."""
    if setup.needed.isdisjoint(failed):
        return None
    return choose(ways(setup, failed), setup.objectives)


def ranked(setup: Setup, failed: frozenset[str]) -> list[Choice]:
    """All options when these nodes are lost that the objectives allow, the best first, with their scores."""
    return rank(ways(setup, failed), setup.objectives)


def ways(setup: Setup, failed: frozenset[str]) -> list[Option]:
    """All options when these nodes are lost, a repartition included where the survivors can have a plan."""
    left = tuple(node for node in setup.nodes if node.name not in failed)
    alive = frozenset(node.name for node in left)
    head = next((name for name in (setup.head, setup.standby_head) if name in alive), None)
    found = options(
        (*setup.route, *setup.spares),
        setup.estimates.chain.blocks,
        alive,
        setup.estimates,
        head=head,
        techniques=setup.objectives.techniques,
    )
    if not left:
        return found
    plan = setup.plans.get(failed)
    healing = estimated_healing(setup, failed) if plan is None else foreseen_healing(setup, plan, head or "")
    if healing is not None:
        found.append(repartition(healing, head or "", setup.estimates))
    return found


def estimated_healing(setup: Setup, failed: frozenset[str]) -> Repartition | None:
    """A new plan without solving for it: the survivors share the weights evenly, one of them takes at least the largest
    stage that is lost, and a frame takes as long as before. None where their memory cannot hold the weights."""
    chain = setup.estimates.chain
    left = [node for node in setup.nodes if node.name not in failed]
    total = sum(chain.block_memory_bytes)
    limits = [node.memory_bytes for node in left]
    if not left or (None not in limits and sum(limit or 0 for limit in limits) < total):
        return None
    lost = [
        sum(chain.block_memory_bytes[hop.part.first_block : hop.part.end_block])
        for hop in setup.route
        if hop.node in failed
    ]
    return Repartition(
        load_bytes=max([total // len(left), *lost]),
        latency_s=evaluate(setup.route, setup.head, setup.estimates).latency_s,
    )


def foreseen_healing(setup: Setup, plan: Plan, head: str) -> Repartition:
    """What a plan that is made already will be, with this head."""
    stages = stages_of(plan, setup.estimates.chain)
    return Repartition(
        load_bytes=max(spot.part.memory_bytes for spot in stages),
        latency_s=evaluate(stages, head or stages[0].node, setup.estimates).latency_s,
        planned=True,
    )
