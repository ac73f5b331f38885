"""Gradient-boosted trees (LightGBM) and the search for their settings (Optuna), for a few hundred samples.

Both packages are an extra: they are loaded where something is fitted, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from types import ModuleType

Floats = NDArray[np.float64]

FOLDS = 5
DEFAULTS: Mapping[str, Any] = {
    "learning_rate": 0.06,
    "num_leaves": 12,
    "min_data_in_leaf": 4,
    "rounds": 300,
    "lambda_l2": 1.0,
    "feature_fraction": 0.7,
    "linear_tree": False,
}
"""Where nothing was searched. `rounds`: how many trees; the others are LightGBM's names."""


class MissingPackageError(ImportError):
    """A package of the extra `profile` is not installed; says how to."""


class Model(Protocol):
    def predict(self, data: Floats) -> Any: ...


def fit(features: Floats, target: Floats, weights: Floats, settings: Mapping[str, Any], *, seed: int) -> Model:
    """Trees for a target (n,) from features (n, k); the same for the same arguments.

    Raises:
        MissingPackageError: LightGBM is not installed.
    """
    lightgbm = _load("lightgbm")
    options = {**DEFAULTS, **settings}
    rounds = int(options.pop("rounds"))
    fixed = {
        "objective": "regression",
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
        "min_data_in_bin": 1,
        "feature_pre_filter": False,
        "linear_lambda": 0.1,
    }
    data = lightgbm.Dataset(features, target, weight=weights, params={"linear_tree": options["linear_tree"]})
    model: Model = lightgbm.train({**fixed, **options}, data, num_boost_round=rounds)
    return model


def folds(groups: NDArray[np.int64], *, seed: int, count: int = FOLDS) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Masks (n,) of what to fit on and what to try out; samples of one group are on the same side."""
    names = np.unique(groups)
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = dict(zip(names[order].tolist(), (np.arange(len(names)) % count).tolist(), strict=True))
    fold = np.array([fold_of[group] for group in groups.tolist()])
    for index in range(min(count, len(names))):
        yield fold != index, fold == index


def left_out(
    features: Floats,
    target: Floats,
    weights: Floats,
    groups: NDArray[np.int64],
    settings: Mapping[str, Any],
    *,
    seed: int,
) -> Floats:
    """What is predicted for each sample (n,) by trees that did not see its fold."""
    predicted = np.zeros_like(target)
    for fitted, tried in folds(groups, seed=seed):
        if fitted.any():
            model = fit(features[fitted], target[fitted], weights[fitted], settings, seed=seed)
            predicted[tried] = model.predict(features[tried])
    return predicted


def search(
    features: Floats, target: Floats, weights: Floats, groups: NDArray[np.int64], *, trials: int, seed: int
) -> dict[str, Any]:
    """The settings with the least squared error on samples left out, of so many that Optuna tries.

    Raises:
        MissingPackageError: LightGBM or Optuna is not installed.
    """
    optuna = _load("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def loss(trial: Any) -> float:
        settings = {
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
            "num_leaves": trial.suggest_int("num_leaves", 3, 32, log=True),
            "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 1, 20, log=True),
            "rounds": trial.suggest_int("rounds", 50, 600, log=True),
            "lambda_l2": trial.suggest_float("lambda_l2", 1e-3, 10.0, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.3, 1.0),
            "linear_tree": trial.suggest_categorical("linear_tree", [False, True]),
        }
        predicted = left_out(features, target, weights, groups, settings, seed=seed)
        return float(np.average((predicted - target) ** 2, weights=weights))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(dict(DEFAULTS))
    study.optimize(loss, n_trials=trials)
    return dict(study.best_params)


def require(*names: str) -> None:
    """Raises MissingPackageError where one of the packages is not installed."""
    for name in names:
        _load(name)


def _load(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            f"predictions need the package {name}, which is not installed: pip install 'understudy[profile]'"
        ) from error
