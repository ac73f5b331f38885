"""How well an accuracy is predicted from weights alone (CONTINUER, section IV-B and table VI), and the model itself.

Trees are fitted on four fifths and tried on the fifth, in turn, divided in several ways. By *checkpoint*, as in the
paper, the checkpoints just before and after each one that is tried are among those that it learnt from. By *run* and by
*network* (depth and width) it knows nothing of what it is tried on. By *family* it learns from ResNets and is tried on
MobileNetV2s, and the reverse. *Elsewhere*: fitted on all histories, tried on the networks of the data folder, of whose
training nothing is told, against what their bundles measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.continuer.histories import Floats, History, Table
from bench.prepared import Network, prepared
from planner.accuracy import (
    BOTH,
    AccuracyModel,
    Known,
    Predicted,
    Training,
    Variant,
    Weights,
    blinded,
    features,
    fit_trees,
    reach_of,
    sizes_of,
)
from stages.fitting import part_of
from stages.graph import ModelGraph
from stages.manifest import Accuracy, ImageInput
from stages.weights import layer_weights

FOLDS = 5
DIVISIONS = ("checkpoint", "run", "network", "family")
UNSEEN = ("network", "family")
"""Divisions whose errors are those of networks that were not seen: the interval of a prediction comes from them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Of one technique (or all) under one division. `percent`: mean of |predicted - true| / true; `points`: mean of
    |predicted - true|."""

    division: str
    technique: str
    rows: int
    mse: float
    r2: float
    percent: float
    points: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A variant of a network from elsewhere. `beyond`: it is smaller or larger than all that the trees were fitted on,
    so that nothing is claimed of it."""

    network: str
    variant: str
    measured: float
    predicted: Predicted
    beyond: bool

    @property
    def covered(self) -> bool:
        return self.predicted.low <= self.measured <= self.predicted.high


def folds(groups: NDArray[np.str_], *, seed: int = 0) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Masks of what to fit on and what to try, a group always on one side; of less than five groups each in turn."""
    names = np.unique(groups)
    order = np.random.default_rng(seed).permutation(len(names))
    count = min(FOLDS, len(names))
    for fold in range(count):
        tried = np.isin(groups, names[order[fold::count]])
        if not tried.all():
            yield ~tried, tried


def predict_left_out(table: Table, division: str, known: Known = "told") -> Floats:
    """For each row what trees say that did not see its group; NaN where there is only one group."""
    predicted = np.full(len(table.targets), np.nan)
    rows = blinded(table.rows) if known == "blind" else table.rows
    for fitted, tried in folds(table.groups[division]):
        trees = fit_trees(rows[fitted], table.targets[fitted], known=known)
        predicted[tried] = np.clip(trees.predict(rows[tried]), 0.0, 1.0)
    return predicted


def scores(table: Table, division: str, predicted: Floats) -> list[Score]:
    """Of all rows, then of each technique."""
    found = []
    for technique in ("all", *sorted(set(table.techniques.tolist()))):
        mine = ~np.isnan(predicted) if technique == "all" else (table.techniques == technique) & ~np.isnan(predicted)
        if mine.any():
            found.append(_score(division, technique, table.targets[mine], predicted[mine]))
    return found


def _score(division: str, technique: str, truth: Floats, guess: Floats) -> Score:
    off = guess - truth
    spread = float(((truth - truth.mean()) ** 2).sum())
    known = truth > 0
    return Score(
        division=division,
        technique=technique,
        rows=len(truth),
        mse=float(np.mean(off**2)),
        r2=1 - float((off**2).sum()) / spread if spread else float("nan"),
        percent=float(np.mean(np.abs(off[known]) / truth[known])),
        points=float(np.mean(np.abs(off))),
    )


def make(table: Table, left_out: Mapping[tuple[str, Known], Floats], histories: Sequence[History]) -> AccuracyModel:
    """Fitted on everything. Its intervals: the wider of those for networks and for families that were not seen."""
    reach: dict[Known, dict[str, float]] = {known: {} for known in BOTH}
    for known in BOTH:
        for technique in sorted(set(table.techniques.tolist())):
            mine = table.techniques == technique
            errors = [left_out[division, known][mine] - table.targets[mine] for division in UNSEEN]
            reach[known][technique] = max(reach_of(one[~np.isnan(one)]) for one in errors if not np.isnan(one).all())
    return AccuracyModel(
        trees={known: fit_trees(table.rows, table.targets, known=known) for known in BOTH},
        reach=reach,
        sizes=sizes_of(table.rows),
        classes=10,
        made_from={
            "runs": len(histories),
            "checkpoints": sum(len(history.epochs) for history in histories),
            "networks": sorted({str(history.facts["network"]) for history in histories}),
        },
    )


def elsewhere(model: AccuracyModel, network: Network, count: int) -> list[Tried]:
    """The network and its parts that need no data, for the plan of so many nodes.

    Raises:
        MissingSubjectError: it is not on this machine.
    """
    bundle = prepared(network, (count,))
    manifest = bundle.manifest
    graph = ModelGraph.load(bundle.model_path, shapes=manifest.shapes or None)
    layers = layer_weights(graph)
    assert manifest.held_out is not None
    variants: list[tuple[str, Variant, Accuracy]] = [("healthy", Variant(technique="none"), manifest.held_out)]
    for record in manifest.parts:
        technique = record.variant if record.technique == "standby" else record.technique
        if technique in model.reach["blind"] and technique != "exit" and record.accuracy is not None:
            span = (layers.first_layer[record.first_block], layers.first_layer[record.end_block])
            variant = Variant(technique=technique, first_layer=span[0], end_layer=span[1])
            variants.append((part_of(record).name, variant, record.accuracy))
    assert isinstance(manifest.input, ImageInput)
    weights = Weights(statistics=layers.statistics, parameters=layers.parameters)
    pixels = manifest.input.height * manifest.input.width
    rows = [features(weights, Training(), variant, pixels=pixels) for _, variant, _ in variants]
    predicted = model.predict(rows, [variant.technique for _, variant, _ in variants])
    return [
        Tried(
            network=network.name,
            variant=name,
            measured=accuracy.value,
            predicted=found,
            beyond=model.is_beyond(row),
        )
        for (name, _, accuracy), row, found in zip(variants, rows, predicted, strict=True)
    ]
