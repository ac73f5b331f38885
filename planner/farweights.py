"""What weights cost that are in no cache.

A machine's samples are of layers that find their weights in the caches that its cores share (`stages.timing`). A stage
with more weights than those caches hold reads them from memory, for each frame anew. Each byte then costs a layer so
many seconds more, which depends on its type: a convolution that goes over its weights several times waits as often.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class FarWeights:
    """Attributes:
    seconds_per_byte: by type of layer, what a byte of its weights costs more where all weights come from memory.
    shares: (bytes, share), both ascending: of that cost, the share that a session with so many bytes of weights in
        all has; 0 below the first, 1 above the last, and linear in the logarithm of the bytes between two.
    """

    seconds_per_byte: Mapping[str, float]
    shares: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        """Raises ValueError where a number is negative or the shares do not ascend."""
        if any(value < 0 or not math.isfinite(value) for value in self.seconds_per_byte.values()):
            raise ValueError("seconds per byte of weights must be finite and not negative")
        if any(size <= 0 or not 0 <= share <= 1 for size, share in self.shares) or any(
            later[0] <= size or later[1] < share for (size, share), later in pairwise(self.shares)
        ):
            raise ValueError("the shares of weights from memory must ascend from 0 to 1 with their bytes")

    def share(self, session_bytes: float) -> float:
        """Of a session whose weights have so many bytes in all."""
        if not self.shares or session_bytes <= self.shares[0][0]:
            return 0.0
        for (below, low), (above, high) in pairwise(self.shares):
            if session_bytes < above:
                return low + (high - low) * math.log(session_bytes / below) / math.log(above / below)
        return 1.0

    def seconds(self, kind: str, weight_bytes: float, session_bytes: float) -> float:
        """What a layer of this type takes longer, of a session with so many bytes of weights in all."""
        return self.share(session_bytes) * self.seconds_per_byte.get(kind, 0.0) * weight_bytes
