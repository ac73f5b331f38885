"""Deploys the plans of all methods on one emulated cluster, one after the other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.deployed import Effort, Measured, NotMeasuredError, deploy
from bench.networks import chain_of, network
from bench.placement.plans import OURS, SPREAD, Candidate, candidates, cluster_of, with_memories
from bench.scaling.points import ROOM
from planner.chain import Chain
from planner.cluster import Cluster
from understudy.emulation.errors import EmulationError
from understudy.emulation.links import with_machines
from understudy.emulation.preparation import Wishes


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One network on one cluster."""

    model: str
    bandwidth: str
    nodes: int
    seed: int

    @property
    def title(self) -> str:
        return f"{self.model}, {self.bandwidth}, {self.nodes} nodes, seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One method's plan. `measured` None: `reason` says why. `same`: the plan is ours, and was not deployed again."""

    method: str
    measured: Measured | None = None
    reason: str = ""
    same: bool = False

    @property
    def comparable(self) -> Measured | None:
        return None if self.measured is None or self.measured.cpu_bound else self.measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """`randoms`: random plans for each series; `twice`: ours is deployed again at the end, against drift."""

    models: tuple[str, ...]
    bandwidths: tuple[str, ...]
    nodes: int
    seeds: int
    randoms: int
    twice: bool
    methods: tuple[str, ...]
    effort: Effort


METHODS = ("seifer", "greedy", "random")
QUICK = Scope(
    models=("resnet50",),
    bandwidths=(SPREAD,),
    nodes=5,
    seeds=1,
    randoms=1,
    twice=False,
    methods=("random",),
    effort=Effort(seconds=8.0, most_s=10.0, again=0, alone_frames=2),
)
MODERATE = Scope(
    models=("resnet50",),
    bandwidths=("wifi", SPREAD),
    nodes=8,
    seeds=1,
    randoms=1,
    twice=True,
    methods=METHODS,
    effort=Effort(seconds=15.0, most_s=20.0, again=0, alone_frames=2),
)
FULL = Scope(
    models=("mobilenetv2", "resnet50", "vgg19"),
    bandwidths=("wifi", SPREAD),
    nodes=8,
    seeds=3,
    randoms=5,
    twice=True,
    methods=METHODS,
    effort=Effort(seconds=30.0, again=1),
)


async def measure_series(
    series: Series, scope: Scope, *, folder: Path, image: str, say: Callable[[str], None]
) -> list[Result]:
    """Ours first; every method's plan on a cluster with the same nodes and links.

    Raises:
        EmulationError: our own plan cannot be deployed.
    """
    bundle = network(series.model, folder)
    wishes = Wishes(cluster=emulated_cluster(series, chain_of(bundle)), bundle=bundle.folder, image=image)
    say(f"{series.title}: {OURS} ...")
    ours, run = await deploy(wishes, scope.effort, say)
    results = [Result(method=OURS, measured=ours)]
    # With the speeds that were found for our own: the same for all.
    fixed = replace(wishes, cluster=run.layout.cluster)
    prepared = run.prepared
    for candidate in candidates(prepared.chain, prepared.seen, seed=series.seed, randoms=scope.randoms):
        if candidate.method in scope.methods:
            say(f"{series.title}: {candidate.method} ...")
            results.append(await _deployed(candidate, ours, fixed, scope.effort, say))
    if scope.twice:
        say(f"{series.title}: {OURS} again ...")
        again, _ = await deploy(replace(fixed, plan=ours.stages), scope.effort, say)
        results[0] = Result(method=OURS, measured=_together(ours, again))
    return results


async def _deployed(
    candidate: Candidate, ours: Measured, wishes: Wishes, effort: Effort, say: Callable[[str], None]
) -> Result:
    if candidate.stages is None:
        return Result(method=candidate.method, reason="the method finds no plan")
    if candidate.stages == ours.stages:
        return Result(method=candidate.method, measured=ours, same=True)
    try:
        measured, _ = await deploy(replace(wishes, plan=candidate.stages), effort, say)
    except (EmulationError, NotMeasuredError) as error:
        return Result(method=candidate.method, reason=str(error))
    return Result(method=candidate.method, measured=measured)


def _together(one: Measured, other: Measured) -> Measured:
    busy = [each.cpu_busy for each in (one, other) if each.cpu_busy is not None]
    return replace(
        one,
        rates=one.rates + other.rates,
        alone_ms=one.alone_ms + other.alone_ms,
        loaded_ms=one.loaded_ms + other.loaded_ms,
        cpu_busy=max(busy, default=None),
        frames=one.frames + other.frames,
        bad={kind: count + other.bad[kind] for kind, count in one.bad.items()},
    )


def emulated_cluster(series: Series, chain: Chain) -> Cluster:
    """With links by the series' name, and memory that forces a split."""
    plain = cluster_of(series.bandwidth, series.nodes, series.seed)
    [node, *_] = with_machines(plain, chain, memory_bytes=None, flops_per_s=None, lost=0).nodes
    assert node.memory_bytes is not None
    largest = max(chain.stage_memory_bytes(block, block + 1) for block in range(chain.blocks))
    memory_bytes = max(node.memory_bytes, math.ceil(ROOM * largest))
    if series.bandwidth == SPREAD:
        return with_memories(plain, chain, memory_bytes, series.seed)
    return replace(plain, nodes=tuple(replace(each, memory_bytes=memory_bytes) for each in plain.nodes))


# ---- ratios ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as fast our plan is as a method's: as measured, and as predicted."""

    method: str
    measured: float
    predicted: float


def ratios(results: Sequence[Result]) -> list[Ratio]:
    """Of each method; of several random plans the median. Empty where the cores have decided, not the cluster."""
    ours = results[0].comparable
    if ours is None:
        return []
    found = []
    for method in dict.fromkeys(result.method for result in results[1:]):
        kept = [each for result in results if result.method == method and (each := result.comparable) is not None]
        if kept:
            found.append(
                Ratio(
                    method=method,
                    measured=statistics.median(ours.frames_per_s / each.frames_per_s for each in kept),
                    predicted=statistics.median(ours.planned_per_s / each.planned_per_s for each in kept),
                )
            )
    return found
