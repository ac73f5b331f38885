"""Chains and clusters to plan for; the same seed gives the same instance.

- *published*: SEIFER's distribution (arXiv 2210.12219 and 2304.11941): nodes uniform in a square, bandwidth by
  distance, one memory for all, no compute time, no source and no sink.
- *mesh*, *star*: heterogeneous: unequal memory and speed, asymmetric links of which some are missing, source and sink.
- *hard*: built to make walks repeat nodes: hardly more memory than needed, nodes that are nearly the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from planner.chain import Chain
from planner.cluster import Cluster, NodeSpec
from stages.graph import ModelGraph
from understudy.emulation.links import BANDWIDTH_FACTOR, SIDE_M

MB = 1_000_000

Family = Literal["published", "mesh", "star", "hard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A chain on a cluster. `memory` names the memory of the nodes, for the tables' rows."""

    family: Family
    memory: str
    seed: int
    chain: Chain
    cluster: Cluster

    @property
    def nodes(self) -> int:
        return len(self.cluster.nodes)

    @property
    def name(self) -> str:
        return f"{self.family}/{self.chain.name}/n={self.nodes}/{self.memory}/seed={self.seed}"


def light_chains() -> list[Chain]:
    """The nine networks that the `onnx` package ships without their weights' values, as chains."""
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    return [
        replace(ModelGraph.load(path).chain(), name=path.stem.removeprefix("light_"))
        for path in sorted(folder.glob("light_*.onnx"))
    ]


def synthetic_chain(blocks: int, total_bytes: float, seed: int, *, name: str = "synthetic") -> Chain:
    """Weights of unequal blocks that sum to `total_bytes`; activations that shrink towards the end, with noise."""
    rng = np.random.default_rng([seed, blocks])
    weights = rng.lognormal(0.0, 0.5, blocks)
    weights *= total_bytes / weights.sum()
    cuts = 3e6 * np.exp(-2.0 * np.linspace(0, 1, blocks + 1)) * rng.lognormal(0.0, 0.5, blocks + 1)
    return Chain(
        name=f"{name}-{blocks}",
        cut_bytes=_whole(cuts),
        block_memory_bytes=_whole(weights),
        block_peak_bytes=_whole(rng.uniform(0.05, 0.3, blocks) * weights),
        block_flops=_whole(rng.lognormal(0.0, 0.6, blocks) * 4e9 / blocks),
    )


def needs(chain: Chain) -> list[int]:
    """Bytes that every block needs alone: the least memory of equal nodes is the largest of them."""
    return [chain.stage_memory_bytes(block, block + 1) for block in range(chain.blocks)]


def published(chain: Chain, nodes: int, memory_bytes: int, seed: int, *, memory: str) -> Instance:
    rng = np.random.default_rng([seed, nodes, 1])
    cluster = Cluster(
        nodes=tuple(NodeSpec(name=f"n{index}", memory_bytes=memory_bytes) for index in range(nodes)),
        bandwidth_bytes_per_s=wifi(rng.uniform(0.0, SIDE_M, (nodes, 2))),
    )
    return Instance(family="published", memory=memory, seed=seed, chain=chain, cluster=cluster)


def wifi(places_m: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """Bandwidth in bytes/s between places in metres, shape (n, 2)."""
    squared = ((places_m[:, None, :] - places_m[None, :, :]) ** 2).sum(axis=2)
    return tuple(
        tuple(math.log2(1 + BANDWIDTH_FACTOR / max(float(d2), 1e-9)) * 1e6 / 8 for d2 in row) for row in squared
    )


def heterogeneous(chain: Chain, nodes: int, seed: int, *, star: bool, mild: bool = False) -> Instance:
    """The whole problem. A node's memory is 0.3 to 2 times what one block needs, or twice its share of the model.

    mild: 1 to 2 times, so that every node has room for every block.
    """
    rng = np.random.default_rng([seed, nodes, 2 + star])
    base = max(max(needs(chain)), 2 * sum(chain.block_memory_bytes) / nodes)
    least = 1.0 if mild else 0.3
    specs = tuple(
        NodeSpec(name=f"n{index}", memory_bytes=int(base * rng.uniform(least, 2.0)), flops_per_s=_speed(rng))
        for index in range(nodes)
    )
    source, sink = _rates(rng, nodes), _rates(rng, nodes)
    if star:
        cluster = Cluster(
            nodes=specs,
            topology="star",
            up_bytes_per_s=_rates(rng, nodes),
            down_bytes_per_s=_rates(rng, nodes),
            source_bytes_per_s=source,
            sink_bytes_per_s=sink,
            message_overhead_s=2e-4,
        )
    else:
        rows = rng.lognormal(math.log(12e6), 0.8, (nodes, nodes)) * (rng.random((nodes, nodes)) >= 0.1)
        cluster = Cluster(
            nodes=specs,
            bandwidth_bytes_per_s=tuple(tuple(row) for row in rows.tolist()),
            source_bytes_per_s=source,
            sink_bytes_per_s=sink,
            message_overhead_s=2e-4,
        )
    memory = "1 - 2" if mild else "0.3 - 2"
    return Instance(family="star" if star else "mesh", memory=memory, seed=seed, chain=chain, cluster=cluster)


HARD = ("ring", "nearly-equal", "hub", "tight", "planted")


def hard(kind: str, nodes: int, blocks: int, seed: int) -> Instance:
    """Where the relaxation is weak, by `kind`.

    - ring: neighbours on a ring have fast links, all others slow ones: walks go to and fro between two nodes.
    - nearly-equal: memories, speeds and links differ by a percent, so that classes do not merge.
    - hub: a few nodes have by far the best links, and walks come back to them.
    - tight: all memories together are hardly more than the model, and no two are equal.
    - planted: the chain is cut at random into a stage for every node, whose memory is 3 % more than its stage needs:
      there is a plan, and hardly any other.
    """
    rng = np.random.default_rng([seed, nodes, blocks, HARD.index(kind)])
    chain = synthetic_chain(blocks, 600 * MB, seed)
    share = sum(chain.block_memory_bytes) / nodes
    floor = max(needs(chain))
    slack = {"ring": 2.0, "nearly-equal": 1.6, "hub": 2.0, "tight": 1.45, "planted": 1.0}[kind]
    spread = {"ring": 0.2, "nearly-equal": 0.01, "hub": 0.2, "tight": 0.4, "planted": 0.2}[kind]
    memory = np.maximum(share * slack, floor) * rng.uniform(1 - spread, 1 + spread, nodes)
    if kind == "planted":
        memory = _planted(chain, nodes, rng)
    speed = 5e9 * rng.uniform(1 - spread, 1 + spread, nodes)
    rows = 10e6 * rng.uniform(0.99, 1.01, (nodes, nodes))
    if kind == "ring":
        apart = np.abs(np.arange(nodes)[:, None] - np.arange(nodes)[None, :])
        rows = rows * np.where(np.minimum(apart, nodes - apart) <= 1, 5.0, 0.5)
    elif kind == "hub":
        hubs = rng.permutation(nodes)[: max(2, nodes // 10)]
        rows[hubs, :] *= 8.0
        rows[:, hubs] *= 8.0
    elif kind == "tight":
        rows *= rng.lognormal(0.0, 0.7, (nodes, nodes))
    cluster = Cluster(
        nodes=tuple(
            NodeSpec(name=f"n{index}", memory_bytes=int(memory[index]), flops_per_s=float(speed[index]))
            for index in range(nodes)
        ),
        bandwidth_bytes_per_s=tuple(tuple(row) for row in rows.tolist()),
    )
    return Instance(family="hard", memory=kind, seed=seed, chain=chain, cluster=cluster)


def _planted(chain: Chain, nodes: int, rng: np.random.Generator) -> np.ndarray:
    cuts = sorted(rng.choice(np.arange(1, chain.blocks), nodes - 1, replace=False).tolist())
    stages = zip([0, *cuts], [*cuts, chain.blocks], strict=True)
    return rng.permutation([1.03 * chain.stage_memory_bytes(start, end) for start, end in stages])


def without(instance: Instance, node: str) -> Instance:
    """The instance after a node is lost."""
    names = [name for name in instance.cluster.names if name != node]
    return replace(instance, cluster=instance.cluster.subset(names))


def slower_link(instance: Instance, sender: str, receiver: str, factor: float) -> Instance:
    """The mesh after the bandwidth of one link has changed."""
    cluster = instance.cluster
    assert cluster.bandwidth_bytes_per_s is not None
    one, other = cluster.names.index(sender), cluster.names.index(receiver)
    rows = [list(row) for row in cluster.bandwidth_bytes_per_s]
    rows[one][other] *= factor
    return replace(instance, cluster=replace(cluster, bandwidth_bytes_per_s=tuple(tuple(row) for row in rows)))


def published_set(
    chains: Sequence[Chain], nodes: Sequence[int], memories_mb: Sequence[int], seeds: Sequence[int]
) -> Iterator[Instance]:
    """Every chain at every absolute memory, and at the least memory at which it can be cut at all ("least")."""
    for count in nodes:
        for seed in seeds:
            for chain in chains:
                for memory_mb in memories_mb:
                    yield published(chain, count, memory_mb * MB, seed, memory=f"{memory_mb} MB")
                yield published(chain, count, max(needs(chain)), seed, memory="least")


def _speed(rng: np.random.Generator) -> float:
    return float(rng.lognormal(math.log(5e9), 0.7))


def _rates(rng: np.random.Generator, count: int) -> tuple[float, ...]:
    return tuple(rng.lognormal(math.log(12e6), 0.8, count).tolist())


def _whole(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
