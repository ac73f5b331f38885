"""Runs the methods on instances and keeps what came out, as plain records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np

from bench.planner import instances
from bench.planner.cost import Costs, Part, Parts
from bench.planner.greedy import greedy_best, greedy_first
from bench.planner.instances import Family, Instance
from bench.planner.naive import naive
from bench.planner.random_plan import random_plan
from bench.planner.seifer import seifer
from planner.chain import Chain
from planner.plan import GaveUpError, NoPlanError, Plan
from planner.solve import solve

METHODS = ("random", "random x100", "greedy", "greedy xn", "seifer")
TOLERANCE = 1e-9

CERTIFY_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is run. Counts of seeds by number of nodes; `naive_nodes` for the exact method of comparison."""

    published_seeds: int
    seeds: dict[int, int]
    chains_at_200: int
    mild_nodes: tuple[int, ...]
    naive_nodes: tuple[int, ...]
    replans: int
    hard: tuple[tuple[int, int], ...]
    hard_seeds: int
    limit_s: float
    hard_limit_s: float


QUICK = Effort(
    published_seeds=1,
    seeds={20: 1, 50: 1, 200: 1},
    chains_at_200=2,
    mild_nodes=(20,),
    naive_nodes=(6,),
    replans=4,
    hard=((20, 60),),
    hard_seeds=1,
    limit_s=CERTIFY_S,
    hard_limit_s=2.0,
)
FULL = Effort(
    published_seeds=8,
    seeds={20: 3, 50: 3, 200: 1},
    chains_at_200=10,
    mild_nodes=(20, 50),
    naive_nodes=(6, 8),
    replans=20,
    hard=((20, 60), (20, 200), (50, 60)),
    hard_seeds=2,
    limit_s=10.0,
    hard_limit_s=3.0,
)


@dataclass(slots=True, kw_only=True)
class Record:
    """One instance. Seconds of a frame end in `_s` as the planner's do; `solve_s` is the planner's own time.

    Attributes:
        outcome: `planned`; `one node` where the model fits on one and nothing counts there (every method is perfect,
            so it is left out of the ratios); `no plan` where the planner says that none exists.
        values: the bottleneck of the methods' plans; None: it found none.
        certified: 200 nodes: a gap of at most 1 % after 3 s.
        naive_s: time of the naive exact method where it was run.
        faults: what must not be; see `_check`.
    """

    family: Family
    nodes: int
    memory: str
    chain: str
    blocks: int
    seed: int
    outcome: str = "planned"
    stages: int = 0
    bottleneck_s: float = 0.0
    lower_bound_s: float = 0.0
    gap: float = 0.0
    proven: bool = True
    solve_s: float = 0.0
    limit_s: float = inf
    certified: bool | None = None
    values: dict[str, float | None] = field(default_factory=dict)
    naive_s: float | None = None
    faults: list[str] = field(default_factory=list)

    def ratio(self, method: str) -> float | None:
        """To the optimum; None where the method has no plan, or the optimum is not known or 0."""
        value = self.values.get(method)
        return value / self.bottleneck_s if value is not None and self.proven and self.bottleneck_s > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replan:
    """Solving again after a change of a cluster of 20 nodes."""

    change: str
    solve_s: float
    proven: bool


@dataclass(slots=True)
class Measured:
    published: list[Record] = field(default_factory=list)
    heterogeneous: list[Record] = field(default_factory=list)
    hard: list[Record] = field(default_factory=list)
    naive: list[Record] = field(default_factory=list)
    replans: list[Replan] = field(default_factory=list)

    def all(self) -> Iterator[Record]:
        yield from (*self.published, *self.heterogeneous, *self.hard, *self.naive)


def measure(effort: Effort, seed: int, progress: Callable[[str], None]) -> Measured:
    """Everything; `progress` is told what begins."""
    chains = instances.light_chains()
    synthetic = instances.synthetic_chain(60, 600 * instances.MB, seed)
    measured = Measured()
    progress("SEIFER's distribution")
    seeds = range(seed, seed + effort.published_seeds)
    every = instances.published_set([*chains, synthetic], (5, 10, 20, 50), (64, 128, 256, 512), seeds)
    measured.published = [run(instance, limit_s=effort.limit_s) for instance in every]
    progress("heterogeneous clusters")
    for nodes, count in effort.seeds.items():
        kept = [*chains, synthetic] if nodes < 200 else [synthetic, *reversed(chains)][: effort.chains_at_200]
        for star, mild in ((False, False), (True, False), (False, True)):
            if mild and nodes not in effort.mild_nodes:
                continue
            for chain in kept:
                for number in range(seed, seed + count):
                    instance = instances.heterogeneous(chain, nodes, number, star=star, mild=mild)
                    measured.heterogeneous.append(run(instance, limit_s=effort.limit_s))
    progress("the naive exact method")
    for nodes in effort.naive_nodes:
        for chain in (chain for chain in chains if chain.blocks <= 20):
            measured.naive.append(compare_with_naive(instances.heterogeneous(chain, nodes, seed, star=False)))
    progress("changes of a cluster")
    for number in range(effort.replans):
        measured.replans += replan(chains[number % len(chains)], seed + number)
    progress("hard instances")
    for nodes, blocks in effort.hard:
        for kind in instances.HARD:
            for number in range(seed, seed + effort.hard_seeds):
                instance = instances.hard(kind, nodes, blocks, number)
                measured.hard.append(run(instance, limit_s=effort.hard_limit_s))
    return measured


def run(instance: Instance, *, limit_s: float, methods: Sequence[str] = METHODS) -> Record:
    """Our plan and those of the other methods."""
    record = _record(instance, limit_s)
    costs = Costs(instance.chain, instance.cluster)
    if instance.family == "published" and any(costs.reach(0, node) == costs.blocks for node in range(costs.nodes)):
        record.outcome = "one node"
        return record
    plan = _solve(instance, record, limit_s)
    for method in methods:
        parts = call(method, costs, instance.seed)
        record.values[method] = None if parts is None else costs.bottleneck_s(parts)
    if plan is not None and instance.nodes == 200:
        record.certified = _certified(instance, record)
    _check(record, costs, plan)
    if record.outcome == "no plan" and instance.memory == "planted":
        record.faults.append("the planner says that there is no plan, and one was planted")
    return record


def call(method: str, costs: Costs, seed: int) -> Parts | None:
    """A method by its name."""
    if method == "random":
        return random_plan(costs, np.random.default_rng(seed))
    if method == "random x100":
        return random_plan(costs, np.random.default_rng(seed), plans=100)
    return {"greedy": greedy_first, "greedy xn": greedy_best, "seifer": seifer, "naive": naive}[method](costs)


def compare_with_naive(instance: Instance) -> Record:
    record = _record(instance, inf)
    costs = Costs(instance.chain, instance.cluster)
    plan = _solve(instance, record, 60.0)
    started_s = time.perf_counter()
    parts = naive(costs)
    record.naive_s = time.perf_counter() - started_s
    record.values["naive"] = None if parts is None else costs.bottleneck_s(parts)
    _check(record, costs, plan)
    if parts is not None and record.bottleneck_s > costs.bottleneck_s(parts) * (1 + TOLERANCE):
        record.faults.append("the naive exact method has a better plan")
    return record


def replan(chain: Chain, seed: int) -> list[Replan]:
    """20 nodes: a node of the plan is lost; its slowest link, or its first one, has half the bandwidth."""
    instance = instances.heterogeneous(chain, 20, seed, star=False)
    try:
        plan = solve(instance.chain, instance.cluster)
    except NoPlanError:
        return []
    changed = [("a node is lost", instances.without(instance, plan.nodes[len(plan.nodes) // 2]))]
    hops = [step for step in plan.steps if step.kind == "transfer" and {step.node, step.to} <= set(plan.nodes)]
    if hops:
        slowest = max(hops, key=lambda step: step.busy_s)
        changed.append(("a link is slower", instances.slower_link(instance, slowest.node, slowest.to, 0.5)))
    found = []
    for change, after in changed:
        record = _record(after, 10.0)
        if _solve(after, record, 10.0) is not None:
            found.append(Replan(change=change, solve_s=record.solve_s, proven=record.proven))
    return found


def parts_of(plan: Plan, instance: Instance) -> Parts:
    names = instance.cluster.names
    return tuple(Part(stage.first_block, stage.end_block, names.index(stage.node)) for stage in plan.stages)


def _record(instance: Instance, limit_s: float) -> Record:
    return Record(
        family=instance.family,
        nodes=instance.nodes,
        memory=instance.memory,
        chain=instance.chain.name,
        blocks=instance.chain.blocks,
        seed=instance.seed,
        limit_s=limit_s,
    )


def _solve(instance: Instance, record: Record, limit_s: float) -> Plan | None:
    started_s = time.perf_counter()
    try:
        plan = solve(instance.chain, instance.cluster, time_limit_s=limit_s)
    except NoPlanError as error:
        record.outcome = "gave up" if isinstance(error, GaveUpError) else "no plan"
        record.solve_s = time.perf_counter() - started_s
        return None
    record.solve_s = time.perf_counter() - started_s
    record.stages = len(plan.stages)
    record.bottleneck_s, record.lower_bound_s = plan.bottleneck_s, plan.lower_bound_s
    record.gap, record.proven = plan.gap, plan.proven
    costs = Costs(instance.chain, instance.cluster)
    value = costs.bottleneck_s(parts_of(plan, instance))
    if not np.isclose(value, plan.bottleneck_s, rtol=TOLERANCE, atol=0):
        record.faults.append(f"the plan's bottleneck is {value}, not {plan.bottleneck_s}")
    return plan


def _certified(instance: Instance, record: Record) -> bool:
    if record.limit_s <= CERTIFY_S or (record.proven and record.solve_s <= CERTIFY_S):
        return record.gap <= 0.01
    again = replace(record, values={}, faults=[])
    _solve(instance, again, CERTIFY_S)
    return again.gap <= 0.01


def _check(record: Record, costs: Costs, plan: Plan | None) -> None:
    """No plan may be better than a proven bound, and none may exist where the planner says that there is none."""
    for method, value in record.values.items():
        if value is None:
            continue
        if plan is None:
            record.faults.append(f"{method} has a plan of {value} s where the planner says that there is none")
        elif value < record.lower_bound_s * (1 - TOLERANCE):
            record.faults.append(f"{method} has a plan of {value} s, below the bound {record.lower_bound_s} s")
    assert plan is None or costs.blocks == plan.stages[-1].end_block
