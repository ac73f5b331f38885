"""Predicts the seconds of layers from a machine's profile (CONTINUER, section "Latency prediction model").

For each type of layer a roofline t0(x) (`planner.roofline`) is fitted per layout, since kernels for another layout are
other kernels, and boosted trees g on log(t / t0): the prediction is t0(x) exp(s g(x)), so that beyond the range of the
samples it goes on as operations and bytes do; s, 0 to 1, is what the trees are worth on samples that they did not see.
Its interval is conformal: the residuals r of those samples have a quantile q, and 95 of 100 times the truth is within
[t exp(-q), t exp(q)].

A type without enough samples is predicted from operations and bytes alone: by its own roofline where it has a few
samples, else by one over all types. The prediction says so, and its interval is as wide as these samples differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner import boosting
from planner.profile import Profile, ProfileError, Sample
from planner.roofline import Roofline

Floats = NDArray[np.float64]

NEEDED = ("work", "bytes_in", "bytes_out", "bytes_weights", "blocked")
"""Features that the rooflines are made from: operations, bytes, and which layout a layer's kernel is for."""

LEAST_SAMPLES = 16
"""A type with fewer has no trees."""

FEW_SAMPLES = 5
"""A type with fewer has no roofline of its own either."""

CONFIDENCE = 0.95
LAYOUT_SAMPLES = 12
"""A layout with fewer goes with the others."""

UNKNOWN_FACTOR, FEW_FACTOR = 3.0, 1.5
"""The least factor of the interval of a type that was never profiled, and of one with few samples."""

BEYOND = 2.0
"""A layer with so much more operations or bytes than any sample is outside of what was measured."""

NOISE = 0.05
"""A sample that repeats itself within this is worth about as much as a perfect one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Of one layer.

    Attributes:
        seconds, low, high: the estimate and its 95 % interval.
        profiled: False: the type was never or hardly profiled, operations and bytes alone tell the time.
        within: False: the layer is outside the range of the samples.
    """

    kind: str
    seconds: float
    low: float
    high: float
    profiled: bool = True
    within: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """Rooflines of a type: of all of its samples, and of those with one layout, where there are enough."""

    common: Roofline
    by_layout: Mapping[float, Roofline]

    @classmethod
    def fit(cls, profile: Profile, rows: Floats, seconds: Floats) -> _Base:
        work, layouts = _work(profile, rows), _layouts(profile, rows)
        found = {}
        for layout in np.unique(layouts).tolist():
            same = layouts == layout
            if same.sum() >= LAYOUT_SAMPLES:
                flops, activation_bytes, weight_bytes = (column[same] for column in work)
                found[layout] = Roofline.fit(flops, activation_bytes, weight_bytes, seconds[same])
        return cls(common=Roofline.fit(*work, seconds), by_layout=found)

    def seconds(self, profile: Profile, rows: Floats) -> Floats:
        work, layouts = _work(profile, rows), _layouts(profile, rows)
        total = self.common.seconds(*work)
        for layout, roofline in self.by_layout.items():
            total = np.where(layouts == layout, roofline.seconds(*work), total)
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class _KindModel:
    base: _Base
    trees: boosting.Model | None
    quantile: float
    largest: Floats
    shrink: float = 1.0


class Predictor:
    """Fits a type when it is first asked for. The same profile gives the same predictions."""

    def __init__(self, profile: Profile, *, seed: int = 0) -> None:
        """Raises ProfileError where the profile has no samples, or lacks a feature that is needed."""
        if not profile.samples:
            raise ProfileError("the profile has no samples")
        missing = set(NEEDED) - set(profile.feature_names)
        if missing:
            raise ProfileError(f"the profile's samples have no {', '.join(sorted(missing))}")
        self.profile = profile
        self._seed = seed
        self._models: dict[str, _KindModel] = {}

    def predict(self, kind: str, features: Sequence[Mapping[str, float]]) -> list[Prediction]:
        """For layers of one type.

        Raises:
            MissingPackageError: LightGBM is not installed.
            ProfileError: a feature of the profile is missing in `features`.
        """
        if not features:
            return []
        try:
            rows = np.array([[row[name] for name in self.profile.feature_names] for row in features], np.float64)
        except KeyError as error:
            raise ProfileError(f"the profile knows the feature {error}, this version does not: profile again") from None
        model = self._model(kind)
        seconds = self._seconds(model, rows) * self._ratio(kind)
        beyond = np.any(self._extent(rows) > BEYOND * model.largest, axis=1)
        widths = np.where(beyond, 2.0, 1.0) * math.hypot(model.quantile, self._ratio_spread(kind))
        return [
            Prediction(
                kind=kind,
                seconds=float(value),
                low=float(value * np.exp(-width)),
                high=float(value * np.exp(width)),
                profiled=model.trees is not None,
                within=not out,
            )
            for value, width, out in zip(seconds, widths, [bool(out) for out in beyond], strict=True)
        ]

    def roofline_seconds(self, kind: str, features: Sequence[Mapping[str, float]]) -> Floats:
        """The same by operations and bytes alone, to compare with; for a type that was profiled."""
        rows = np.array([[row[name] for name in self.profile.feature_names] for row in features], np.float64)
        return self._model(kind).base.seconds(self.profile, rows)

    def _model(self, kind: str) -> _KindModel:
        if kind not in self._models:
            samples = self.profile.of(kind)
            if len(samples) >= LEAST_SAMPLES:
                model = fit_kind(self.profile, samples, self.profile.settings.get(kind, {}), seed=self._seed)
            elif len(samples) >= FEW_SAMPLES:
                model = _crude(self.profile, samples, FEW_FACTOR)
            else:
                model = _crude(self.profile, self.profile.samples, UNKNOWN_FACTOR)
            self._models[kind] = model
        return self._models[kind]

    def _seconds(self, model: _KindModel, rows: Floats) -> Floats:
        return predicted_seconds(self.profile, model, rows)

    def _extent(self, rows: Floats) -> Floats:
        flops, activation_bytes, weight_bytes = _work(self.profile, rows)
        return np.stack([flops, activation_bytes, weight_bytes], axis=1)

    def _ratio(self, kind: str) -> float:
        """Of this machine's seconds to the samples'; of a type without one, the middle of the others."""
        ratios = self.profile.ratios
        if not ratios:
            return 1.0
        return ratios.get(kind, float(np.median(list(ratios.values()))))

    def _ratio_spread(self, kind: str) -> float:
        ratios = self.profile.ratios
        if not ratios:
            return 0.0
        if kind in ratios:
            return self.profile.ratio_spreads.get(kind, 0.0)
        values = np.log(list(ratios.values()))
        return float(np.abs(values - np.median(values)).max()) + max(self.profile.ratio_spreads.values(), default=0.0)


def fit_kind(profile: Profile, samples: Sequence[Sample], settings: Mapping[str, Any], *, seed: int) -> _KindModel:
    """Rooflines, trees and interval of one type from its samples."""
    rows, seconds = table(samples)
    base = _Base.fit(profile, rows, seconds)
    crude = base.seconds(profile, rows)
    target, inputs = np.log(seconds / crude), _inputs(rows, crude)
    weights, groups = worth(samples), np.array([sample.index for sample in samples])
    unseen = boosting.left_out(inputs, target, weights, groups, settings, seed=seed)
    shrink = _shrink(target, unseen, weights)
    trees = boosting.fit(inputs, target, weights, settings, seed=seed)
    return _KindModel(
        base=base,
        trees=trees,
        quantile=conformal(np.abs(target - shrink * unseen)),
        largest=np.stack(_work(profile, rows), axis=1).max(axis=0),
        shrink=shrink,
    )


def _shrink(target: Floats, unseen: Floats, weights: Floats) -> float:
    """How much of what the trees say is worth adding, by samples that they did not see: 1 all of it, 0 nothing, where a
    type keeps to its roofline and the trees only repeat noise."""
    power = float((weights * unseen**2).sum())
    return min(1.0, max(0.0, float((weights * target * unseen).sum()) / power)) if power > 0 else 0.0


def _crude(profile: Profile, samples: Sequence[Sample], least_factor: float) -> _KindModel:
    """A roofline alone, and how far it is off."""
    rows, seconds = table(samples)
    base = _Base.fit(profile, rows, seconds)
    errors = np.abs(np.log(seconds / base.seconds(profile, rows)))
    return _KindModel(
        base=base,
        trees=None,
        quantile=max(conformal(errors), math.log(least_factor)),
        largest=np.stack(_work(profile, rows), axis=1).max(axis=0),
    )


def predicted_seconds(profile: Profile, model: _KindModel, rows: Floats) -> Floats:
    crude = model.base.seconds(profile, rows)
    if model.trees is None:
        return crude
    return np.asarray(crude * np.exp(model.shrink * np.asarray(model.trees.predict(_inputs(rows, crude)))))


def tuning_data(profile: Profile, samples: Sequence[Sample]) -> tuple[Floats, Floats, Floats, NDArray[np.int64]]:
    """What `boosting.search` needs of one type: features, target, weights, groups."""
    rows, seconds = table(samples)
    crude = _Base.fit(profile, rows, seconds).seconds(profile, rows)
    return _inputs(rows, crude), np.log(seconds / crude), worth(samples), np.array([sample.index for sample in samples])


def table(samples: Sequence[Sample]) -> tuple[Floats, Floats]:
    """Features (n, k) and seconds (n,)."""
    rows = np.array([sample.features for sample in samples], np.float64)
    return rows, np.array([sample.seconds for sample in samples], np.float64)


def worth(samples: Sequence[Sample]) -> Floats:
    """How much each sample counts: less where its own measurement does not repeat itself."""
    spreads = np.array([sample.spread for sample in samples], np.float64)
    return np.asarray(1 / (1 + (spreads / NOISE) ** 2))


def conformal(errors: Floats) -> float:
    """The bound that an error like these does not exceed `CONFIDENCE` of the times: the ceil((n + 1) p)-th smallest."""
    ordered = np.sort(errors)
    rank = min(len(ordered), math.ceil((len(ordered) + 1) * CONFIDENCE))
    return float(ordered[rank - 1])


def _work(profile: Profile, rows: Floats) -> tuple[Floats, Floats, Floats]:
    """Operations, bytes of activations and of weights, each (n,)."""
    at = {name: profile.feature_names.index(name) for name in NEEDED}
    return rows[:, at["work"]], rows[:, at["bytes_in"]] + rows[:, at["bytes_out"]], rows[:, at["bytes_weights"]]


def _layouts(profile: Profile, rows: Floats) -> Floats:
    return rows[:, profile.feature_names.index("blocked")]


def _inputs(rows: Floats, base: Floats) -> Floats:
    """What the trees see: logarithms, so that equal factors are equal steps; and the roofline's time."""
    return np.concatenate([np.log2(1 + rows), np.log2(base)[:, None]], axis=1)
