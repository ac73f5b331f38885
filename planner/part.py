"""Parts: whatever takes the activation of one cut to that of a later one.

A stage is the part that a plan is made of. The others stand by for a stage that is lost (CONTINUER, section III): a
copy of the stage on another node (standby), the identity (skip), a small fitted replacement (stand-in), and a small
classifier that ends the answer early (exit: a part that reaches from its cut to the last). What a frame can do after a
failure is a path of parts from cut 0 to cut B over nodes that are alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.chain import Chain

Technique = Literal["none", "standby", "stand-in", "skip", "exit"]
"""How a part comes about; `none`: the stage itself."""

SEVERITY: tuple[Technique, ...] = ("none", "standby", "stand-in", "skip", "exit")
"""From what changes an answer least to what changes it most. An answer that several parts changed is named after the
last of them in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Blocks [first_block, end_block), or what stands in for them.

    Attributes:
        technique: see `Technique`.
        variant: tells parts of one technique for the same blocks apart: `small`, `large`, `int8`; may be empty.
        memory_bytes: of its weights.
        peak_bytes: of its working set while it runs, for one frame.
        flops: floating-point operations for one frame.
        accuracy: of the whole network with this part in the place of its blocks, 0..1; None: not known.
        low, high: the 95 % interval of `accuracy`; None where it is not known.
    """

    technique: Technique
    first_block: int
    end_block: int
    variant: str = ""
    memory_bytes: int = 0
    peak_bytes: int = 0
    flops: int = 0
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.first_block < self.end_block:
            raise ValueError(f"a part of blocks [{self.first_block}, {self.end_block}) is empty")

    @property
    def name(self) -> str:
        """Unique among the parts of one model: `stand-in:3-7:large`."""
        kind = "stage" if self.technique == "none" else self.technique
        name = f"{kind}:{self.first_block}-{self.end_block}"
        return f"{name}:{self.variant}" if self.variant else name


def stage_part(chain: Chain, first_block: int, end_block: int, technique: Technique = "none") -> Part:
    """Blocks [first_block, end_block) of a chain as a part: a stage, or its standby in full precision."""
    return Part(
        technique=technique,
        first_block=first_block,
        end_block=end_block,
        memory_bytes=sum(chain.block_memory_bytes[first_block:end_block]),
        peak_bytes=max(chain.block_peak_bytes[first_block:end_block]),
        flops=sum(chain.block_flops[first_block:end_block]),
    )
