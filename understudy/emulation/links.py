"""The cluster that is emulated: the same description that the planner reads.

A bandwidth is a rate for all links, or `wifi`, or all that a cluster file says. `wifi` is SEIFER's distribution
(Parthasarathy and Krishnamachari, arXiv 2210.12219): n nodes uniform in a square of 150 m, and at a distance of d_uv
metres b_uv = log2(1 + 283230 / d_uv^2) Mbit/s.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from planner.chain import Chain
from planner.cluster import Cluster, NodeSpec, Row
from planner.plan import NoPlanError
from planner.solve import solve
from understudy.emulation.errors import EmulationError
from understudy.planfiles import load_cluster

SIDE_M = 150.0
BANDWIDTH_FACTOR = 283_230.0
"""SEIFER's square, and the factor of its bandwidth."""

MOST_NODES = 64
HEADROOM = 1.3
"""Memory of the nodes that are left in the worst moment, together, as a multiple of what the whole network needs."""

PAYLOAD_SHARE = 1448 / 1514
"""Of a link's rate, what TCP carries at best: 1448 bytes of payload in a frame of 1514 (RFC 9293, with timestamps)."""

Topology = Literal["mesh", "star"]

_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmg])bit", re.IGNORECASE)
_BITS = {"k": 1e3, "m": 1e6, "g": 1e9}


def parse_rate(text: str) -> float:
    """Bytes per second of `100mbit`, `2.5 Gbit`, `64kbit`. Raises EmulationError with what is allowed."""
    match = _RATE.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise EmulationError(f"'{text}' is not a bandwidth: write 10mbit, 64kbit or 1gbit")
    return float(match[1]) * _BITS[match[2].lower()] / 8


def wifi_bytes_per_s(distance_m: float) -> float:
    """b at a distance of d metres."""
    return math.log2(1 + BANDWIDTH_FACTOR / max(distance_m**2, 1e-9)) * 1e6 / 8


def make_cluster(
    *,
    nodes: int,
    topology: Topology,
    bandwidth: str,
    seed: int = 0,
) -> Cluster:
    """A cluster of equal nodes `node1`, `node2`, ... with this bandwidth; or that of a cluster file, all of it.

    Raises:
        EmulationError: `bandwidth` is none of the names, and no file.
        ConfigError: the file is wrong.
    """
    if Path(bandwidth).is_file():
        return load_cluster(Path(bandwidth))
    specs = tuple(NodeSpec(name=f"node{number}") for number in range(1, nodes + 1))
    rows = _wifi(nodes, seed) if bandwidth.lower() == "wifi" else _equal(nodes, bandwidth)
    # Frames come from the first of the places, and results go there.
    outside = rows[0][1:]
    if topology == "star":
        # A broker at the first place, where frames come from, too.
        return Cluster(
            nodes=specs,
            topology="star",
            up_bytes_per_s=outside,
            down_bytes_per_s=outside,
            source_bytes_per_s=outside,
            sink_bytes_per_s=outside,
        )
    return Cluster(
        nodes=specs,
        bandwidth_bytes_per_s=tuple(row[1:] for row in rows[1:]),
        source_bytes_per_s=outside,
        sink_bytes_per_s=outside,
    )


def _equal(nodes: int, bandwidth: str) -> list[Row]:
    try:
        rate = parse_rate(bandwidth)
    except EmulationError:
        raise EmulationError(
            f"--bandwidth: '{bandwidth}' is neither a rate such as 100mbit, nor wifi, nor a cluster file that is there"
        ) from None
    return [(rate,) * (nodes + 1)] * (nodes + 1)


def _wifi(nodes: int, seed: int) -> list[Row]:
    """n + 1 rows and columns: the first is the place of the hub, in the middle of the square."""
    chance = random.Random(seed)  # noqa: S311 - places, not secrets
    places = [(SIDE_M / 2, SIDE_M / 2)]
    places += [(chance.uniform(0, SIDE_M), chance.uniform(0, SIDE_M)) for _ in range(nodes)]
    return [tuple(wifi_bytes_per_s(math.dist(here, there)) for there in places) for here in places]


def with_machines(
    cluster: Cluster, chain: Chain, *, memory_bytes: int | None, flops_per_s: float | None, lost: int
) -> Cluster:
    """The same cluster, where nodes that say nothing of memory and speed have these. Without `memory_bytes`: so little
    that the network is split, and enough for what is left when `lost` nodes are away."""
    if memory_bytes is None and any(node.memory_bytes is None for node in cluster.nodes):
        memory_bytes = _split_memory(cluster, chain, lost)
    specs = tuple(
        replace(
            node,
            memory_bytes=memory_bytes if node.memory_bytes is None else node.memory_bytes,
            flops_per_s=flops_per_s if node.flops_per_s is None else node.flops_per_s,
        )
        for node in cluster.nodes
    )
    return replace(cluster, nodes=specs)


def payload_cluster(cluster: Cluster) -> Cluster:
    """The same cluster as the planner is told of it: with what messages get of each link in the place of its rate."""

    def share(row: Row | None) -> Row | None:
        return None if row is None else tuple(rate * PAYLOAD_SHARE for rate in row)

    links = cluster.bandwidth_bytes_per_s
    return replace(
        cluster,
        bandwidth_bytes_per_s=None if links is None else tuple(share(row) or () for row in links),
        up_bytes_per_s=share(cluster.up_bytes_per_s),
        down_bytes_per_s=share(cluster.down_bytes_per_s),
        source_bytes_per_s=share(cluster.source_bytes_per_s),
        sink_bytes_per_s=share(cluster.sink_bytes_per_s),
    )


def _split_memory(cluster: Cluster, chain: Chain, lost: int) -> int:
    left = max(1, len(cluster.nodes) - lost)
    whole = chain.stage_memory_bytes(0, chain.blocks)
    memory = max(HEADROOM * whole / left, max(chain.stage_memory_bytes(k, k + 1) for k in range(chain.blocks)))
    specs = [replace(node, memory_bytes=node.memory_bytes, flops_per_s=None) for node in cluster.nodes[:left]]
    while memory < whole:
        tried = tuple(replace(node, memory_bytes=node.memory_bytes or int(memory)) for node in specs)
        try:
            solve(chain, Cluster(nodes=tried), time_limit_s=1.0)
        except NoPlanError:
            memory *= 1.1
        else:
            break
    return math.ceil(memory)


def check_names(names: Sequence[str], reserved: Sequence[str]) -> None:
    """Raises EmulationError where a node has the name of another container, or there are too many."""
    if taken := sorted(set(names) & set(reserved)):
        raise EmulationError(
            f"a node cannot be called '{taken[0]}' in an emulation: a container of that name has a role"
        )
    if len(names) > MOST_NODES:
        raise EmulationError(f"{len(names)} nodes: {MOST_NODES} at most can be emulated")
