"""`solve` and `price`: the planner's front door."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np

from planner.chain import Chain
from planner.cluster import Cluster
from planner.codec import NONE, CodecCost
from planner.explain import explain
from planner.plan import NoPlanError, Objective, Plan, Stage, Step
from planner.problem import Problem, make_problem
from planner.search import Search, busy, durations
from planner.walk import Visit


def solve(
    chain: Chain,
    cluster: Cluster,
    *,
    objective: Objective = "bottleneck",
    stages: int | None = None,
    time_limit_s: float = 10.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Plan:
    """The best split and placement, and a proof of how good it is.

    Args:
        objective: what is minimised first. `bottleneck`: then latency, then the number of nodes. `latency`: then the
            number of nodes.
        stages: exactly so many; None leaves the number to the planner. One node is a legal plan.
        time_limit_s: after this the best plan found and the bound proven so far are returned. One pass may overrun it.

    Returns:
        The same plan for the same arguments, unless the time ran out.

    Raises:
        NoPlanError: nothing fits; says what stands in the way.
        GaveUpError: the time ran out before a plan was found.
    """
    started = clock()
    problem = make_problem(chain, cluster)
    limit = min(chain.blocks, len(cluster.nodes))
    if stages is not None and not 1 <= stages <= limit:
        raise NoPlanError(explain(chain, cluster, stages, deadline_s=started + time_limit_s, clock=clock))
    search = Search(problem, stages=stages, deadline_s=started + time_limit_s, clock=clock)
    found = search.least_bottleneck() if objective == "bottleneck" else search.least_latency()
    if found is None:
        raise NoPlanError(explain(chain, cluster, stages, deadline_s=started + time_limit_s, clock=clock))
    nodes = _names(problem, cluster, found.visits)
    plan = _plan(chain, problem, found.visits, nodes)
    return replace(plan, objective=objective, lower_bound_s=found.lower_bound_s, solve_s=clock() - started)


def price(chain: Chain, cluster: Cluster, stages: Sequence[Stage]) -> Plan:
    """A given plan with its steps, bottleneck and latency. Nothing is proven of it: its bound is 0.

    Raises:
        NoPlanError: the stages do not cover the chain, one is empty, a node is not there or there twice, a stage does
            not fit its node, or a link is missing. Says which.
    """
    borders = [0, *(stage.end_block for stage in stages)]
    if [stage.first_block for stage in stages] != borders[:-1] or borders[-1] != chain.blocks:
        raise NoPlanError(f"the given stages do not cover blocks 0 to {chain.blocks - 1} of '{chain.name}' in order")
    if empty := [stage for stage in stages if stage.end_block <= stage.first_block]:
        raise NoPlanError(f"the given stage on node '{empty[0].node}' is empty")
    names = [stage.node for stage in stages]
    if wrong := [name for name in names if name not in cluster.names or names.count(name) > 1]:
        why = "has two of the given stages" if wrong[0] in cluster.names else "of a given stage is not there"
        raise NoPlanError(f"node '{wrong[0]}' {why}")
    problem = make_problem(chain, cluster)
    class_of = {cluster.names[node]: index for index, group in enumerate(problem.members) for node in group}
    visits = [Visit(class_of[stage.node], stage.first_block, stage.end_block) for stage in stages]
    plan = _plan(chain, problem, visits, names)
    for step in plan.steps:
        if np.isinf(step.seconds):
            raise NoPlanError(f"the given plan is impossible: {_obstacle(chain, cluster, step, stages)}")
    return plan


def _obstacle(chain: Chain, cluster: Cluster, step: Step, stages: Sequence[Stage]) -> str:
    if step.kind == "transfer":
        return f"the {step.size_bytes} bytes of cut {step.cut} cannot go from {step.node} to {step.to}"
    [stage] = [stage for stage in stages if stage.node == step.node]
    needed = chain.stage_memory_bytes(stage.first_block, stage.end_block)
    limit = cluster.nodes[cluster.names.index(step.node)].memory_bytes
    blocks = f"blocks {stage.first_block} to {stage.end_block - 1}"
    return f"{blocks} need {needed} bytes, and node '{step.node}' has {limit}"


def _plan(chain: Chain, problem: Problem, visits: Sequence[Visit], nodes: Sequence[str]) -> Plan:
    """Priced, and no more."""
    seconds, busy_s = durations(problem, visits), busy(problem, visits)
    codecs = _codecs(chain, problem, visits)
    return Plan(
        stages=tuple(
            Stage(first_block=visit.start, end_block=visit.end, node=node, codec=NONE if codec is None else codec.name)
            for visit, node, codec in zip(visits, nodes, codecs, strict=True)
        ),
        steps=_steps(chain, visits, nodes, list(zip(seconds, busy_s, strict=True)), codecs),
        bottleneck_s=max(busy_s),
        latency_s=float(np.sum(seconds)),
    )


def _names(problem: Problem, cluster: Cluster, visits: Sequence[Visit]) -> list[str]:
    """A node for each visit: the members of a class in the cluster's order."""
    members = [iter(group) for group in problem.members]
    return [cluster.names[next(members[visit.node])] for visit in visits]


def _codecs(chain: Chain, problem: Problem, visits: Sequence[Visit]) -> list[CodecCost | None]:
    """What the activation goes through that each visit begins with; None: nothing."""
    numbers = [0] + [int(problem.codec[after.start, before.node, after.node]) for before, after in pairwise(visits)]
    return [chain.codecs[number - 1] if number else None for number in numbers]


def _steps(
    chain: Chain,
    visits: Sequence[Visit],
    nodes: Sequence[str],
    times: Sequence[tuple[float, float]],
    codecs: Sequence[CodecCost | None],
) -> tuple[Step, ...]:
    """`times`: of every step how long it takes, and for how long something is busy with it."""
    ways: list[tuple[Literal["compute", "transfer"], str, str, int]] = [("transfer", "source", nodes[0], 0)]
    for index, (visit, node) in enumerate(zip(visits, nodes, strict=True)):
        to = nodes[index + 1] if index + 1 < len(nodes) else "sink"
        ways += [("compute", node, node, visit.start), ("transfer", node, to, visit.end)]
    by_cut = {visit.start: codec for visit, codec in zip(visits, codecs, strict=True) if codec is not None}
    return tuple(
        Step(
            kind=kind,
            node=node,
            to=to,
            cut=cut,
            size_bytes=_sent_bytes(chain, cut, by_cut.get(cut)) if kind == "transfer" else 0,
            seconds=seconds,
            busy_s=busy_s,
            codec=by_cut[cut].name if kind == "transfer" and cut in by_cut else NONE,
        )
        for (kind, node, to, cut), (seconds, busy_s) in zip(ways, times, strict=True)
    )


def _sent_bytes(chain: Chain, cut: int, codec: CodecCost | None) -> int:
    if cut == 0:
        return chain.published_bytes
    return round(chain.cut_bytes[cut] * (1.0 if codec is None else codec.ratio[cut]))
