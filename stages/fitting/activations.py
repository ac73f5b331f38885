"""Samples of images and the activations that a network makes of them, with a bound on memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.calibration import CalibrationData
from stages.engine import Engine
from stages.errors import CalibrationError, FrameError, ModelError
from stages.graph import ModelGraph
from stages.tensor import TensorSpec

Array = NDArray[Any]

BATCH = 64
MAX_ACTIVATION_BYTES = 256 * 2**20
"""Of one activation that is held for all images at once: fits take fewer images where they would need more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Images as the model's input.

    Attributes:
        inputs: (N, ...) in the model's dtype.
        labels: int64 (N,); None: there are none.
    """

    inputs: Array
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: NDArray[np.int64]) -> Sample:
        return Sample(inputs=self.inputs[indices], labels=None if self.labels is None else self.labels[indices])

    @classmethod
    def of(cls, data: Array | CalibrationData | Sample, most: int | None = None) -> Sample:
        """Decodes calibration data; arrays and samples are taken as they are. Of more than `most` images so many are
        drawn at random, always the same: the first ones may be all of one class.

        Raises:
            CalibrationError: an image cannot be decoded, or there is none.
        """
        count = data.count if isinstance(data, CalibrationData) else len(data)
        if most is not None and count > most:
            order = np.random.default_rng(0).permutation(count)[:most]
            if isinstance(data, CalibrationData):
                data = data.subset(order)
            else:
                data = data.take(order) if isinstance(data, Sample) else data[order]
        if isinstance(data, Sample):
            sample = data
        elif isinstance(data, CalibrationData):
            sample = cls(inputs=np.concatenate([inputs for inputs, _ in data.batches()]), labels=data.labels)
        else:
            sample = cls(inputs=data)
        if not len(sample):
            raise CalibrationError("there is no image to fit or to measure on")
        return sample


class Runner:
    """A loaded model of one input tensor and one output tensor, run in batches.

    Raises:
        EngineError: onnxruntime cannot load it.
    """

    def __init__(self, model: bytes, source: TensorSpec, target: TensorSpec, *, batched: bool = True) -> None:
        self._engine = Engine.load(model, outputs=(target,), threads=0)
        self._source, self._target = source.name, target.name
        self._batch = BATCH if batched else 1

    def __call__(self, x: Array) -> Array:
        """(N, ...) to (N, ...). Raises ModelError where onnxruntime refuses."""
        return np.concatenate(list(self.batches(x)))

    def batches(self, x: Array) -> Iterator[Array]:
        for start in range(0, len(x), self._batch):
            try:
                made = self._engine.run({self._source: x[start : start + self._batch]})
            except FrameError as error:
                raise ModelError(f"the calibration images cannot be run: {error.reason}") from error
            yield np.asarray(made[self._target])


def single(graph: ModelGraph, cut: int) -> TensorSpec | None:
    """The only tensor of a cut if it is float32; else None."""
    tensors = graph.cuts[cut].tensors
    return tensors[0] if len(tensors) == 1 and tensors[0].dtype == "float32" else None


def forward(graph: ModelGraph, first: int, end: int, x: Array) -> Array:
    """The network's own activation of cut `end` from that of cut `first`; both have one tensor."""
    if first == end:
        return x
    source, target = graph.cuts[first].tensors[0], graph.cuts[end].tensors[0]
    return Runner(graph.submodel(first, end), source, target, batched=graph.dynamic_batch)(x)


def affordable(graph: ModelGraph, images: int) -> int:
    """How many images' activations may be held at once."""
    largest = max(cut.size_bytes for cut in graph.cuts)
    return max(1, min(images, MAX_ACTIVATION_BYTES // largest))
