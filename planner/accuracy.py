"""The accuracy of a network, whole or with a part in place, where nothing can be measured: predicted from its weights
and from how it was trained (CONTINUER, Majeed, Kilpatrick, Spence & Varghese 2022, section IV-B, table III).

Features of a variant: statistics of the weights of each layer (mean, variance, percentiles), averaged over `BINS` equal
runs of the depth, so that networks of any depth have the same; those of the layers that are replaced, and of the ones
beside them; learning rate, epochs, batch size, optimiser; the technique, and which layers it replaces. Trees
(LightGBM) give the accuracy. The interval is what holds for 95 of 100 variants of networks that the trees did not see.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from planner import boosting

FORMAT = 1
KIND = "accuracy-model"
BINS = 8
TECHNIQUES = ("none", "exit", "skip", "int8", "int4")
"""What a variant is: the whole network, an exit, a skip, or weights of 8 or 4 bits in the layers that are named."""

OPTIMISERS = ("sgd", "adam")
COVERED = 0.95

Floats = NDArray[np.float64]
Sizes = tuple[tuple[float, float, float], tuple[float, float, float]]


class AccuracyModelError(ValueError):
    """No usable accuracy model, or it cannot say anything of this network; says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a network was trained; None: not known. Where one of them is not known, none of them is used."""

    learning_rate: float | None = None
    epochs: float | None = None
    batch_size: int | None = None
    optimiser: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """L layers: statistics (L, s) and numbers of parameters (L,); see `stages.weights`."""

    statistics: Floats
    parameters: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A network whose layers [first_layer, end_layer) are replaced; of the whole network: none of them."""

    technique: str
    first_layer: int = 0
    end_layer: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """An accuracy, 0..1, and its 95 % interval."""

    value: float
    low: float
    high: float


def features(weights: Weights, training: Training, variant: Variant, *, pixels: int) -> Floats:
    """One row. `pixels`: height x width of the input."""
    table, layers = weights.statistics, len(weights.statistics)
    if not layers:
        raise AccuracyModelError("the network has no weights of two or more dimensions")
    places = np.minimum(np.arange(layers) * BINS // layers, BINS - 1)
    # A shallow network leaves bins empty: they take the nearest layer before.
    binned = [
        table[places == place] if (places == place).any() else table[[place * layers // BINS]] for place in range(BINS)
    ]
    first, end = variant.first_layer, variant.end_layer
    replaced = table[first:end].mean(axis=0) if end > first else np.full(table.shape[1], math.nan)
    before = table[first - 1] if end > first and first > 0 else np.full(table.shape[1], math.nan)
    after = table[end] if end > first and end < layers else np.full(table.shape[1], math.nan)
    total = weights.parameters.sum()
    own = [
        float(TECHNIQUES.index(variant.technique)),
        first / layers,
        end / layers,
        (end - first) / layers,
        float(weights.parameters[first:end].sum() / total),
        float(layers),
        math.log(total),
        float(pixels),
    ]
    return np.concatenate([own, _training(training), *(rows.mean(axis=0) for rows in binned), replaced, before, after])


SIZE_COLUMNS = slice(5, 8)
"""Layers, the logarithm of the parameters, pixels: trees say the same of everything beyond what they saw."""

TRAINING_COLUMNS = slice(8, 12)
"""Those that may not be known."""


def _training(training: Training) -> list[float]:
    optimiser = training.optimiser
    if optimiser is not None and optimiser not in OPTIMISERS:
        raise AccuracyModelError(f"optimiser '{optimiser}' is none of {', '.join(OPTIMISERS)}")
    numbers = (training.learning_rate, training.epochs, training.batch_size)
    return [
        *(math.nan if number is None else float(number) for number in numbers),
        math.nan if optimiser is None else float(OPTIMISERS.index(optimiser)),
    ]


Known = Literal["told", "blind"]
"""Whether the training is known: all of it, or nothing."""

BOTH: tuple[Known, ...] = ("told", "blind")


class Trees(Protocol):
    def predict(self, data: Floats) -> Any: ...
    def model_to_string(self) -> str: ...


SETTINGS: Mapping[str, Any] = {
    "learning_rate": 0.1,
    "num_leaves": 24,
    "min_data_in_leaf": 6,
    "rounds": 200,
    "lambda_l2": 0.5,
}


def fit_trees(rows: Floats, targets: Floats, *, known: Known, rounds: int = SETTINGS["rounds"]) -> Trees:
    """Rows (n, k), targets (n,). `blind`: without what is known of the training. (Trees that shall do both are worse at
    either.)

    Raises:
        MissingPackageError: LightGBM is not installed.
    """
    given = blinded(rows) if known == "blind" else rows
    trees: Any = boosting.fit(given, targets, np.ones(len(targets)), {**SETTINGS, "rounds": rounds}, seed=0)
    found: Trees = trees
    return found


def blinded(rows: Floats) -> Floats:
    """Rows (n, k) without what is known of the training."""
    blind = rows.copy()
    blind[:, TRAINING_COLUMNS] = math.nan
    return blind


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyModel:
    """Trees, and how far they are off.

    Attributes:
        trees: what predicts, where the training is known and where it is not.
        reach: likewise, by technique, half the width of the interval.
        sizes: the least and the largest of each of `SIZE_COLUMNS` that it was made from, two rows.
        classes: of the networks that it was made from; it can say nothing of others.
        made_from: for people: networks, checkpoints, images.
    """

    trees: Mapping[Known, Trees]
    reach: Mapping[Known, Mapping[str, float]]
    sizes: Sizes
    classes: int
    made_from: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, rows: Sequence[Floats], techniques: Sequence[str]) -> list[Predicted]:
        """Of n rows of `features`. What is predicted of a network of another size is worth nothing, and its interval
        says so: 0 to 1.

        Raises:
            AccuracyModelError: it never saw a technique.
        """
        found = []
        for row, technique in zip(rows, techniques, strict=True):
            known: Known = "blind" if np.isnan(row[TRAINING_COLUMNS]).any() else "told"
            if technique not in self.reach[known]:
                raise AccuracyModelError(f"the accuracy model was made without '{technique}'")
            given = blinded(row[None]) if known == "blind" else row[None]
            value = min(1.0, max(0.0, float(self.trees[known].predict(given)[0])))
            reach = 1.0 if self.is_beyond(row) else self.reach[known][technique]
            found.append(Predicted(value=value, low=max(0.0, value - reach), high=min(1.0, value + reach)))
        return found

    def is_beyond(self, row: Floats) -> bool:
        """Whether a network is smaller or larger than all that it was made from."""
        least, most = self.sizes
        return bool(np.any(row[SIZE_COLUMNS] < least) or np.any(row[SIZE_COLUMNS] > most))

    @property
    def size_words(self) -> str:
        (layers, parameters, pixels), (most_layers, most_parameters, most_pixels) = self.sizes
        return (
            f"networks of {layers:g} to {most_layers:g} layers, {math.exp(parameters):.3g} to "
            f"{math.exp(most_parameters):.3g} parameters and {pixels:g} to {most_pixels:g} pixels"
        )

    def to_json(self) -> str:
        document = {
            "kind": KIND,
            "format": FORMAT,
            "classes": self.classes,
            "reach": {known: dict(reach) for known, reach in self.reach.items()},
            "sizes": self.sizes,
            "made_from": dict(self.made_from),
            "trees": {known: trees.model_to_string() for known, trees in self.trees.items()},
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> AccuracyModel:
        """Raises AccuracyModelError: it is none. MissingPackageError: LightGBM is not installed."""
        try:
            document = json.loads(text)
            if document["kind"] != KIND or document["format"] != FORMAT:
                raise AccuracyModelError(f"it is no {KIND} of format {FORMAT}")
            reach = {known: {str(k): float(v) for k, v in document["reach"][known].items()} for known in BOTH}
            least, most = (_three(row) for row in document["sizes"])
            texts = {known: str(document["trees"][known]) for known in BOTH}
            classes, made_from = int(document["classes"]), dict(document["made_from"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, AccuracyModelError):
                raise
            raise AccuracyModelError(f"it is no {KIND}: {error}") from error
        boosting.require("lightgbm")
        import lightgbm

        try:
            trees: dict[Known, Trees] = {known: lightgbm.Booster(model_str=text) for known, text in texts.items()}
        except lightgbm.basic.LightGBMError as error:
            raise AccuracyModelError(f"its trees cannot be read: {error}") from error
        return cls(trees=trees, reach=reach, sizes=(least, most), classes=classes, made_from=made_from)


def size_words(row: Floats) -> str:
    """For people."""
    layers, parameters, pixels = row[SIZE_COLUMNS].tolist()
    return f"{layers:g} layers, {math.exp(parameters):.3g} parameters and {pixels:g} pixels"


def sizes_of(rows: Floats) -> Sizes:
    """For `AccuracyModel.sizes`, of rows (n, k)."""
    columns = rows[:, SIZE_COLUMNS]
    return _three(columns.min(axis=0).tolist()), _three(columns.max(axis=0).tolist())


def _three(numbers: Sequence[Any]) -> tuple[float, float, float]:
    layers, parameters, pixels = numbers
    return float(layers), float(parameters), float(pixels)


def reach_of(residuals: Floats) -> float:
    """What 95 of 100 errors |predicted - true| do not exceed: the ceil(0.95 (n + 1))-th (split conformal)."""
    ordered = np.sort(np.abs(residuals))
    place = math.ceil(COVERED * (len(ordered) + 1)) - 1
    return float(ordered[min(place, len(ordered) - 1)])
