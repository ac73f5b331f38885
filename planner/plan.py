"""What the planner answers: which node runs which blocks, how fast that is, and how fast it can be at best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Objective = Literal["bottleneck", "latency"]


class NoPlanError(Exception):
    """No split of the chain fits the nodes. The message says which limit stands in the way, and by how much."""


class GaveUpError(NoPlanError):
    """No plan was found before the time was over, and it is not known whether there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Blocks [first_block, end_block) on one node. `codec`: what the activation goes through that is sent to it."""

    first_block: int
    end_block: int
    node: str
    codec: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a frame's way: a stage's computing, or a transfer.

    Attributes:
        kind: `compute` on `node`, or `transfer` from `node` to `to`; `source` and `sink` stand for the outside.
        cut: the cut that crosses, or the stage's first block.
        size_bytes: what crosses; 0 for computing.
        seconds: how long it takes for one frame; of a transfer with its encoding and decoding.
        busy_s: how long the processor, or the slowest link that it crosses, works for one frame: less than `seconds`
            in a star, where a transfer crosses two links.
        codec: of a transfer between two nodes.
    """

    kind: Literal["compute", "transfer"]
    node: str
    to: str
    cut: int
    size_bytes: int
    seconds: float
    busy_s: float
    codec: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Stages in order: the first starts at block 0, each starts where the one before ends, the last ends at B.

    Attributes:
        stages: at least one; no node twice.
        steps: every computing and transfer of a frame, in order.
        objective: what was minimised first.
        bottleneck_s: the longest `busy_s`: the pipeline's rate is 1 / bottleneck_s frames per second.
        latency_s: the sum of the steps' `seconds`.
        lower_bound_s: no plan has a smaller value of the objective.
        gap: (value - lower_bound_s) / value; 0 where the plan is proven to be optimal.
        solve_s: how long the planner took.
    """

    stages: tuple[Stage, ...]
    steps: tuple[Step, ...] = ()
    objective: Objective = "bottleneck"
    bottleneck_s: float = 0.0
    latency_s: float = 0.0
    lower_bound_s: float = 0.0
    solve_s: float = 0.0

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(stage.node for stage in self.stages)

    @property
    def value_s(self) -> float:
        """The objective's value."""
        return self.bottleneck_s if self.objective == "bottleneck" else self.latency_s

    @property
    def gap(self) -> float:
        return 0.0 if self.value_s <= self.lower_bound_s else (self.value_s - self.lower_bound_s) / self.value_s

    @property
    def proven(self) -> bool:
        """Whether no plan is better (to within rounding)."""
        return self.gap <= 1e-9
