"""The time of a layer from its operations and bytes alone: t = a + b x FLOPs + c x activation bytes + d x weight bytes.

a, b, c, d >= 0, by least squares of the relative errors. It is crude within the range of what was measured, but goes on
sensibly beyond it, where trees stay flat: the trees are fitted on what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TERMS = 4
FLOOR = 0.5
"""No layer is taken for faster than this times the fastest sample: the time's logarithm is predicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Attributes:
    coefficients: a (seconds), b (seconds per operation), c and d (seconds per byte).
    least_s: the least that is predicted.
    """

    coefficients: tuple[float, float, float, float]
    least_s: float

    @classmethod
    def fit(cls, flops: Floats, activation_bytes: Floats, weight_bytes: Floats, seconds: Floats) -> Roofline:
        """From n >= 1 layers, each argument of shape (n,)."""
        columns = np.stack([np.ones_like(seconds), flops, activation_bytes, weight_bytes], axis=1)
        a, b, c, d = non_negative_least_squares(columns / seconds[:, None], np.ones_like(seconds))
        return cls(coefficients=(float(a), float(b), float(c), float(d)), least_s=FLOOR * float(seconds.min()))

    def seconds(self, flops: Any, activation_bytes: Any, weight_bytes: Any) -> Floats:
        """For numbers or arrays of one shape; at least `least_s`."""
        a, b, c, d = self.coefficients
        total = a + b * np.asarray(flops) + c * np.asarray(activation_bytes) + d * np.asarray(weight_bytes)
        return np.maximum(total, self.least_s)


def non_negative_least_squares(matrix: Floats, target: Floats) -> Floats:
    """x >= 0 with the least |matrix x - target|; matrix (n, k) of few columns: every set of columns is tried."""
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    scaled = matrix / scale
    count = matrix.shape[1]
    best, least = np.zeros(count), float(target @ target)
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            columns = list(chosen)
            part, *_ = np.linalg.lstsq(scaled[:, columns], target, rcond=None)
            if (part < 0).any():
                continue
            left = float(((scaled[:, columns] @ part - target) ** 2).sum())
            if left < least * (1 - 1e-12):
                least = left
                best = np.zeros(count)
                best[columns] = part
    return np.asarray(best / scale)
