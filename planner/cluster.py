"""The machines as the planner sees them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One machine.

    Attributes:
        name: unique in the cluster.
        memory_bytes: what stages may use on it; None: no limit.
    """

    name: str
    memory_bytes: int | None = None

    def holds(self, size_bytes: int) -> bool:
        return self.memory_bytes is None or size_bytes <= self.memory_bytes
