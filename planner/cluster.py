"""The machines and the links between them as the planner sees them.

Symbols, used throughout `planner`: n nodes; M_v memory and s_v speed of node v; t_uv seconds per byte from u to v, of
which r_uv on the slowest link in between.

- mesh: t_uv = r_uv = 1 / bandwidth_uv for every ordered pair: a broker on every node, so a message crosses one link.
- star: one broker in the middle, which stores a message before it sends it on. So it crosses two links, one after the
  other, t_uv = 1 / up_u + 1 / down_v, which carry different frames at the same time, r_uv = max(1 / up_u, 1 / down_v).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Row = tuple[float, ...]

MAX_NUMBER = 1e300


class ClusterError(ValueError):
    """The description of a cluster does not fit together, or holds an impossible number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One machine.

    Attributes:
        name: unique in the cluster.
        memory_bytes: M_v, what stages may use on it; None: no limit.
        flops_per_s: s_v, its speed; None: the time that it computes is not counted.
    """

    name: str
    memory_bytes: int | None = None
    flops_per_s: float | None = None

    def __post_init__(self) -> None:
        if self.memory_bytes is not None:
            _check(f"node '{self.name}': memory_bytes", self.memory_bytes)
        if self.flops_per_s is not None:
            _check(f"node '{self.name}': flops_per_s", self.flops_per_s, positive=True)

    def holds(self, size_bytes: int) -> bool:
        return self.memory_bytes is None or size_bytes <= self.memory_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Nodes and links. A bandwidth of 0 means: there is no link.

    Attributes:
        nodes: n nodes.
        topology: see above.
        bandwidth_bytes_per_s: mesh: n rows of n numbers, row u the links from node u; the diagonal is not looked at.
            None: links between nodes are not counted.
        up_bytes_per_s, down_bytes_per_s: star: n numbers each, from and to node v.
        source_bytes_per_s, sink_bytes_per_s: n numbers: from where frames come to node v, and from node v to
            where results go. None: not counted.
        message_overhead_s: time of every message besides its bytes.
        max_payload_bytes: the broker's limit; None: none. A larger activation is sent in chunks, each a message.
        chunked: False: a larger activation cannot be sent at all.
    """

    nodes: tuple[NodeSpec, ...]
    topology: Literal["mesh", "star"] = "mesh"
    bandwidth_bytes_per_s: tuple[Row, ...] | None = None
    up_bytes_per_s: Row | None = None
    down_bytes_per_s: Row | None = None
    source_bytes_per_s: Row | None = None
    sink_bytes_per_s: Row | None = None
    message_overhead_s: float = 0.0
    max_payload_bytes: int | None = None
    chunked: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.nodes)

    def subset(self, names: Sequence[str]) -> Cluster:
        """The same cluster with these nodes alone, in this order. Raises ClusterError where one is not there."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ClusterError(f"node '{unknown[0]}' is not in the cluster: there are {', '.join(self.names)}")
        kept = [self.names.index(name) for name in names]

        def row(values: Row | None) -> Row | None:
            return None if values is None else tuple(values[index] for index in kept)

        links = self.bandwidth_bytes_per_s
        return replace(
            self,
            nodes=tuple(self.nodes[index] for index in kept),
            bandwidth_bytes_per_s=None if links is None else tuple(row(links[index]) or () for index in kept),
            up_bytes_per_s=row(self.up_bytes_per_s),
            down_bytes_per_s=row(self.down_bytes_per_s),
            source_bytes_per_s=row(self.source_bytes_per_s),
            sink_bytes_per_s=row(self.sink_bytes_per_s),
        )

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ClusterError("the cluster has no node")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ClusterError(f"node name '{twice[0]}' is there twice")
        self._check_links()
        _check("message_overhead_s", self.message_overhead_s)
        if self.max_payload_bytes is not None:
            _check("max_payload_bytes", self.max_payload_bytes, positive=True)

    def _check_links(self) -> None:
        count = len(self.nodes)
        if self.topology == "star":
            if self.up_bytes_per_s is None or self.down_bytes_per_s is None:
                raise ClusterError("a star needs up_bytes_per_s and down_bytes_per_s")
            if self.bandwidth_bytes_per_s is not None:
                raise ClusterError("a star has up_bytes_per_s and down_bytes_per_s alone, no bandwidth_bytes_per_s")
        elif self.topology != "mesh":
            raise ClusterError(f"topology {self.topology!r} is neither 'mesh' nor 'star'")
        elif self.up_bytes_per_s is not None or self.down_bytes_per_s is not None:
            raise ClusterError("a mesh has no up_bytes_per_s or down_bytes_per_s: give bandwidth_bytes_per_s alone")
        for name in ("up_bytes_per_s", "down_bytes_per_s", "source_bytes_per_s", "sink_bytes_per_s"):
            row = getattr(self, name)
            if row is not None:
                _check_row(name, row, count)
        if self.bandwidth_bytes_per_s is not None:
            if len(self.bandwidth_bytes_per_s) != count:
                raise ClusterError(
                    f"bandwidth_bytes_per_s has {len(self.bandwidth_bytes_per_s)} rows, {count} are needed"
                )
            for index, row in enumerate(self.bandwidth_bytes_per_s):
                _check_row(f"bandwidth_bytes_per_s[{index}]", row, count)


def _check_row(name: str, row: Sequence[Any], count: int) -> None:
    if len(row) != count:
        raise ClusterError(f"{name} has {len(row)} numbers, {count} are needed")
    for index, value in enumerate(row):
        _check(f"{name}[{index}]", value, infinite=True)


def _check(name: str, value: Any, *, positive: bool = False, infinite: bool = False) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_unbounded = infinite and value == math.inf
    # A comparison with NaN is false; one with an integer beyond all floats works.
    if not is_number or not (0 <= value <= MAX_NUMBER or is_unbounded) or (positive and value == 0):
        wanted = "more than 0" if positive else "a number >= 0"
        raise ClusterError(f"{name} is {value!r}: it must be {wanted}")
