"""A model as the planner sees it: a chain of B blocks with B + 1 cuts (SEIFER, arXiv 2304.11941, section III)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from planner.codec import CodecCost, within

MAX_NUMBER = 1e300
"""Of bytes, operations or seconds: what is larger is a mistake, and would overflow in sums."""


SecondsSource = Literal["measured", "calibrated", "predicted"]
"""`calibrated`: predicted from a machine's profile, and corrected by a few runs of what is deployed."""


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
        block_seconds: B seconds per node name; on other nodes FLOPs and speed tell the time.
        block_seconds_source: per node name where these come from; a node that is not there was measured.
        codecs: those that transfers may use, besides none.
        frame_bytes: of one frame as it is published; None: as many as the activation of cut 0, which the head makes of
            it. A picture is smaller than that.
    """

    name: str
    cut_bytes: tuple[int, ...]
    block_memory_bytes: tuple[int, ...]
    block_peak_bytes: tuple[int, ...]
    block_flops: tuple[int, ...]
    block_seconds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    block_seconds_source: Mapping[str, SecondsSource] = field(default_factory=dict)
    codecs: tuple[CodecCost, ...] = ()
    frame_bytes: int | None = None

    def __post_init__(self) -> None:
        blocks = len(self.block_memory_bytes)
        if blocks == 0:
            raise ChainError(f"chain '{self.name}' has no block")
        self._check("cut_bytes", self.cut_bytes, blocks + 1)
        for name in ("block_memory_bytes", "block_peak_bytes", "block_flops"):
            self._check(name, getattr(self, name), blocks)
        for node, seconds in self.block_seconds.items():
            self._check(f"block_seconds[{node!r}]", seconds, blocks)
        for node in self.block_seconds_source:
            if node not in self.block_seconds:
                raise ChainError(f"chain '{self.name}': block_seconds_source names {node!r}, block_seconds does not")
        for codec in self.codecs:
            self._check(f"codecs[{codec.name!r}].ratio", codec.ratio, blocks + 1)
        self._check("frame_bytes", (self.published_bytes,), 1)

    def _check(self, name: str, values: Sequence[float], wanted: int) -> None:
        if len(values) != wanted:
            raise ChainError(f"chain '{self.name}': {name} has {len(values)} entries, {wanted} are needed")
        for index, value in enumerate(values):
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_NUMBER:
                raise ChainError(f"chain '{self.name}': {name}[{index}] is {value!r}: a finite number >= 0 is needed")

    @property
    def blocks(self) -> int:
        """B, the number of blocks."""
        return len(self.block_memory_bytes)

    @property
    def published_bytes(self) -> int:
        """Of one frame on its way to the head."""
        return self.cut_bytes[0] if self.frame_bytes is None else self.frame_bytes

    def stage_memory_bytes(self, first_block: int, end_block: int) -> int:
        """What a stage of blocks [first_block, end_block) needs: the sum of memory plus the maximum of peak."""
        return sum(self.block_memory_bytes[first_block:end_block]) + max(self.block_peak_bytes[first_block:end_block])

    def within(self, max_accuracy_loss: float) -> Chain:
        """The same, with those codecs alone that may be used where answers may lose so much accuracy, 0..1."""
        allowed = within(self.codecs, max_accuracy_loss)
        return self if allowed == self.codecs else replace(self, codecs=allowed)

    def speed_of(self, node: str, flops_per_s: float | None) -> float | None:
        """FLOP/s of a node: as its blocks were measured, else as it is said; None: not known."""
        measured = sum(self.block_seconds.get(node, ()))
        return sum(self.block_flops) / measured if measured else flops_per_s

    def seconds_on(self, node: str, flops_per_s: float | None) -> tuple[float, ...]:
        """B seconds: what each block takes on a node: as measured, else by its speed; 0 where neither is known."""
        measured = self.block_seconds.get(node)
        if measured is not None:
            return measured
        if flops_per_s is None:
            return (0.0,) * self.blocks
        return tuple(flops / flops_per_s for flops in self.block_flops)
