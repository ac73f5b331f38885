"""Profiles whose layers keep a known law."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from planner.profile import Profile, Sample
from stages.features import FEATURES

Law = Callable[[Mapping[str, float]], float]


def roofline_law(row: Mapping[str, float]) -> float:
    """2 us, 100 GFLOP/s, 10 GB/s."""
    return 2e-6 + row["flops"] / 1e11 + (row["bytes_in"] + row["bytes_out"]) / 1e10 + row["bytes_weights"] / 2e10


def strided_law(row: Mapping[str, float]) -> float:
    """Not a roofline: strides are slower, and many channels faster."""
    return roofline_law(row) * (1 + 0.5 * (row["stride"] - 1)) * (1 + 4 / row["channels_in"])


def convolution_row(random: np.random.Generator) -> dict[str, float]:
    """The features of a convolution of random hyper-parameters."""
    channels, filters = (int(8 * 2 ** random.integers(0, 5)) for _ in range(2))
    size, stride = int(2 ** random.uniform(2, 6)), int(random.integers(1, 3))
    out = max(1, size // stride)
    found = dict.fromkeys(FEATURES, 0.0) | {
        "flops": 2.0 * filters * out**2 * channels * 9,
        "bytes_in": 4.0 * channels * size**2,
        "bytes_out": 4.0 * filters * out**2,
        "bytes_weights": 36.0 * channels * filters,
        "channels_in": float(channels),
        "channels_out": float(filters),
        "height_in": float(size),
        "stride": float(stride),
    }
    found["work"] = found["flops"]
    found["intensity"] = found["flops"] / (found["bytes_in"] + found["bytes_out"] + found["bytes_weights"])
    return found


def make_profile(
    laws: Mapping[str, Law], *, count: int = 200, noise: float = 0.0, seed: int = 0, **facts: Any
) -> Profile:
    """So many samples of each type, whose seconds are by its law, and a relative error."""
    random = np.random.default_rng(seed)
    samples = []
    for kind, law in laws.items():
        for index in range(count):
            row = convolution_row(random)
            seconds = law(row) * float(np.exp(noise * random.standard_normal()))
            features = tuple(row[name] for name in FEATURES)
            samples.append(Sample(kind=kind, features=features, seconds=seconds, index=index))
    values = {"machine": {"threads": 1}, "overhead_s": 5e-6, **facts}
    return Profile(feature_names=FEATURES, samples=tuple(samples), **values)
