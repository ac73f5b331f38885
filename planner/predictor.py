"""Predicts the seconds of layers from a machine's profile (CONTINUER, section "Latency prediction model").

For each type of layer the roofline t0(x) (`planner.roofline`) is fitted, and boosted trees g on log(t / t0): the
prediction is t0(x) exp(g(x)), so that beyond the range of the samples it goes on as operations and bytes do. Its
interval is conformal: the residuals r of samples that the trees did not see have a quantile q, and 95 of 100 times the
truth is within [t exp(-q), t exp(q)].

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

LEAST_SAMPLES = 16
"""A type with fewer has no trees."""

FEW_SAMPLES = 5
"""A type with fewer has no roofline of its own either."""

CONFIDENCE = 0.95
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
class _KindModel:
    roofline: Roofline
    trees: boosting.Model | None
    quantile: float
    largest: Floats


class Predictor:
    """Fits a type when it is first asked for. The same profile gives the same predictions."""

    def __init__(self, profile: Profile, *, seed: int = 0) -> None:
        """Raises ProfileError where the profile has no samples, or lacks a feature that is needed."""
        if not profile.samples:
            raise ProfileError("the profile has no samples")
        missing = {"flops", "bytes_in", "bytes_out", "bytes_weights"} - set(profile.feature_names)
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
        return self._model(kind).roofline.seconds(*_work(self.profile, rows))

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
    """Roofline, trees and interval of one type from its samples."""
    rows, seconds = table(samples)
    roofline = Roofline.fit(*_work(profile, rows), seconds)
    base = roofline.seconds(*_work(profile, rows))
    target, inputs = np.log(seconds / base), _inputs(rows, base)
    weights, groups = worth(samples), np.array([sample.index for sample in samples])
    unseen = boosting.left_out(inputs, target, weights, groups, settings, seed=seed)
    trees = boosting.fit(inputs, target, weights, settings, seed=seed)
    return _KindModel(
        roofline=roofline,
        trees=trees,
        quantile=conformal(np.abs(target - unseen)),
        largest=np.stack(_work(profile, rows), axis=1).max(axis=0),
    )


def _crude(profile: Profile, samples: Sequence[Sample], least_factor: float) -> _KindModel:
    """A roofline alone, and how far it is off."""
    rows, seconds = table(samples)
    roofline = Roofline.fit(*_work(profile, rows), seconds)
    errors = np.abs(np.log(seconds / roofline.seconds(*_work(profile, rows))))
    return _KindModel(
        roofline=roofline,
        trees=None,
        quantile=max(conformal(errors), math.log(least_factor)),
        largest=np.stack(_work(profile, rows), axis=1).max(axis=0),
    )


def predicted_seconds(profile: Profile, model: _KindModel, rows: Floats) -> Floats:
    base = model.roofline.seconds(*_work(profile, rows))
    if model.trees is None:
        return base
    return np.asarray(base * np.exp(np.asarray(model.trees.predict(_inputs(rows, base)))))


def tuning_data(profile: Profile, samples: Sequence[Sample]) -> tuple[Floats, Floats, Floats, NDArray[np.int64]]:
    """What `boosting.search` needs of one type: features, target, weights, groups."""
    rows, seconds = table(samples)
    base = Roofline.fit(*_work(profile, rows), seconds).seconds(*_work(profile, rows))
    return _inputs(rows, base), np.log(seconds / base), worth(samples), np.array([sample.index for sample in samples])


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
    """FLOPs, bytes of activations and of weights, each (n,)."""
    at = {name: profile.feature_names.index(name) for name in ("flops", "bytes_in", "bytes_out", "bytes_weights")}
    return rows[:, at["flops"]], rows[:, at["bytes_in"]] + rows[:, at["bytes_out"]], rows[:, at["bytes_weights"]]


def _inputs(rows: Floats, base: Floats) -> Floats:
    """What the trees see: logarithms, so that equal factors are equal steps; and the roofline's time."""
    return np.concatenate([np.log2(1 + rows), np.log2(base)[:, None]], axis=1)
