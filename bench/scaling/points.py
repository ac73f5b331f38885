"""What is measured, and what came out. A *series* is one network on one kind of link, with more and more nodes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bench.deployed import Effort, Measured, NotMeasuredError, deploy
from bench.networks import chain_of, network
from planner.chain import Chain
from planner.cluster import Cluster
from understudy.emulation.errors import EmulationError
from understudy.emulation.links import make_cluster, with_machines
from understudy.emulation.preparation import Wishes

Memory = Literal["total", "each"]
"""`total`: all nodes together have 1.3 times what the network needs, so more nodes means less memory for each, and a
network that is cut more often. `each`: every node has as much as each of the fewest nodes that are measured (but one),
however many there are, so more nodes are only more to choose from. A node that is alone always has enough."""

ROOM = 1.25
"""Every node has room for so many times the block that needs most: one with hardly more than that cannot hold a
neighbour beside it, and the only plan left sends the network's largest activations."""

STEADY = 0.02
"""A fall is one of more than this, and of more than both points' own spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    model: str
    bandwidth: str
    memory: Memory = "total"
    cpus: float = 1.0

    @property
    def title(self) -> str:
        slow = "" if self.cpus == 1 else f", nodes of {self.cpus:g} cores"
        return f"{self.model}, {self.bandwidth}, memory {self.memory}{slow}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """`measured` None: it could not be; `reason` says why."""

    nodes: int
    measured: Measured | None = None
    reason: str = ""

    @property
    def comparable(self) -> Measured | None:
        """What may be compared with links and plans: not what the machine's cores have decided."""
        return None if self.measured is None or self.measured.cpu_bound else self.measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    series: tuple[Series, ...]
    nodes: tuple[int, ...]
    effort: Effort


SLOW_CPUS = 0.25
"""Nodes so slow that several compute at a time on two cores: there more nodes are faster, until a link is the limit."""

QUICK = Scope(
    series=(Series(model="mobilenetv2", bandwidth="50mbit"),),
    nodes=(1, 2, 4),
    effort=Effort(seconds=8.0, most_s=12.0, again=0),
)
MODERATE = Scope(
    series=(
        Series(model="mobilenetv2", bandwidth="50mbit"),
        Series(model="mobilenetv2", bandwidth="wifi", memory="each"),
        Series(model="resnet50", bandwidth="10mbit"),
        Series(model="resnet50", bandwidth="50mbit", cpus=SLOW_CPUS),
    ),
    nodes=(1, 2, 4),
    effort=Effort(seconds=15.0, most_s=20.0, again=1),
)
_MODELS, _BANDWIDTHS = ("mobilenetv2", "resnet50", "vgg19"), ("10mbit", "50mbit", "100mbit", "wifi")
_MEMORIES: tuple[Memory, ...] = ("total", "each")
FULL = Scope(
    series=(
        *(
            Series(model=model, bandwidth=bandwidth, memory=memory)
            for model, bandwidth, memory in itertools.product(_MODELS, _BANDWIDTHS, _MEMORIES)
        ),
        Series(model="resnet50", bandwidth="50mbit", cpus=SLOW_CPUS),
    ),
    nodes=(1, 2, 3, 4, 6, 8, 12, 16, 20),
    effort=Effort(seconds=30.0, again=2),
)


def narrowed(
    scope: Scope,
    *,
    nodes: Sequence[int] | None = None,
    models: Sequence[str] | None = None,
    bandwidths: Sequence[str] | None = None,
    memories: Sequence[Memory] | None = None,
    cpus: float | None = None,
) -> Scope:
    """The same effort with what is given in the place of the scope's own; each combination once."""

    def kept(series: Series) -> Iterator[Series]:
        several = models or [series.model], bandwidths or [series.bandwidth], memories or [series.memory]
        for model, bandwidth, memory in itertools.product(*several):
            yield Series(model=model, bandwidth=bandwidth, memory=memory, cpus=cpus or series.cpus)

    chosen = dict.fromkeys(each for series in scope.series for each in kept(series))
    return replace(scope, series=tuple(chosen), nodes=tuple(nodes or scope.nodes))


async def measure_series(
    series: Series,
    nodes: Sequence[int],
    effort: Effort,
    *,
    folder: Path,
    image: str,
    seed: int,
    say: Callable[[str], None],
) -> list[Point]:
    """Every cluster is started, streamed through and removed, one after the other."""
    bundle = network(series.model, folder)
    points = []
    for count in nodes:
        say(f"{series.title}: {count} node{'s' * (count > 1)} ...")
        wishes = Wishes(
            cluster=cluster_of(series, count, seed),
            bundle=bundle.folder,
            memory_bytes=memory_bytes(series, count, nodes, chain_of(bundle), seed),
            cpus=series.cpus,
            image=image,
        )
        try:
            measured, _ = await deploy(wishes, effort, say)
        except (EmulationError, NotMeasuredError) as error:
            points.append(Point(nodes=count, reason=str(error)))
        else:
            points.append(Point(nodes=count, measured=measured))
    return points


def cluster_of(series: Series, nodes: int, seed: int) -> Cluster:
    """With one node more, the others stay where they are, with the same links."""
    return make_cluster(nodes=nodes, topology="mesh", bandwidth=series.bandwidth, seed=seed)


def memory_bytes(series: Series, count: int, nodes: Sequence[int], chain: Chain, seed: int) -> int:
    """Of every node in a cluster of `count`; `nodes`: the numbers of nodes of the series."""
    shared_by = count
    if series.memory == "each" and count > 1:
        shared_by = min(each for each in nodes if each > 1)
    cluster = cluster_of(series, shared_by, seed)
    [least, *_] = with_machines(cluster, chain, memory_bytes=None, flops_per_s=None, lost=0).nodes
    assert least.memory_bytes is not None
    largest = max(chain.stage_memory_bytes(block, block + 1) for block in range(chain.blocks))
    return max(least.memory_bytes, math.ceil(ROOM * largest))


def falls(points: Sequence[Point]) -> list[str]:
    """Where more nodes were slower though the plan for them is no slower; in words. Points that the cores have decided
    do not count."""
    found = []
    pairs = itertools.pairwise([(point.nodes, point.comparable) for point in points if point.comparable is not None])
    for (fewer, before), (more, after) in pairs:
        assert before is not None
        assert after is not None
        allowed = max(STEADY, before.slices.spread, after.slices.spread)
        promised = after.planned_per_s >= before.planned_per_s * (1 - 1e-6)
        if promised and after.frames_per_s < before.frames_per_s * (1 - allowed):
            found.append(f"{after.frames_per_s:.2f} frames/s of {more} nodes, {before.frames_per_s:.2f} of {fewer}")
    return found
