"""What the planner's tests share: small chains and clusters, and slow, plain references that share no code with it.

All times of the random cases are dyadic (speeds and bandwidths are powers of two, measured seconds eighths), so their
sums are exact in binary, and a plan and its reference are compared with `==`.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.chain import Chain
from planner.cluster import Cluster, NodeSpec
from planner.codec import NONE, CodecCost
from planner.plan import NoPlanError, Plan, Stage

INF = math.inf


def make_chain(
    cut_bytes: Sequence[int],
    *,
    memory: Sequence[int] | None = None,
    peak: Sequence[int] | None = None,
    flops: Sequence[int] | None = None,
    **others: Any,
) -> Chain:
    """A chain whose blocks need nothing but what is named."""
    nothing = (0,) * (len(cut_bytes) - 1)
    return Chain(
        name="tiny",
        cut_bytes=tuple(cut_bytes),
        block_memory_bytes=tuple(memory or nothing),
        block_peak_bytes=tuple(peak or nothing),
        block_flops=tuple(flops or nothing),
        **others,
    )


def make_cluster(memory: Sequence[int | None], speed: Sequence[float | None] | None = None, **links: Any) -> Cluster:
    """Nodes n0, n1, ... with these limits; without `speed` computing takes no time."""
    speeds = speed if speed is not None else (None,) * len(memory)
    nodes = tuple(
        NodeSpec(name=f"n{index}", memory_bytes=limit, flops_per_s=flops)
        for index, (limit, flops) in enumerate(zip(memory, speeds, strict=True))
    )
    return Cluster(nodes=nodes, **links)


def full_mesh(count: int, bandwidth: float) -> tuple[tuple[float, ...], ...]:
    return ((bandwidth,) * count,) * count


class Value(NamedTuple):
    """What is compared: tuples in the order of the objective `bottleneck`."""

    bottleneck_s: float
    latency_s: float
    stages: int


def value_of(plan: Plan) -> Value:
    return Value(plan.bottleneck_s, plan.latency_s, len(plan.stages))


def by_latency(value: Value) -> tuple[float, int]:
    return value.latency_s, value.stages


# Times, one at a time, from the definitions alone.


def compute_s(chain: Chain, cluster: Cluster, node: int, first: int, end: int) -> float:
    """Infinite where the blocks do not fit."""
    spec = cluster.nodes[node]
    need = sum(chain.block_memory_bytes[first:end]) + max(chain.block_peak_bytes[first:end])
    if spec.memory_bytes is not None and need > spec.memory_bytes:
        return INF
    measured = chain.block_seconds.get(spec.name)
    if measured is not None:
        return sum(measured[first:end])
    return 0.0 if spec.flops_per_s is None else sum(chain.block_flops[first:end]) / spec.flops_per_s


def messages(cluster: Cluster, size_bytes: int) -> int:
    return 1 if cluster.max_payload_bytes is None else max(1, math.ceil(size_bytes / cluster.max_payload_bytes))


class Taken(NamedTuple):
    """Of one step: until a frame is through, and until the next frame may follow it everywhere."""

    seconds: float
    busy_s: float

    @classmethod
    def once(cls, seconds: float) -> Taken:
        return cls(seconds, seconds)


NEVER = Taken.once(INF)


def hop(cluster: Cluster, size_bytes: int, *bandwidths: float, ratio: float = 1.0) -> Taken:
    """One message over these links, one after the other; infinite where one is missing, even for 0 bytes."""
    if 0 in bandwidths:
        return NEVER
    besides = messages(cluster, size_bytes) * cluster.message_overhead_s
    each = [ratio * size_bytes / bandwidth for bandwidth in bandwidths]
    return Taken(sum(each) + besides, max(each, default=0.0) + besides)


def transfer(chain: Chain, cluster: Cluster, cut: int, sender: int, receiver: int) -> Taken:
    """With the codec that is quickest for a frame; of equal ones none, then the first."""
    ways = [(NONE, sent(chain, cluster, cut, sender, receiver))]
    for codec in chain.codecs:
        ends = [(codec.encode_s_per_byte[cut], sender), (codec.decode_s_per_byte[cut], receiver)]
        work = sum(seconds * chain.cut_bytes[cut] * slowdown(codec, cluster, node) for seconds, node in ends)
        way = sent(chain, cluster, cut, sender, receiver, codec.ratio[cut])
        ways.append((codec.name, Taken(way.seconds + work, way.busy_s + work)))
    return min(ways, key=lambda way: way[1].seconds)[1]


def slowdown(codec: CodecCost, cluster: Cluster, node: int) -> float:
    speed = cluster.nodes[node].flops_per_s
    return 1.0 if speed is None or codec.flops_per_s is None else codec.flops_per_s / speed


def sent(chain: Chain, cluster: Cluster, cut: int, sender: int, receiver: int, ratio: float = 1.0) -> Taken:
    """The message alone; `ratio`: the share of the bytes that it has. The number of messages goes by all of them."""
    size = chain.cut_bytes[cut]
    if not cluster.chunked and messages(cluster, size) > 1:
        return NEVER
    if cluster.topology == "star":
        assert cluster.up_bytes_per_s is not None
        assert cluster.down_bytes_per_s is not None
        return hop(cluster, size, cluster.up_bytes_per_s[sender], cluster.down_bytes_per_s[receiver], ratio=ratio)
    links = cluster.bandwidth_bytes_per_s
    return hop(cluster, size, *([] if links is None else [links[sender][receiver]]), ratio=ratio)


def edge_s(cluster: Cluster, row: Sequence[float] | None, node: int, size_bytes: int) -> float:
    return 0.0 if row is None else hop(cluster, size_bytes, row[node]).seconds


def steps(chain: Chain, cluster: Cluster, nodes: Sequence[int], cuts: Sequence[int]) -> list[Taken]:
    """Source, stage, transfer, stage, ..., sink, where stage k is blocks [cuts[k], cuts[k + 1])."""
    taken = [Taken.once(edge_s(cluster, cluster.source_bytes_per_s, nodes[0], chain.published_bytes))]
    for index, node in enumerate(nodes):
        taken.append(Taken.once(compute_s(chain, cluster, node, cuts[index], cuts[index + 1])))
        if index + 1 < len(nodes):
            taken.append(transfer(chain, cluster, cuts[index + 1], node, nodes[index + 1]))
    return [*taken, Taken.once(edge_s(cluster, cluster.sink_bytes_per_s, nodes[-1], chain.cut_bytes[-1]))]


def steps_of_plan(chain: Chain, cluster: Cluster, stages: Sequence[Stage]) -> list[Taken]:
    nodes = [cluster.names.index(stage.node) for stage in stages]
    return steps(chain, cluster, nodes, [0, *(stage.end_block for stage in stages)])


# References.


def all_values(chain: Chain, cluster: Cluster, stages: int | None = None) -> Iterator[Value]:
    """Every split with every placement that is possible."""
    for count in range(1, min(chain.blocks, len(cluster.nodes)) + 1):
        if stages not in (None, count):
            continue
        for inner in itertools.combinations(range(1, chain.blocks), count - 1):
            for nodes in itertools.permutations(range(len(cluster.nodes)), count):
                seconds, busy = zip(*steps(chain, cluster, nodes, (0, *inner, chain.blocks)), strict=True)
                if max(seconds) < INF:
                    yield Value(max(busy), sum(seconds), count)


Numbers = NDArray[np.float64]
Join = Callable[[Any, Any], Any]


class SubsetProgramme:
    """Exact for up to about ten nodes: best[mask, v, j] over the paths on the nodes of `mask` that end a stage on v at
    cut j. First for the bottleneck, then for the latency under it."""

    def __init__(self, chain: Chain, cluster: Cluster) -> None:
        blocks, count = chain.blocks, len(cluster.nodes)
        self.blocks, self.count = blocks, count
        self.compute = np.full((count, blocks + 1, blocks + 1), INF)
        for node, (first, end) in itertools.product(range(count), itertools.combinations(range(blocks + 1), 2)):
            self.compute[node, first, end] = compute_s(chain, cluster, node, first, end)
        self.transfer, self.link = np.full((2, count, count, blocks + 1), INF)
        for (sender, receiver), cut in itertools.product(itertools.permutations(range(count), 2), range(1, blocks)):
            between = transfer(chain, cluster, cut, sender, receiver)
            self.transfer[sender, receiver, cut], self.link[sender, receiver, cut] = between
        nodes = range(count)
        self.source = np.array([edge_s(cluster, cluster.source_bytes_per_s, v, chain.published_bytes) for v in nodes])
        self.sink = np.array([edge_s(cluster, cluster.sink_bytes_per_s, v, chain.cut_bytes[-1]) for v in nodes])

    def best(self) -> Value | None:
        bottleneck_s = min(self._by_count(np.maximum, self.link, INF).values(), default=INF)
        if bottleneck_s == INF:
            return None
        latencies = self._by_count(np.add, np.where(self.link <= bottleneck_s, self.transfer, INF), bottleneck_s)
        latency_s = min(latencies.values())
        return Value(bottleneck_s, latency_s, min(k for k, value in latencies.items() if value == latency_s))

    def _by_count(self, join: Join, between: Numbers, limit_s: float) -> dict[int, float]:
        """The least value for each number of stages: these times between nodes, all other steps within the limit."""
        compute, source, sink = (
            np.where(seconds <= limit_s, seconds, INF) for seconds in (self.compute, self.source, self.sink)
        )
        ends = np.full((1 << self.count, self.count, self.blocks + 1), INF)
        values: dict[int, float] = {}
        for mask in range(1, 1 << self.count):
            for node in range(self.count):
                rest = mask ^ (1 << node)
                if not mask >> node & 1:
                    continue
                begin = np.full(self.blocks + 1, INF)
                if rest == 0:
                    begin[0] = source[node]
                else:
                    begin[:] = join(ends[rest], between[:, node]).min(axis=0)
                ends[mask, node] = join(begin[:, None], compute[node]).min(axis=0)
                done = float(join(ends[mask, node, self.blocks], sink[node]))
                values[mask.bit_count()] = min(done, values.get(mask.bit_count(), INF))
        return values


# Random cases.


def random_chain(rng: random.Random, blocks: int, measured_on: Sequence[str] = ()) -> Chain:
    def numbers(count: int, high: int) -> list[int]:
        return [rng.randrange(high) for _ in range(count)]

    return make_chain(
        numbers(blocks + 1, 20),
        memory=numbers(blocks, 10),
        peak=numbers(blocks, 5),
        flops=numbers(blocks, 20),
        block_seconds={name: tuple(rng.randrange(32) / 8 for _ in range(blocks)) for name in measured_on},
    )


def random_codecs(rng: random.Random, blocks: int, measured_on: Sequence[str]) -> tuple[CodecCost, ...]:
    """None, one or two, quick and slow ones. Where nodes were measured their speed is no power of two: not scaled."""

    def row(*values: float) -> tuple[float, ...]:
        return tuple(rng.choice(values) for _ in range(blocks + 1))

    return tuple(
        CodecCost(
            name=name,
            ratio=row(0.125, 0.5, 0.75),
            encode_s_per_byte=row(0.0, 0.0625, 0.25),
            decode_s_per_byte=row(0.0, 0.0625),
            flops_per_s=None if measured_on else rng.choice([None, 2.0]),
        )
        for name in ("zstd", "int8")[: rng.randrange(3)]
    )


def random_cluster(rng: random.Random, count: int, *, memory: tuple[int, int] = (5, 30)) -> Cluster:
    """Mesh or star, with missing links, null speeds, source and sink, overhead and payload limit, each now and then;
    in a third of them all nodes and links are equal."""
    equal = rng.random() < 0.33

    def row(values: Sequence[Any]) -> tuple[Any, ...]:
        return (rng.choice(values),) * count if equal else tuple(rng.choice(values) for _ in range(count))

    def often(*bandwidths: float) -> list[float]:
        return list(bandwidths) * 3

    low, high = memory
    limits = row([*range(low, high), None])
    speeds = row([*often(1.0, 2.0, 4.0), None]) if rng.random() < 0.9 else (None,) * count
    links: dict[str, Any] = {}
    kind = rng.randrange(5)
    if kind < 2:
        same = row(often(1.0, 2.0, 4.0))
        links["bandwidth_bytes_per_s"] = tuple(
            same if equal else row([*often(0.5, 1.0, 2.0, 4.0), 0.0]) for _ in range(count)
        )
    elif kind < 4:
        links["topology"] = "star"
        links["up_bytes_per_s"] = row([*often(1.0, 2.0, 4.0), 0.0])
        links["down_bytes_per_s"] = row([*often(1.0, 2.0, 4.0), 0.0])
    if rng.random() < 0.5:
        links["source_bytes_per_s"] = row([*often(1.0, 2.0, 4.0), 0.0])
    if rng.random() < 0.5:
        links["sink_bytes_per_s"] = row([*often(1.0, 2.0, 4.0), 0.0])
    if rng.random() < 0.5:
        links["message_overhead_s"] = 0.5
        links["max_payload_bytes"] = rng.choice([None, 7])
        links["chunked"] = rng.random() < 0.7
    return make_cluster(limits, speeds, **links)


def random_case(seed: int, max_blocks: int = 6, max_nodes: int = 4) -> tuple[Chain, Cluster, int | None]:
    """A chain, a cluster, and a number of stages or None."""
    rng = random.Random(seed)
    blocks, count = rng.randint(1, max_blocks), rng.randint(1, max_nodes)
    measured_on = [f"n{index}" for index in range(count) if rng.random() < 0.2]
    chain, cluster = random_chain(rng, blocks, measured_on), random_cluster(rng, count)
    chain = replace(
        chain,
        codecs=random_codecs(random.Random(seed), blocks, measured_on),
        frame_bytes=random.Random(seed).choice([None, 1, 40]),
    )
    return chain, cluster, None if rng.random() < 0.6 else rng.randint(1, min(blocks, count))


def solved(solve: Callable[[], Plan]) -> Plan | None:
    """None where there is no plan."""
    try:
        return solve()
    except NoPlanError:
        return None


def hidden_path(seed: int, count: int) -> tuple[Chain, Cluster, list[str]]:
    """Nodes that each hold one block of as many blocks, few links, and one order of the nodes that is a plan."""
    rng = random.Random(seed)
    order = list(range(count))
    rng.shuffle(order)
    links = [[0.0] * count for _ in range(count)]
    for sender, receiver in itertools.pairwise(order):
        links[sender][receiver] = 1.0
    for row in links:
        for receiver in rng.sample(range(count), 2):
            row[receiver] = 1.0
    cluster = make_cluster([1] * count, bandwidth_bytes_per_s=tuple(map(tuple, links)))
    return make_chain([1] * (count + 1), memory=[1] * count), cluster, [f"n{index}" for index in order]


def exact_fit(seed: int, count: int) -> tuple[Chain, Cluster]:
    """Nodes of which each is exactly as large as one stage of a hidden split, in no order; links are not counted."""
    rng = random.Random(seed)
    stages = [[rng.randrange(20, 60) for _ in range(rng.randrange(1, 4))] for _ in range(count)]
    memory = [size for stage in stages for size in stage]
    limits = [sum(stage) for stage in stages]
    rng.shuffle(limits)
    return make_chain([0] * (len(memory) + 1), memory=memory), make_cluster(limits)
