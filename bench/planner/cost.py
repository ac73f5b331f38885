"""What a plan costs, computed apart from the planner: two programs that agree are less likely to be wrong together.

Same symbols as `planner.problem`, over all nodes, without merging equal ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf

from planner.chain import Chain
from planner.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Part:
    """One stage: blocks [start, end) on the cluster's node of this index."""

    start: int
    end: int
    node: int


Parts = tuple[Part, ...]


class Costs:
    """Seconds of every step of a chain on a cluster; infinite where it is impossible."""

    def __init__(self, chain: Chain, cluster: Cluster) -> None:
        self.chain = chain
        self.cluster = cluster
        self.blocks = chain.blocks
        self.nodes = len(cluster.nodes)
        self.need = [
            [chain.stage_memory_bytes(i, j) if i < j else 0 for j in range(self.blocks + 1)] for i in range(self.blocks)
        ]
        seconds = [chain.seconds_on(node.name, node.flops_per_s) for node in cluster.nodes]
        self._done = [_running_sum(row) for row in seconds]
        self.link = [[self._link(u, v) for v in range(self.nodes)] for u in range(self.nodes)]

    def fits(self, start: int, end: int, node: int) -> bool:
        return self.cluster.nodes[node].holds(self.need[start][end])

    def reach(self, start: int, node: int) -> int:
        """The last cut to which a stage on the node that begins at `start` may go; `start` if no block fits."""
        end = start
        while end < self.blocks and self.fits(start, end + 1, node):
            end += 1
        return end

    def compute_s(self, start: int, end: int, node: int) -> float:
        return self._done[node][end] - self._done[node][start] if self.fits(start, end, node) else inf

    def transfer_s(self, cut: int, sender: int, receiver: int) -> float:
        """Between the arrivals of two frames that are sent one behind the other."""
        return self._send(self.chain.cut_bytes[cut], self.link[sender][receiver])

    def source_s(self, node: int) -> float:
        rates = self.cluster.source_bytes_per_s
        return 0.0 if rates is None else self._send(self.chain.published_bytes, rates[node])

    def sink_s(self, node: int) -> float:
        rates = self.cluster.sink_bytes_per_s
        return 0.0 if rates is None else self._send(self.chain.cut_bytes[-1], rates[node])

    def bottleneck_s(self, parts: Sequence[Part]) -> float:
        """The slowest step.

        Raises:
            ValueError: not a plan: blocks are left out or out of order, or a node is there twice.
        """
        borders = [0, *(part.end for part in parts)]
        if [part.start for part in parts] != borders[:-1] or borders[-1] != self.blocks:
            raise ValueError(f"the stages {parts} do not cover blocks 0 to {self.blocks}")
        if any(part.end <= part.start for part in parts):
            raise ValueError(f"a stage of {parts} is empty")
        if len({part.node for part in parts}) < len(parts):
            raise ValueError(f"a node is there twice in {parts}")
        steps = [self.source_s(parts[0].node), self.sink_s(parts[-1].node)]
        steps += [self.compute_s(part.start, part.end, part.node) for part in parts]
        steps += [self.transfer_s(one.end, one.node, two.node) for one, two in pairwise(parts)]
        return max(steps)

    def _link(self, sender: int, receiver: int) -> float:
        """Bytes per second; of a star's two links the slower one, since both carry frames at the same time."""
        cluster = self.cluster
        if sender == receiver:
            return 0.0
        if cluster.topology == "star":
            assert cluster.up_bytes_per_s is not None
            assert cluster.down_bytes_per_s is not None
            return min(cluster.up_bytes_per_s[sender], cluster.down_bytes_per_s[receiver])
        return inf if cluster.bandwidth_bytes_per_s is None else cluster.bandwidth_bytes_per_s[sender][receiver]

    def _send(self, size_bytes: int, rate: float) -> float:
        if rate == 0:
            return inf
        limit = self.cluster.max_payload_bytes
        messages = 1 if limit is None else max(1, ceil(size_bytes / limit))
        if messages > 1 and not self.cluster.chunked:
            return inf
        return size_bytes / rate + messages * self.cluster.message_overhead_s


def _running_sum(values: Sequence[float]) -> list[float]:
    total = [0.0]
    for value in values:
        total.append(total[-1] + value)
    return total
