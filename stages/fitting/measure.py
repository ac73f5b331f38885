"""Accuracy of the whole network with a part in the place of its blocks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from stages.calibration import CalibrationData
from stages.fitting.activations import MAX_ACTIVATION_BYTES, Array, Runner, Sample
from stages.fitting.parts import FittedPart
from stages.graph import ModelGraph
from stages.manifest import Accuracy

Measured = tuple[list[FittedPart], Accuracy]


def measure(
    graph: ModelGraph,
    parts: Sequence[FittedPart],
    data: Sample | CalibrationData | Array,
    *,
    on_progress: Callable[[str], None] | None = None,
) -> Measured:
    """The parts with their accuracy, and that of the healthy network on the same images.

    With labels it is the share of right answers, without them the share of answers that are the network's own: then
    the healthy network has 1. The images should be none that the parts, or the network, were fitted to.

    Activations of a cut are computed once for all parts that begin there, for so many images at a time that they stay
    below 256 MB.

    Raises:
        ModelError: a part does not run.
    """
    sample = Sample.of(data)
    step = max(1, MAX_ACTIVATION_BYTES // max(cut.size_bytes for cut in graph.cuts))
    healthy, right = 0, [0] * len(parts)
    for start in range(0, len(sample), step):
        labels = None if sample.labels is None else sample.labels[start : start + step]
        counter = _Counter(graph, sample.inputs[start : start + step], labels)
        healthy += counter.healthy
        for index, count in counter.count(parts, on_progress):
            right[index] += count
    labelled = sample.labels is not None

    def accuracy(correct: int) -> Accuracy:
        return Accuracy.measured(correct=correct, images=len(sample), labelled=labelled)

    return [part.with_accuracy(accuracy(count)) for part, count in zip(parts, right, strict=True)], accuracy(healthy)


class _Counter:
    """Counts right answers of some images."""

    def __init__(self, graph: ModelGraph, inputs: Array, labels: Array | None) -> None:
        self._graph, self._inputs = graph, inputs
        self._tails: dict[int, Runner] = {}
        own = _answers(self._tail(0)(inputs))
        self._truth = own if labels is None else labels
        self.healthy = int(np.count_nonzero(own == self._truth))

    def count(self, parts: Sequence[FittedPart], on_progress: Callable[[str], None] | None) -> list[tuple[int, int]]:
        """(index of the part, right answers)."""
        starting: dict[int, list[int]] = defaultdict(list)
        for index, part in enumerate(parts):
            starting[part.record.first_block].append(index)
        found = []
        x, at = self._inputs, 0
        for first in sorted(starting):
            x, at = self._run(self._graph.submodel(at, first), at, first, x) if first > at else x, first
            for index in starting[first]:
                part = parts[index]
                if on_progress is not None:
                    on_progress(part_of_name(part))
                found.append((index, self._right(part, x)))
        return found

    def _right(self, part: FittedPart, x: Array) -> int:
        first, end = part.record.first_block, part.record.end_block
        y = self._run(part.model, first, end, x)
        if end < len(self._graph.blocks):
            y = self._tail(end)(y)
        return int(np.count_nonzero(_answers(y) == self._truth))

    def _tail(self, cut: int) -> Runner:
        """The network from a cut on."""
        if cut not in self._tails:
            blocks = len(self._graph.blocks)
            self._tails[cut] = self._runner(self._graph.submodel(cut, blocks), cut, blocks)
        return self._tails[cut]

    def _runner(self, model: bytes, first: int, end: int) -> Runner:
        source, target = self._graph.cuts[first].tensors[0], self._graph.cuts[end].tensors[0]
        return Runner(model, source, target, batched=self._graph.dynamic_batch)

    def _run(self, model: bytes, first: int, end: int, x: Array) -> Array:
        return self._runner(model, first, end)(x)


def part_of_name(part: FittedPart) -> str:
    record = part.record
    return f"{record.technique} {record.first_block}-{record.end_block} {record.variant}".strip()


def _answers(scores: Array) -> Array:
    answers: Array = scores.reshape(len(scores), -1).argmax(axis=1)
    return answers
