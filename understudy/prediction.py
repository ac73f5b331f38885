"""Accuracies for a bundle that has no images: predicted from the network's weights (`planner.accuracy`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.errors import UnderstudyError
from planner.accuracy import (
    OPTIMISERS,
    AccuracyModel,
    AccuracyModelError,
    Predicted,
    Training,
    Variant,
    Weights,
    features,
    size_words,
)
from planner.boosting import MissingPackageError
from understudy.fitting import Prepared

if TYPE_CHECKING:
    from stages.fitting import FittedPart
    from stages.graph import ModelGraph
    from stages.manifest import Accuracy, Manifest
    from stages.weights import LayerWeights


class PredictionError(UnderstudyError):
    """No accuracy can be predicted; says why and what to do."""


def load_accuracy_model(path: Path) -> AccuracyModel:
    """Raises PredictionError: there is no such file, it is something else, or LightGBM is not installed."""
    try:
        return AccuracyModel.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PredictionError(f"cannot read '{path}': {error}") from error
    except MissingPackageError as error:
        raise PredictionError(str(error)) from error
    except AccuracyModelError as error:
        raise PredictionError(f"'{path}': {error}") from error


def parse_training(text: str) -> Training:
    """`learning_rate=0.1,epochs=40,batch_size=128,optimiser=sgd`, all four.

    Raises:
        ValueError: something else.
    """
    known: dict[str, Callable[[str], Any]] = {
        "learning_rate": float,
        "epochs": float,
        "batch_size": int,
        "optimiser": str,
    }
    found = {}
    for word in text.split(","):
        name, equals, value = word.strip().partition("=")
        if not equals or name not in known:
            raise ValueError(f"'{word}' is none of {', '.join(f'{one}=...' for one in known)}")
        try:
            found[name] = known[name](value)
        except ValueError as error:
            raise ValueError(f"'{word}': a number is wanted") from error
        if name != "optimiser" and not 0 < found[name] < math.inf:
            raise ValueError(f"'{word}': a finite number more than 0 is wanted")
    missing = [name for name in known if name not in found]
    if missing:
        raise ValueError(f"{', '.join(missing)} wanted as well: of a training that is half known nothing is used")
    if found["optimiser"] not in OPTIMISERS:
        raise ValueError(f"optimiser '{found['optimiser']}': one of {', '.join(OPTIMISERS)} is wanted")
    return Training(**found)


def predict_for_bundle(
    graph: ModelGraph,
    draft: Manifest,
    model: AccuracyModel,
    training: Training,
    *,
    stages: Sequence[tuple[int, int]],
    on_note: Callable[[str], None] | None = None,
) -> Prepared:
    """The parts that need no data, for these stages, with predicted accuracies; and the network's own.

    Raises:
        PredictionError: the model says nothing of this network.
    """
    from stages.description import class_count
    from stages.fitting import derive_parts
    from stages.manifest import ImageInput
    from stages.weights import layer_weights

    taken = draft.input
    if draft.task != "classify" or not isinstance(taken, ImageInput):
        raise PredictionError("an accuracy can be predicted for a classifier of images: this model is none")
    classes = class_count(graph.outputs)
    if classes != model.classes:
        raise PredictionError(
            f"the accuracy model was made from networks of {model.classes} classes, this one has {classes}: it says "
            "nothing of it; give --calibration data"
        )
    layers = layer_weights(graph)
    parts = derive_parts(graph, stages, on_note=on_note)
    variants = [Variant(technique="none"), *(_variant(part, layers) for part in parts)]
    weights = Weights(statistics=layers.statistics, parameters=layers.parameters)
    pixels = taken.height * taken.width
    try:
        rows = [features(weights, training, variant, pixels=pixels) for variant in variants]
        found = model.predict(rows, [variant.technique for variant in variants])
    except AccuracyModelError as error:
        raise PredictionError(str(error)) from error
    if model.is_beyond(rows[0]):
        raise PredictionError(
            f"the accuracy model was made from {model.size_words}; this network has {size_words(rows[0])}: it says "
            "nothing of it; make histories of networks like it (bench.continuer.training), or give --calibration data"
        )
    own, *others = [_accuracy(one) for one in found]
    records = tuple(part.with_accuracy(accuracy).record for part, accuracy in zip(parts, others, strict=True))
    return Prepared(draft=draft.model_copy(update={"accuracy": own, "parts": records}), files={})


def _variant(part: FittedPart, layers: LayerWeights) -> Variant:
    """A copy in full precision is the network itself."""
    record = part.record
    if record.technique == "standby" and not record.variant:
        return Variant(technique="none")
    return Variant(
        technique=record.variant or record.technique,
        first_layer=layers.first_layer[record.first_block],
        end_layer=layers.first_layer[record.end_block],
    )


def _accuracy(found: Predicted) -> Accuracy:
    from stages.manifest import Accuracy

    return Accuracy(value=found.value, images=0, low=found.low, high=found.high, predicted=True)
