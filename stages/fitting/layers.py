"""One layer of a stand-in: fitted so that, for the input that it will get, it gives what the network has at its end.

    y = act(K * u(x) + S * x + c)

u are a few hidden units: those of the block that is replaced (`stages.fitting.units`), or where it has none linear
ones from reduced-rank regression; K and S (1x1, the shortcut) and c come from least squares. Then every channel is
scaled and shifted so that its mean and variance are the network's: least squares alone gives answers that vary too
little, and the blocks after it have never seen such.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.fitting.activations import Array
from stages.fitting.fragment import Fragment
from stages.fitting.regression import Indices, Moments, choose_groups, directions, ridge, with_ones

ROWS = 60_000
"""Pixels that a fit looks at: hundreds for each weight of an output channel of ResNet-32."""

CHOICE_ROWS = 30_000
"""Pixels that the choice of units looks at."""

MAX_FEATURE_BYTES = 2**28
REFITS = 3
MATCH_STEPS = 6
MATCH_ROWS = 20_000
SATURATED_SHARE = 1e-3
"""A highest value that so many of all values have is the activation's upper end (6 in ReLU6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the network's activation function cuts off: `low` 0 after a ReLU, `high` 6 after a ReLU6; None: nothing."""

    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Array) -> Bounds:
        least, most = float(values.min()), float(values.max())
        saturated = np.count_nonzero(values == most) > SATURATED_SHARE * values.size
        low = 0.0 if least >= 0 else None
        return cls(low=low, high=most if low is not None and saturated and most > 0 else None)

    def apply(self, values: Array) -> Array:
        return values if self.low is None and self.high is None else np.clip(values, self.low, self.high)

    def beyond(self, targets: Array, values: Array) -> Array:
        """Targets before the activation function: where it cuts off, what is beyond its end already is right."""
        if self.low is not None:
            targets = np.where(targets <= self.low, np.minimum(values, self.low), targets)
        if self.high is not None:
            targets = np.where(targets >= self.high, np.maximum(values, self.high), targets)
        return targets

    def emit(self, fragment: Fragment, source: str, output: str) -> str:
        if self.high is not None:
            source = fragment.op("Min", source, fragment.weight(np.array(self.high)))
        return fragment.op("Relu" if self.low is not None else "Identity", source, output=output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Which pixels of which images are looked at: the same number of random ones of each image.

    Attributes:
        image, row, column: int64 (n,), in the target's pixels.
    """

    image: Indices
    row: Indices
    column: Indices

    @classmethod
    def choose(cls, shape: tuple[int, ...], rows: int, seed: int = 0) -> Places:
        """Of a target (N, C, H, W)."""
        images, _, height, width = shape
        pixels = height * width
        each = min(pixels, max(1, rows // images))
        random = np.random.default_rng(seed)
        if each == pixels:
            picked = np.tile(np.arange(pixels), images)
        else:
            picked = random.random((images, pixels)).argpartition(each - 1, axis=1)[:, :each].reshape(-1)
        image = np.repeat(np.arange(images), each)
        return cls(image=image, row=picked // width, column=picked % width)

    def patches(self, values: Array, kernel: int, stride: int) -> Array:
        """(N, C, H, W) to rows (n, C * kernel * kernel): what a convolution padded by kernel // 2 would read."""
        row, column = self.row * stride, self.column * stride
        if kernel == 1:
            found: Array = values[self.image, :, row, column]
            return found
        pad = kernel // 2
        padded = np.pad(values, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))
        return windows[self.image, :, row, column].reshape(len(row), -1)


def rows_for(features: int, most: int = ROWS) -> int:
    """How many rows of so many features fit into memory."""
    return max(1000, min(most, MAX_FEATURE_BYTES // (4 * features)))


def linear_kernel(channels: int, stride: int) -> int:
    """Of linear units: wide enough that no pixel is passed over, unless that is too much to fit."""
    kernel = 3 if stride <= 2 else stride | 1
    return kernel if channels * kernel * kernel <= 2500 else 1


def fit_weights(rows: Array, targets: Array, bounds: Bounds) -> Array:
    """W (f + 1, o) with act(rows W) close to the targets and of the same mean and variance in every column."""
    features = with_ones(rows)
    moments = Moments.of(rows, targets)
    weights = ridge(moments).astype(np.float32)
    if bounds != Bounds(low=None, high=None):
        for _ in range(REFITS):
            latent = bounds.beyond(targets, features @ weights)
            cross = (features.T @ latent).astype(np.float64) / len(rows)
            weights = ridge(Moments(gram=moments.gram, cross=cross)).astype(np.float32)
    thinned = slice(None, None, max(1, len(rows) // MATCH_ROWS))
    scale, shift = match(features[thinned] @ weights, targets[thinned], bounds)
    weights = weights * scale
    weights[-1] += shift
    return weights


def match(values: Array, targets: Array, bounds: Bounds) -> tuple[Array, Array]:
    """Scale and shift per column so that act(values * scale + shift) has the targets' mean and standard deviation."""
    mean, deviation = targets.mean(axis=0), targets.std(axis=0)
    scale, shift = np.ones_like(mean), np.zeros_like(mean)
    for _ in range(MATCH_STEPS):
        spread = np.maximum(bounds.apply(values * scale + shift).std(axis=0), 1e-6)
        factor = np.clip(deviation / spread, 0.5, 2.0)
        scale, shift = scale * factor, shift * factor
        shift = shift + mean - bounds.apply(values * scale + shift).mean(axis=0)
    return scale, shift


def choose_units(hidden: Array, x: Array, target: Array, kernel: int, stride: int, count: int) -> list[int]:
    """Which hidden channels to keep, given that the shortcut is there. `stride` is the last convolution's."""
    channels, square = hidden.shape[1], kernel * kernel
    places = Places.choose(target.shape, rows_for(channels * square + x.shape[1], CHOICE_ROWS))
    rows = [places.patches(hidden, kernel, stride), places.patches(x, 1, shortcut_stride(x, target))]
    moments = Moments.of(np.concatenate(rows, axis=1), _targets(places, target))
    groups = [np.arange(index * square, (index + 1) * square) for index in range(channels)]
    base = np.arange(channels * square, len(moments.gram))
    return sorted(choose_groups(moments, groups, base, count))


def linear_units(x: Array, target: Array, kernel: int, count: int) -> Array:
    """Weights (count, C, kernel, kernel) of linear units."""
    channels, square = x.shape[1], kernel * kernel
    places = Places.choose(target.shape, rows_for(channels * square, CHOICE_ROWS))
    moments = Moments.of(places.patches(x, kernel, shortcut_stride(x, target)), _targets(places, target))
    middle = np.append(np.arange(square // 2, channels * square, square), channels * square)
    return directions(moments, middle, count).T.reshape(-1, channels, kernel, kernel)


def finish(
    fragment: Fragment,
    source: str,
    units: str,
    hidden: Array,
    x: Array,
    target: Array,
    *,
    kernel: int,
    stride: int,
    output: str,
) -> None:
    """Fits K, S and c for hidden units (N, r, H, W) and adds them to the fragment."""
    count, channels, out = hidden.shape[1], x.shape[1], target.shape[1]
    inner = count * kernel * kernel
    places = Places.choose(target.shape, rows_for(inner + channels))
    across = shortcut_stride(x, target)
    rows = np.concatenate([places.patches(hidden, kernel, stride), places.patches(x, 1, across)], axis=1)
    bounds = Bounds.of(target)
    weights = fit_weights(rows, _targets(places, target), bounds)
    last = weights[:inner].T.reshape(out, count, kernel, kernel)
    shortcut = weights[inner:-1].T.reshape(out, channels, 1, 1)
    total = fragment.op(
        "Add",
        fragment.conv(units, last, weights[-1], stride=stride),
        fragment.conv(source, shortcut, stride=across),
    )
    bounds.emit(fragment, total, output)


def shortcut_stride(x: Array, target: Array) -> int:
    """Rows of x to one of the target."""
    return -(-int(x.shape[2]) // int(target.shape[2]))


def fits(source: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether a strided convolution leads from one (1, C, H, W) to the other."""
    if len(source) != 4 or len(target) != 4:
        return False
    stride = math.ceil(source[2] / target[2])
    return all(math.ceil(source[axis] / stride) == target[axis] for axis in (2, 3))


def _targets(places: Places, target: Array) -> NDArray[Any]:
    return places.patches(target, 1, 1)
