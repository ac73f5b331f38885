"""SEIFER's method (Parthasarathy & Krishnamachari, arXiv 2210.12219 and 2304.11941): partition first, place afterwards.

Written from the papers' description, not from their code; what follows is our reading of it.

1. Partition. All nodes count as having the smallest memory of the cluster. Among the partitions whose parts fit into
   it, with at most n parts, the one whose largest transfer is the smallest is taken; of these the one that sends the
   least in all. Links play no part in it, nor do compute times.
2. Placement. The transfers q_1 .. q_{K-1} of the partition fall into classes by quantile: high, medium, low. From the
   highest class down, and in a class the longest run of neighbouring transfers first, a run of m transfers is matched
   with a path of m + 1 unused nodes whose slowest link is as fast as possible: bisection over the bandwidths, and for
   each of them a path is looked for in the graph of the links that are at least so fast. Where a neighbouring run is
   placed already, the path must begin, or end, at its node.

The papers find the paths with colour coding, which finds an existing path with high probability. Here a depth-first
search finds it surely, up to `MAX_STATES` steps: the comparison is of plans, so the better path finder is in SEIFER's
favour. The papers' links are symmetric; with unequal directions the link in the direction of the transfer counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from bench.planner.cost import Costs, Part, Parts

CLASSES = 3
MAX_STATES = 20_000


def seifer(costs: Costs, *, classes: int = CLASSES) -> Parts | None:
    borders = partition(costs)
    if borders is None:
        return None
    nodes = place(costs, borders, classes=classes)
    if nodes is None:
        return None
    parts = tuple(Part(start, end, node) for start, end, node in zip(borders[:-1], borders[1:], nodes, strict=True))
    return parts if costs.bottleneck_s(parts) < inf else None


# ---- 1. partition --------------------------------------------------------------------------------------------------


def partition(costs: Costs) -> list[int] | None:
    """The borders 0 = j_0 < j_1 < ... < j_K = B; None where no partition fits the smallest memory."""
    smallest = min(range(costs.nodes), key=lambda node: costs.cluster.nodes[node].memory_bytes or inf)
    reach = [costs.reach(start, smallest) for start in range(costs.blocks)]
    sizes = costs.chain.cut_bytes
    for limit in sorted({0, *sizes[1 : costs.blocks]}):
        borders = _least_sum(reach, sizes, limit, costs.nodes)
        if borders is not None:
            return borders
    return None


def _least_sum(reach: Sequence[int], sizes: Sequence[int], limit: int, parts: int) -> list[int] | None:
    """Of the partitions into at most `parts` parts with no transfer above `limit`, the one that sends the least."""
    blocks = len(reach)
    layer: dict[int, tuple[int, list[int]]] = {0: (0, [0])}
    best: tuple[int, list[int]] | None = None
    for _ in range(parts):
        following: dict[int, tuple[int, list[int]]] = {}
        for start, (total, borders) in layer.items():
            for end in range(start + 1, reach[start] + 1):
                if end < blocks and sizes[end] > limit:
                    continue
                value = total + (sizes[end] if end < blocks else 0)
                if end not in following or value < following[end][0]:
                    following[end] = (value, [*borders, end])
        done = following.pop(blocks, None)
        if done is not None and (best is None or done[0] < best[0]):
            best = done
        layer = following
    return None if best is None else best[1]


# ---- 2. placement --------------------------------------------------------------------------------------------------


def place(costs: Costs, borders: Sequence[int], *, classes: int = CLASSES) -> list[int] | None:
    """A node for each part; None where no path was found."""
    transfers = [costs.chain.cut_bytes[cut] for cut in borders[1:-1]]
    if not transfers:
        return [0]
    nodes: list[int | None] = [None] * (len(transfers) + 1)
    for first, last in _runs(_classes(transfers, classes)):
        unused = [node for node in range(costs.nodes) if node not in nodes]
        path = _widest_path(costs.link, unused, last - first + 1, nodes[first], nodes[last])
        if path is None:
            return None
        nodes[first : last + 1] = path
    return [node for node in nodes if node is not None]


def _classes(transfers: Sequence[int], classes: int) -> list[int]:
    """0 is the class of the largest transfers."""
    edges = np.quantile(transfers, np.arange(1, classes) / classes)
    return [int((size < edges).sum()) for size in transfers]


def _runs(kinds: Sequence[int]) -> list[tuple[int, int]]:
    """(first part, last part) of every run of neighbouring transfers of one class: highest class, longest run first."""
    runs: list[tuple[int, int, int]] = []
    first = 0
    for index in range(1, len(kinds) + 1):
        if index == len(kinds) or kinds[index] != kinds[first]:
            runs.append((kinds[first], first, index))
            first = index
    return [(begin, end) for _, begin, end in sorted(runs, key=lambda run: (run[0], run[1] - run[2], run[1]))]


def _widest_path(
    link: Sequence[Sequence[float]], unused: Sequence[int], length: int, first: int | None, last: int | None
) -> list[int] | None:
    """The path of `length` nodes with the fastest slowest link; its ends are given where they are placed already."""
    ends = [node for node in (first, last) if node is not None]
    pool = [*unused, *ends]
    rates = sorted({link[u][v] for u in pool for v in pool if u != v and link[u][v] > 0})
    best: list[int] | None = None
    low, high = 0, len(rates) - 1
    while low <= high:
        middle = (low + high) // 2
        path = _PathSearch(link, unused, rates[middle], first, last).find(length)
        if path is None:
            high = middle - 1
        else:
            best, low = path, middle + 1
    return best


class _PathSearch:
    """A simple path of a given number of nodes in the graph of the links of at least some bandwidth."""

    def __init__(
        self, link: Sequence[Sequence[float]], unused: Sequence[int], rate: float, first: int | None, last: int | None
    ) -> None:
        pool = [*unused, *([last] if last is not None else [])]
        starts = [first] if first is not None else list(unused)
        self._following = {
            u: [v for v in pool if v not in (u, first) and link[u][v] >= rate] for u in {*starts, *unused}
        }
        self._starts = starts
        self._last = last
        self._budget = MAX_STATES

    def find(self, length: int) -> list[int] | None:
        for start in self._starts:
            path = self._extend([start], length)
            if path is not None:
                return path
        return None

    def _extend(self, path: list[int], length: int) -> list[int] | None:
        if len(path) == length:
            return path
        self._budget -= 1
        if self._budget < 0:
            return None
        for node in self._following[path[-1]]:
            at_end = len(path) == length - 1
            if node in path or (self._last is not None and at_end != (node == self._last)):
                continue
            found = self._extend([*path, node], length)
            if found is not None:
                return found
        return None
