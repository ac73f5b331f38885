"""Exits: small classifiers that give the network's answer from a cut in its middle (BranchyNet 2016, CONTINUER 2022).

An exit looks at the mean, the highest value and the spread of every channel, over the image or over a grid of it, and a
multinomial logistic regression says what the network itself would have answered: no label is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.fitting.activations import Array, Runner
from stages.fitting.fragment import Fragment, make_model
from stages.fitting.regression import multinomial, softmax
from stages.graph import ModelGraph
from stages.tensor import TensorSpec

TEMPERATURE = 5.0
"""What the network's scores are divided by before they are learnt: a network is surer of the images that it was trained
on than of others, and what is learnt from hard answers says less."""
MAX_FEATURES = 1200


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What an exit takes from a tensor (N, C, H, W): mean and maximum per cell of a grid, spread over the image."""

    tensor: TensorSpec
    grid: int
    highest: bool
    spread: bool

    @property
    def count(self) -> int:
        channels = self.tensor.example_shape[1]
        return channels * (self.grid**2 * (1 + self.highest) + self.spread)

    def emit(self, fragment: Fragment) -> list[str]:
        """Names of results of shape (N, f)."""
        name = self.tensor.name
        if len(self.tensor.example_shape) == 2:
            return [name]
        if len(self.tensor.example_shape) == 3:
            name = fragment.op("Transpose", name, perm=[0, 2, 1])
            return [fragment.op("Flatten", fragment.op("GlobalAveragePool", name))]
        found = [self._pool(fragment, "AveragePool", name)]
        if self.highest:
            found.append(self._pool(fragment, "MaxPool", name))
        if self.spread:
            mean = fragment.op("GlobalAveragePool", name)
            square = fragment.op("GlobalAveragePool", fragment.op("Mul", name, name))
            rest = fragment.op("Relu", fragment.op("Sub", square, fragment.op("Mul", mean, mean)))
            found.append(fragment.op("Sqrt", rest))
        return [fragment.op("Flatten", part) for part in found]

    def _pool(self, fragment: Fragment, op_type: str, name: str) -> str:
        height, width = self.tensor.example_shape[2:]
        cell = [math.ceil(height / self.grid), math.ceil(width / self.grid)]
        if self.grid == 1:
            return fragment.op(f"Global{op_type}", name)
        return fragment.op(op_type, name, kernel_shape=cell, strides=cell)


def looks(tensor: TensorSpec, grid: int, *, highest: bool, spread: bool) -> Look:
    """With the finest grid up to `grid` that has not too many features."""
    while grid > 1:
        look = Look(tensor=tensor, grid=grid, highest=highest, spread=spread)
        if look.count <= MAX_FEATURES and min(tensor.example_shape[2:], default=1) >= grid:
            return look
        grid -= 1
    return Look(tensor=tensor, grid=1, highest=highest, spread=spread)


def is_classifier(graph: ModelGraph) -> bool:
    """One float output (batch, k), or (batch, k, 1, 1), with at least two classes."""
    if len(graph.outputs) != 1 or graph.outputs[0].dtype != "float32":
        return False
    shape = graph.outputs[0].example_shape
    return len(shape) >= 2 and shape[1] >= 2 and math.prod(shape[2:]) == 1 and shape[0] == 1


def fit_exit(
    graph: ModelGraph, source: TensorSpec, before: Sequence[Fragment], seen: Sequence[Look], x: Array, answers: Array
) -> list[Fragment]:
    """The fragments `before` with a classifier after them.

    Args:
        source: the tensor of the exit's cut.
        before: what makes the tensors that are looked at, if it is not the cut's own.
        seen: what the classifier looks at.
        x: activation of the cut (N, ...).
        answers: the network's own output for the same images, (N, k[, 1, 1]).
    """
    last = Fragment(prefix="exit")
    parts = [name for look in seen for name in look.emit(last)]
    pooled = last.op("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
    made = TensorSpec(name=pooled, dtype="float32", shape=(None, None), example_shape=(1, 1))
    model = make_model(graph, [*before, last], (source,), (made,), name="features")
    features = Runner(model, source, made, batched=graph.dynamic_batch)(x) if pooled != source.name else x
    weight, bias = multinomial(features, soft_answers(answers, graph.ends_in_softmax))
    target = graph.outputs[0]
    shaped = len(target.example_shape) > 2
    output = None if shaped or graph.ends_in_softmax else target.name
    scores = last.op("Gemm", pooled, last.weight(weight * TEMPERATURE), last.weight(bias * TEMPERATURE), output=output)
    if graph.ends_in_softmax:
        scores = last.op("Softmax", scores, output=None if shaped else target.name, axis=1)
    if shaped:
        sizes = np.array([0, -1, *target.example_shape[2:]], np.int64)
        last.op("Reshape", scores, last.weight(sizes), output=target.name)
    return [*before, last]


def soft_answers(answers: Array, probabilities: bool) -> Array:
    """The network's output as softened probabilities (N, k)."""
    scores = answers.reshape(len(answers), -1).astype(np.float32)
    if probabilities:
        scores = np.log(np.maximum(scores, 1e-7))
    return softmax(scores / TEMPERATURE)
