"""How good a profile's predictions are: R^2 and mean squared error per type of layer, on samples that were held out.

    MSE = mean((t - t_hat)^2)        R^2 = 1 - sum((t - t_hat)^2) / sum((t - mean(t))^2)

as in CONTINUER's table II, on 80:20 of the samples. Seconds are ruled by the largest layers, so R^2 of their logarithm
is given as well, where each factor counts the same. The measurement does not repeat itself exactly either: `noise` is
the median of the samples' own spread, which no model can go below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner import boosting
from planner.predictor import LEAST_SAMPLES, Predictor, tuning_data
from planner.profile import Profile

HOLD_OUT = 5
"""One sample of so many is held out."""

CONSTANT = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Of one type of layer.

    Attributes:
        fitted, held_out: samples.
        r2, r2_log: of the seconds and of their logarithm; of the trees.
        r2_roofline: of the seconds, by operations and bytes alone.
        mse_s2: mean squared error in square seconds.
        error: median of |t - t_hat| / t.
        covered: share of the held-out samples that lie in their interval.
        noise: median spread of the samples.
        variation: standard deviation of the held-out samples' seconds over their mean.
    """

    kind: str
    fitted: int
    held_out: int
    r2: float
    r2_log: float
    r2_roofline: float
    mse_s2: float
    error: float
    covered: float
    noise: float
    variation: float

    @property
    def constant(self) -> bool:
        """Whether all take about the same time: R^2, which compares with always guessing the mean, says nothing."""
        return self.variation < CONSTANT


def split(profile: Profile, *, seed: int = 0) -> tuple[Profile, Profile]:
    """Four fifths of the samples, and the rest; layers of one model are on the same side."""
    groups = np.array([sample.index for sample in profile.samples])
    fitted, _ = next(boosting.folds(groups, seed=seed, count=HOLD_OUT))
    kept = tuple(sample for sample, inside in zip(profile.samples, fitted.tolist(), strict=True) if inside)
    rest = tuple(sample for sample, inside in zip(profile.samples, fitted.tolist(), strict=True) if not inside)
    return replace(profile, samples=kept), replace(profile, samples=rest)


def scores(profile: Profile, *, seed: int = 0) -> list[Score]:
    """Of every type that has enough samples on both sides, by name.

    Raises:
        MissingPackageError: LightGBM is not installed.
    """
    fitted, held_out = split(profile, seed=seed)
    predictor = Predictor(fitted, seed=seed)
    found = []
    for kind in profile.kinds:
        samples = held_out.of(kind)
        if len(samples) < 3 or len(fitted.of(kind)) < LEAST_SAMPLES:
            continue
        rows = [dict(zip(profile.feature_names, sample.features, strict=True)) for sample in samples]
        predictions = predictor.predict(kind, rows)
        truth = np.array([sample.seconds for sample in samples])
        guess = np.array([prediction.seconds for prediction in predictions])
        crude = predictor.roofline_seconds(kind, rows)
        inside = [p.low <= seconds <= p.high for p, seconds in zip(predictions, truth.tolist(), strict=True)]
        found.append(
            Score(
                kind=kind,
                fitted=len(fitted.of(kind)),
                held_out=len(samples),
                r2=r2(truth, guess),
                r2_log=r2(np.log(truth), np.log(guess)),
                r2_roofline=r2(truth, crude),
                mse_s2=float(np.mean((truth - guess) ** 2)),
                error=float(np.median(np.abs(truth - guess) / truth)),
                covered=float(np.mean(inside)),
                noise=float(np.median([sample.spread for sample in profile.of(kind)])),
                variation=float(truth.std() / truth.mean()),
            )
        )
    return found


def tune(
    profile: Profile,
    *,
    trials: int,
    seed: int = 0,
    on_progress: Any = lambda _done, _total: None,
) -> Mapping[str, Mapping[str, Any]]:
    """Settings of the trees per type, searched on the samples that `scores` does not hold out.

    Raises:
        MissingPackageError: LightGBM or Optuna is not installed.
    """
    fitted, _ = split(profile, seed=seed)
    kinds = [kind for kind in profile.kinds if len(fitted.of(kind)) >= LEAST_SAMPLES]
    found = {}
    for done, kind in enumerate(kinds):
        on_progress(done, len(kinds))
        found[kind] = boosting.search(*tuning_data(fitted, fitted.of(kind)), trials=trials, seed=seed)
    on_progress(len(kinds), len(kinds))
    return found


def r2(truth: NDArray[np.float64], guess: NDArray[np.float64] | Sequence[float]) -> float:
    """1 for a perfect guess, 0 for one that is no better than the mean; a constant truth has 1 or minus infinity."""
    left = float(((truth - np.asarray(guess)) ** 2).sum())
    spread = float(((truth - truth.mean()) ** 2).sum())
    if spread == 0:
        return 1.0 if left == 0 else -np.inf
    return 1 - left / spread
