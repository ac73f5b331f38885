"""What the planner answers: which node runs which blocks."""

from __future__ import annotations

from dataclasses import dataclass


class NoPlanError(Exception):
    """No split of the chain fits the nodes. The message says which limit stands in the way, and by how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Blocks [first_block, end_block) on one node."""

    first_block: int
    end_block: int
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Stages in order: the first starts at block 0, each starts where the one before ends, the last ends at B.

    Attributes:
        stages: at least one; no node twice.
        largest_stage_flops: floating-point operations of the largest stage, for one frame.
        total_flops: of the whole chain. `largest_stage_flops / total_flops` bounds the speed-up from pipelining.
    """

    stages: tuple[Stage, ...]
    largest_stage_flops: int
    total_flops: int

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(stage.node for stage in self.stages)
