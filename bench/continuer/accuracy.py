"""How right the accuracies of a bundle are, on images that nothing was fitted to and nothing was measured on.

Parts are fitted to training images, without labels. Which of the test images each part gets right is found out once;
then the images are divided at random, many times, into *calibration*, from which comes what a bundle would say, and
*fresh*, the truth. Symbols: a the accuracy of the network with a part in place, h that of the healthy network, both on
calibration images; a', h' on fresh ones.

- raw error: |a - a'| / a'
- anchored error: |a h'/h - a'| / a'. A bundle's accuracies are used relative to the healthy network's
  (`recovery.estimates`), so that images that are harder for all of them alike do not count.
- covered: a' is within the bundle's interval (Wilson, 95 %), scaled by h'/h as well. The fresh images are a sample,
  too: the interval is widened by sqrt(1 + n/m), n calibration and m fresh images, to say where *their* share may be.

Where the calibration images have no labels, a is the share of answers that are the network's own, and h = 1. Where they
are training images of the network, it is better on them than on others; they then are none that parts were fitted to.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.continuer.scheduler_measure import answers
from bench.prepared import FIT_IMAGES, TEST, TRAIN, Network, images, prepared
from bench.recovery.paths import model_of
from planner.part import Part, stage_part
from stages.calibration import CalibrationData
from stages.fitting import part_of
from stages.fitting.activations import Sample
from stages.graph import ModelGraph
from stages.manifest import wilson_interval

Kind = Literal["labelled", "unlabelled", "training images"]
KINDS: tuple[Kind, ...] = ("labelled", "unlabelled", "training images")

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Of some images. Rows are parts, columns images.

    Attributes:
        right: the answer with the part in place is the label.
        same: it is the healthy network's own.
        healthy: the network's own answer is the label.
    """

    right: Bools
    same: Bools
    healthy: Bools

    def take(self, indices: NDArray[np.int64]) -> Answers:
        return Answers(right=self.right[:, indices], same=self.same[:, indices], healthy=self.healthy[indices])

    @property
    def images(self) -> int:
        return len(self.healthy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Of one part, over all divisions; relative. `covered` and `covered_fresh`: shares of divisions in which the truth
    was within the bundle's interval, as it is and widened for the sampling of fresh images."""

    part: str
    technique: str
    accuracy: float
    raw: float
    anchored: float
    largest: float
    covered: float
    covered_fresh: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One network. `errors` by kind of calibration images."""

    network: str
    nodes: int
    healthy: float
    calibration_images: int
    fresh_images: int
    divisions: int
    errors: Mapping[Kind, Sequence[Errors]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How many test images, and divisions of them into halves."""

    images: int = 8000
    divisions: int = 1000


QUICK = Effort(images=2000, divisions=300)


def measure(network: Network, count: int, effort: Effort) -> Found:
    """The parts for the plan of so many nodes.

    Raises:
        MissingSubjectError: the network or the images are not on this machine.
    """
    bundle = prepared(network, (count,))
    graph = ModelGraph.load(bundle.model_path, shapes=bundle.manifest.shapes or None)
    records = {part_of(record).name: record for record in bundle.manifest.parts}
    parts = [part for record in records.values() if (part := part_of(record)).variant or part.technique == "skip"]

    def look(data: CalibrationData) -> Answers:
        return _answers(graph, lambda part: model_of(bundle, graph, part, records.get(part.name)), parts, data)

    test = look(images(graph, bundle.manifest, TEST, effort.images))
    half = test.images // 2
    train = images(graph, bundle.manifest, TRAIN, FIT_IMAGES + half)
    seen = look(train.subset(np.arange(FIT_IMAGES, train.count)))
    errors = {kind: divide(parts, test, effort.divisions, kind, seen) for kind in KINDS}
    return Found(
        network=network.name,
        nodes=count,
        healthy=float(test.healthy.mean()),
        calibration_images=half,
        fresh_images=test.images - half,
        divisions=effort.divisions,
        errors=errors,
    )


def divide(parts: Sequence[Part], test: Answers, times: int, kind: Kind, seen: Answers | None = None) -> list[Errors]:
    """Over so many random divisions into halves, always the same ones. `seen`: the answers to training images, which
    then are the calibration images of every division."""
    random = np.random.default_rng(0)
    raw, anchored, covered, covered_fresh = (np.empty((times, len(parts))) for _ in range(4))
    for time in range(times):
        order = random.permutation(test.images)
        fresh = test.take(order[test.images // 2 :])
        known = seen if kind == "training images" and seen is not None else test.take(order[: test.images // 2])
        hits = known.same if kind == "unlabelled" else known.right
        healthy = 1.0 if kind == "unlabelled" else float(known.healthy.mean())
        factor = float(fresh.healthy.mean()) / healthy
        truth = fresh.right.mean(axis=1)
        guess = hits.mean(axis=1)
        raw[time] = np.abs(guess - truth) / truth
        anchored[time] = np.abs(guess * factor - truth) / truth
        low, high = factor * np.array([wilson_interval(int(row.sum()), known.images) for row in hits]).T
        widening = np.sqrt(1 + known.images / fresh.images)
        middle = guess * factor
        covered[time] = (low <= truth) & (truth <= high)
        covered_fresh[time] = (middle - widening * (middle - low) <= truth) & (
            truth <= middle + widening * (high - middle)
        )
    return [
        Errors(
            part=part.name,
            technique=part.technique if not part.variant.startswith("int") else f"standby {part.variant}",
            accuracy=float(test.right[row].mean()),
            raw=float(raw[:, row].mean()),
            anchored=float(anchored[:, row].mean()),
            largest=float(anchored[:, row].max()),
            covered=float(covered[:, row].mean()),
            covered_fresh=float(covered_fresh[:, row].mean()),
        )
        for row, part in enumerate(parts)
    ]


def mean_of(errors: Sequence[Errors], name: str) -> float:
    """Over parts."""
    return statistics.fmean(getattr(one, name) for one in errors)


def _answers(graph: ModelGraph, model: Any, parts: Sequence[Part], data: CalibrationData) -> Answers:
    sample = Sample.of(data)
    assert sample.labels is not None
    chain, blocks = graph.chain(), len(graph.blocks)

    def path(part: Part) -> list[Part]:
        before = [stage_part(chain, 0, part.first_block)] if part.first_block else []
        after = [stage_part(chain, part.end_block, blocks)] if part.end_block < blocks else []
        return [*before, part, *after]

    whole = [stage_part(chain, 0, blocks)]
    found = answers(graph, model, [whole, *(path(part) for part in parts)], sample.inputs)
    own = found[whole[0].name,]
    rows = np.stack([found[tuple(one.name for one in path(part))] for part in parts])
    return Answers(right=rows == sample.labels, same=rows == own, healthy=own == sample.labels)
