"""Chain and cluster as arrays, in seconds.

Symbols: D[v, i, j] time of stage [i, j) on node v, infinite where it does not fit; X[j, u, v] time of the transfer of
cut j from node u to v, and R[j, u, v] <= X[j, u, v] how long it keeps one link busy, that which it keeps the longest;
in[v] and out[v] times from the source and to the sink. A plan is a simple path of nodes v_1 ... v_K with cuts
0 = j_0 < j_1 < ... < j_K = B. Its latency is the sum of

    in[v_1], D[v_k, j_{k-1}, j_k] for k = 1..K, X[j_k, v_k, v_{k+1}] for k = 1..K-1, out[v_K],

and its bottleneck the largest of the same with R in the place of X: what a processor or a link does for one frame, it
can do for the next one only afterwards, and different links carry different frames at the same time. In a mesh R = X.

Each transfer uses the codec with which it takes the least time (`planner.codec`), and X and R are those with it.

(SEIFER, arXiv 2304.11941, section III, has the transfers between nodes alone, and one memory for all.)

Nodes that nothing tells apart are merged into one class of capacity > 1: a path may visit a class so often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.chain import Chain
from planner.cluster import Cluster
from planner.codec import CodecCost

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Arrays over the classes of nodes; see the module's docstring.

    Attributes:
        stage_s: D, float64 (n, B + 1, B + 1).
        transfer_s: X, float64 (B + 1, n, n); finite on the diagonal only for classes of capacity > 1.
        link_s: R, of the same shape; finite where X is.
        codec: which one each transfer uses, of the same shape: 0 for none, else its place in the chain's, from 1.
        source_s, sink_s: in and out, float64 (n,).
        members: the indices of each class's nodes in the cluster.
        room_bytes: weights that a node of each class can hold at most; infinite without a limit.
        bytes_left, flops_left: minus the weights, minus the FLOPs, of the blocks after each cut, ascending: (B + 1,).
        flops_per_s: of each class; infinite where speed does not tell the time.
    """

    stage_s: Array
    transfer_s: Array
    link_s: Array
    codec: NDArray[np.intp]
    source_s: Array
    sink_s: Array
    members: tuple[tuple[int, ...], ...]
    room_bytes: Array
    bytes_left: list[float]
    flops_left: list[float]
    flops_per_s: Array

    @property
    def classes(self) -> int:
        return len(self.members)

    @property
    def blocks(self) -> int:
        return int(self.stage_s.shape[1]) - 1


def make_problem(chain: Chain, cluster: Cluster) -> Problem:
    """The arrays of a chain on a cluster, with equal nodes merged."""
    stage = _stage_seconds(chain, cluster)
    whole, slowest = _seconds_per_byte(cluster)
    source = _edge(cluster.source_bytes_per_s, chain.published_bytes, cluster)
    sink = _edge(cluster.sink_bytes_per_s, chain.cut_bytes[-1], cluster)
    members = _merge(chain, cluster, (whole, slowest), source, sink)
    first = [group[0] for group in members]
    codec, transfer = _quickest(chain, cluster, whole)
    link = transfer if slowest is whole else _with_codecs(chain, cluster, slowest, codec)
    link = np.where(np.isinf(transfer), np.inf, link)  # also where a sum is more than a float can tell
    return Problem(
        stage_s=stage[first],
        transfer_s=_of_classes(transfer, members),
        link_s=_of_classes(link, members),
        codec=np.nan_to_num(_of_classes(codec, members), posinf=0).astype(np.intp),
        source_s=source[first],
        sink_s=sink[first],
        members=tuple(tuple(group) for group in members),
        room_bytes=np.array([_room(chain, cluster, group[0]) for group in members]),
        bytes_left=_left(chain.block_memory_bytes),
        flops_left=_left(chain.block_flops),
        flops_per_s=np.array([_speed(chain, cluster, group[0]) for group in members]),
    )


def _left(values: Sequence[float]) -> list[float]:
    """Minus the sum of what follows each cut."""
    following: list[float] = [0.0]
    for value in reversed(values):
        following.append(following[-1] - value)
    return following[::-1]


def _room(chain: Chain, cluster: Cluster, index: int) -> float:
    limit = cluster.nodes[index].memory_bytes
    return np.inf if limit is None else max(0.0, limit - min(chain.block_peak_bytes))


def _speed(chain: Chain, cluster: Cluster, index: int) -> float:
    node = cluster.nodes[index]
    return np.inf if node.flops_per_s is None or node.name in chain.block_seconds else node.flops_per_s


def _stage_seconds(chain: Chain, cluster: Cluster) -> Array:
    """D over all nodes."""
    blocks = chain.blocks
    memory = np.concatenate([[0], np.cumsum(np.asarray(chain.block_memory_bytes, dtype=np.float64))])
    need = np.full((blocks + 1, blocks + 1), np.inf)
    for first in range(blocks):
        peak = np.maximum.accumulate(np.asarray(chain.block_peak_bytes[first:], dtype=np.float64))
        need[first, first + 1 :] = memory[first + 1 :] - memory[first] + peak
    result = np.empty((len(cluster.nodes), blocks + 1, blocks + 1))
    for index, node in enumerate(cluster.nodes):
        seconds = chain.seconds_on(node.name, node.flops_per_s)
        with np.errstate(over="ignore"):
            done = np.concatenate([[0.0], np.cumsum(seconds)])
        limit = np.inf if node.memory_bytes is None else node.memory_bytes
        fits = (need <= limit) & np.isfinite(need)
        with np.errstate(invalid="ignore"):  # what takes longer than a float can tell takes for ever
            spent = np.nan_to_num(done[None, :] - done[:, None], nan=np.inf, posinf=np.inf)
        # Never negative: rounding of a difference of sums must not make a stage faster than nothing.
        result[index] = np.where(fits, np.maximum(spent, 0.0), np.inf)
    return result


def _quickest(chain: Chain, cluster: Cluster, per_byte: Array) -> tuple[Array, Array]:
    """Of each cut between all nodes: the number of the codec with which it takes the least time, and that time."""
    best = _transfer_seconds(chain, cluster, per_byte, None)
    chosen = np.zeros(best.shape)
    for number, codec in enumerate(chain.codecs, start=1):
        seconds = _transfer_seconds(chain, cluster, per_byte, codec)
        quicker = seconds < best
        best, chosen = np.where(quicker, seconds, best), np.where(quicker, number, chosen)
    return chosen, best


def _with_codecs(chain: Chain, cluster: Cluster, per_byte: Array, chosen: Array) -> Array:
    """The time of each cut between all nodes with the codec of that number."""
    result = _transfer_seconds(chain, cluster, per_byte, None)
    for number, codec in enumerate(chain.codecs, start=1):
        result = np.where(chosen == number, _transfer_seconds(chain, cluster, per_byte, codec), result)
    return result


def _transfer_seconds(chain: Chain, cluster: Cluster, per_byte: Array, codec: CodecCost | None) -> Array:
    """Of each cut between all nodes, over links of these seconds per byte: (B + 1, n, n)."""
    sizes = np.asarray(chain.cut_bytes, dtype=np.float64)
    sent = sizes if codec is None else sizes * codec.ratio
    messages = _messages(chain, cluster)  # also with a codec: what is divided is what it makes its messages of
    with np.errstate(invalid="ignore"):  # 0 bytes over no link: infinite all the same
        transfer = sent[:, None, None] * per_byte + (messages * cluster.message_overhead_s)[:, None, None]
    if codec is not None:
        slowdown = np.array([codec.slowdown(chain.speed_of(n.name, n.flops_per_s)) for n in cluster.nodes])
        encode, decode = (np.asarray(row) * sizes for row in (codec.encode_s_per_byte, codec.decode_s_per_byte))
        transfer += encode[:, None, None] * slowdown[:, None] + decode[:, None, None] * slowdown[None, :]
    transfer[:, np.isinf(per_byte)] = np.inf
    transfer[np.isinf(messages)] = np.inf
    return transfer


def _of_classes(transfer: Array, members: Sequence[Sequence[int]]) -> Array:
    """The same between classes; within one, between two of its nodes."""
    first = [group[0] for group in members]
    merged = transfer[:, first][:, :, first]
    for index, group in enumerate(members):
        merged[:, index, index] = transfer[:, group[0], group[1]] if len(group) > 1 else np.inf
    return merged


def _seconds_per_byte(cluster: Cluster) -> tuple[Array, Array]:
    """t and r of `planner.cluster`, with infinite diagonals; one array where they are the same."""
    count = len(cluster.nodes)
    with np.errstate(divide="ignore", over="ignore"):
        if cluster.topology == "star":
            up, down = (np.asarray(row, dtype=np.float64) for row in (cluster.up_bytes_per_s, cluster.down_bytes_per_s))
            whole = 1 / up[:, None] + 1 / down[None, :]
            slowest = np.maximum(1 / up[:, None], 1 / down[None, :])
        elif cluster.bandwidth_bytes_per_s is None:
            whole = slowest = np.zeros((count, count))
        else:
            whole = slowest = 1 / np.asarray(cluster.bandwidth_bytes_per_s, dtype=np.float64)
    np.fill_diagonal(whole, np.inf)
    np.fill_diagonal(slowest, np.inf)
    return whole, slowest


def _messages(chain: Chain, cluster: Cluster) -> Array:
    """How many messages carry the activation of each cut; infinite: it cannot be sent."""
    sizes = np.asarray(chain.cut_bytes, dtype=np.float64)
    if cluster.max_payload_bytes is None:
        return np.ones(len(sizes))
    chunks = np.maximum(np.ceil(sizes / cluster.max_payload_bytes), 1)
    return chunks if cluster.chunked else np.where(chunks > 1, np.inf, 1.0)


def _edge(row: Sequence[float] | None, size_bytes: float, cluster: Cluster) -> Array:
    if row is None:
        return np.zeros(len(cluster.nodes))
    messages = 1.0 if cluster.max_payload_bytes is None else max(1.0, np.ceil(size_bytes / cluster.max_payload_bytes))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        seconds = size_bytes / np.asarray(row, dtype=np.float64)
    seconds[np.isnan(seconds)] = np.inf
    return seconds + messages * cluster.message_overhead_s


def _merge(chain: Chain, cluster: Cluster, links: Sequence[Array], source: Array, sink: Array) -> list[list[int]]:
    """Classes of equal nodes, each in the cluster's order."""
    groups: list[list[int]] = []
    by_key: dict[Any, list[list[int]]] = {}
    for index, node in enumerate(cluster.nodes):
        speed = chain.speed_of(node.name, node.flops_per_s) if chain.codecs else None
        key = (node.memory_bytes, chain.seconds_on(node.name, node.flops_per_s), speed, source[index], sink[index])
        for group in by_key.setdefault(key, []):
            if all(_same_links(per_byte, index, other) for other in group for per_byte in links):
                group.append(index)
                break
        else:
            group = [index]
            by_key[key].append(group)
            groups.append(group)
    return groups


def _same_links(per_byte: Array, one: int, other: int) -> bool:
    """Whether exchanging two nodes changes no link."""
    rest = np.ones(len(per_byte), dtype=bool)
    rest[[one, other]] = False
    return bool(
        per_byte[one, other] == per_byte[other, one]
        and (per_byte[one, rest] == per_byte[other, rest]).all()
        and (per_byte[rest, one] == per_byte[rest, other]).all()
    )
