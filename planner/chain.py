"""A model as the planner sees it: a chain of B blocks with B + 1 cuts (SEIFER, arXiv 2304.11941, section III)."""

from __future__ import annotations

import math
from dataclasses import dataclass


class ChainError(ValueError):
    """The lists of a chain do not fit together, or hold a negative or non-finite number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Blocks 0..B-1 and cuts 0..B; cut k lies before block k, cut 0 is the input, cut B the output.

    Attributes:
        name: the model's name.
        cut_bytes: B + 1 numbers: bytes of one frame's activation at each cut.
        block_memory_bytes: B numbers: weights; additive over the blocks of a stage.
        block_peak_bytes: B numbers: largest working set; a stage needs the sum of memory plus the maximum of peak.
        block_flops: B numbers: floating-point operations for one frame.
    """

    name: str
    cut_bytes: tuple[int, ...]
    block_memory_bytes: tuple[int, ...]
    block_peak_bytes: tuple[int, ...]
    block_flops: tuple[int, ...]

    def __post_init__(self) -> None:
        blocks = len(self.block_memory_bytes)
        if blocks == 0:
            raise ChainError(f"chain '{self.name}' has no block")
        for field, wanted in (("cut_bytes", blocks + 1), ("block_peak_bytes", blocks), ("block_flops", blocks)):
            got = len(getattr(self, field))
            if got != wanted:
                raise ChainError(f"chain '{self.name}': {field} has {got} entries, {wanted} are needed")
        for field in ("cut_bytes", "block_memory_bytes", "block_peak_bytes", "block_flops"):
            for index, value in enumerate(getattr(self, field)):
                if not math.isfinite(value) or value < 0:
                    raise ChainError(f"chain '{self.name}': {field}[{index}] is {value}: it must be finite and >= 0")

    @property
    def blocks(self) -> int:
        """B, the number of blocks."""
        return len(self.block_memory_bytes)

    def stage_memory_bytes(self, first_block: int, end_block: int) -> int:
        """What a stage of blocks [first_block, end_block) needs: the sum of memory plus the maximum of peak."""
        return sum(self.block_memory_bytes[first_block:end_block]) + max(self.block_peak_bytes[first_block:end_block])

    def stage_flops(self, first_block: int, end_block: int) -> int:
        return sum(self.block_flops[first_block:end_block])
