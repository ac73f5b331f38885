"""Training histories on disk: for each run a `.npz` with the weights' statistics and the accuracy of every variant of
each checkpoint; and as rows for the trees. No torch is needed to read them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.errors import UnderstudyError
from planner.accuracy import TECHNIQUES, Training, Variant, Weights, features

Floats = NDArray[np.float64]


class HistoryError(UnderstudyError):
    """A file is no history."""


@dataclass(slots=True, kw_only=True)
class History:
    """One run.

    Attributes:
        facts: `name`, `network`, `family`, `pixels`, `learning_rate`, `batch_size`, `optimiser`, `images`, `seed`.
        parameters: int64 (L,).
        variants: V of them.
        epochs: of each checkpoint, fractions of an epoch included.
        statistics: for each checkpoint (L, 7).
        accuracies: for each checkpoint (V,).
    """

    facts: Mapping[str, Any]
    parameters: NDArray[np.int64]
    variants: Sequence[Variant]
    epochs: list[float] = field(default_factory=list)
    statistics: list[Floats] = field(default_factory=list)
    accuracies: list[Floats] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """A reader sees the file before or the file after."""
        variants = np.array(
            [(TECHNIQUES.index(one.technique), one.first_layer, one.end_layer) for one in self.variants], np.int16
        )
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                facts=np.array(json.dumps(dict(self.facts))),
                parameters=self.parameters,
                variants=variants,
                epochs=np.array(self.epochs),
                statistics=np.array(self.statistics, np.float32),
                accuracies=np.array(self.accuracies, np.float32),
            )
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> History:
        """Raises HistoryError."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                return cls(
                    facts=json.loads(str(archive["facts"])),
                    parameters=archive["parameters"],
                    variants=tuple(
                        Variant(technique=TECHNIQUES[code], first_layer=first, end_layer=end)
                        for code, first, end in archive["variants"].tolist()
                    ),
                    epochs=archive["epochs"].tolist(),
                    statistics=list(archive["statistics"].astype(np.float64)),
                    accuracies=list(archive["accuracies"].astype(np.float64)),
                )
        except Exception as error:  # numpy and zipfile raise ValueError, OSError, BadZipFile, KeyError, ...
            raise HistoryError(f"'{path}' is no training history: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All variants of all checkpoints of all runs as rows.

    Attributes:
        rows: (n, k), see `planner.accuracy.features`.
        targets: accuracies (n,).
        techniques: (n,) names.
        groups: by `checkpoint`, `run`, `network`, `family`: (n,) which one a row belongs to.
    """

    rows: Floats
    targets: Floats
    techniques: NDArray[np.str_]
    groups: Mapping[str, NDArray[np.str_]]


def load_all(folder: Path) -> list[History]:
    """Raises HistoryError: there is none, or one of the files is none."""
    found = [History.load(path) for path in sorted(folder.glob("*.npz"))]
    if not found:
        raise HistoryError(f"there is no training history in '{folder}': python -m bench.continuer.training makes them")
    return [history for history in found if history.epochs]


def table(histories: Sequence[History]) -> Table:
    rows, targets, techniques = [], [], []
    groups: dict[str, list[str]] = {"checkpoint": [], "run": [], "network": [], "family": []}
    for history in histories:
        for checkpoint, row, target, technique in _rows(history):
            rows.append(row)
            targets.append(target)
            techniques.append(technique)
            name = history.facts["name"]
            labels = (f"{name}@{checkpoint}", name, history.facts["network"], history.facts["family"])
            for group, label in zip(groups, labels, strict=True):
                groups[group].append(label)
    return Table(
        rows=np.array(rows),
        targets=np.array(targets),
        techniques=np.array(techniques),
        groups={name: np.array(values) for name, values in groups.items()},
    )


def _rows(history: History) -> Iterator[tuple[int, Floats, float, str]]:
    facts = history.facts
    for index, (epoch, statistics, accuracies) in enumerate(
        zip(history.epochs, history.statistics, history.accuracies, strict=True)
    ):
        weights = Weights(statistics=statistics, parameters=history.parameters)
        training = Training(
            learning_rate=facts["learning_rate"],
            epochs=epoch,
            batch_size=facts["batch_size"],
            optimiser=facts["optimiser"],
        )
        for variant, accuracy in zip(history.variants, accuracies.tolist(), strict=True):
            yield index, features(weights, training, variant, pixels=facts["pixels"] ** 2), accuracy, variant.technique
