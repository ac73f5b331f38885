"""A stand-in for several blocks: layers one after the other, each fitted on the output of the one before.

The target of a layer is the network's own activation at the cut where it ends. Blocks that cost next to nothing (a
stem, a head) stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from stages.fitting.activations import Array, Runner, forward, single
from stages.fitting.fragment import Fragment, make_model
from stages.fitting.layers import Bounds, choose_units, finish, fit_weights, fits, linear_kernel, linear_units, rows_for
from stages.fitting.units import Units, find_units
from stages.graph import ModelGraph
from stages.tensor import TensorSpec

CHEAP_SHARE = 0.1
"""A block is kept where it costs at most so much of the costliest one."""
MAX_SPAN = 8

VECTORS = (16, 8, 4)
"""Numbers of float32 that processors take at a time."""

NEAR = 0.125
"""A number that is farther off, relative, is not worth it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What happens to the blocks [first, end).

    Attributes:
        kind: `keep`: nothing; `thin`: some of their hidden units; `linear`: linear units; `tokens`: one matrix per row.
        count: of the units.
    """

    first: int
    end: int
    kind: str
    count: int


class Planner:
    """Decides the steps of stand-ins; remembers what it found out about blocks."""

    def __init__(self, graph: ModelGraph) -> None:
        self._graph = graph
        self._units: dict[tuple[int, int], Units | None] = {}
        self._cheap = CHEAP_SHARE * max(block.flops for block in graph.blocks)

    def steps(self, first: int, end: int, share: float) -> list[Step] | None:
        """Steps that together cost about `share` of the stage; None where it cannot be replaced by layers."""
        spans = self._spans(first, end)
        if spans is None:
            return None
        kept = sum(self.flops(at, to) for at, to, kind in spans if kind == "keep")
        total = self.flops(first, end)
        left = (share * total - kept) / max(total - kept, 1)
        return [
            Step(first=at, end=to, kind=kind, count=0 if kind == "keep" else self._count(at, to, kind, left))
            for at, to, kind in spans
        ]

    def units(self, first: int, end: int) -> Units | None:
        key = (first, end)
        if key not in self._units:
            source, target = self._shape(first), self._shape(end)
            found = None
            if source is not None and target is not None and fits(source.example_shape, target.example_shape):
                found = find_units(
                    onnx.load_model_from_string(self._graph.submodel(first, end)), source.name, target.name
                )
            self._units[key] = found
        return self._units[key]

    def flops(self, first: int, end: int) -> int:
        return sum(block.flops for block in self._graph.blocks[first:end])

    def _shape(self, cut: int) -> TensorSpec | None:
        return single(self._graph, cut)

    def _spans(self, first: int, end: int) -> list[tuple[int, int, str]] | None:
        spans: list[tuple[int, int, str]] = []
        at = first
        while at < end:
            if self._shape(at) is None:
                return None
            found = self._next(at, end)
            if found is None:
                return None
            spans.append((at, *found))
            at = found[0]
        return spans

    def _next(self, at: int, end: int) -> tuple[int, str] | None:
        if self._graph.blocks[at].flops <= self._cheap and self._shape(at + 1) is not None:
            return at + 1, "keep"
        stops = range(at + 1, min(end, at + MAX_SPAN) + 1)
        thin = next((to for to in stops if self.units(at, to) is not None), None)
        if thin is not None:
            return thin, "thin"
        return next(((to, kind) for to in stops if (kind := self._plain(at, to)) is not None), None)

    def _plain(self, at: int, to: int) -> str | None:
        source, target = self._shape(at), self._shape(to)
        if source is None or target is None:
            return None
        if fits(source.example_shape, target.example_shape):
            return "linear"
        before, after = source.example_shape, target.example_shape
        return "tokens" if len(before) in (2, 3) and before[:-1] == after[:-1] else None

    def _count(self, first: int, end: int, kind: str, share: float) -> int:
        """How many units are within the share."""
        source, target = self._graph.cuts[first].tensors[0], self._graph.cuts[end].tensors[0]
        budget = share * self.flops(first, end)
        if kind == "tokens":
            rows = int(np.prod(source.example_shape[:-1]))
            wide = source.example_shape[-1] + target.example_shape[-1]
            return max(1, int(budget // (2 * rows * wide)))
        channels, out = source.example_shape[1], target.example_shape[1]
        pixels = target.example_shape[2] * target.example_shape[3]
        budget -= (2 * channels + 3) * out * pixels
        units = self.units(first, end) if kind == "thin" else None
        if units is None:
            kernel = linear_kernel(channels, -(-source.example_shape[2] // target.example_shape[2]))
            each = 2 * pixels * (channels * kernel * kernel + out)
            most = min(out, channels * kernel * kernel)
        else:
            each = self._unit_flops(units, source) + 2 * pixels * units.kernel**2 * out
            most = units.count
        return min(most, whole_vectors(budget / each))

    def _unit_flops(self, units: Units, source: TensorSpec) -> int:
        fragment = Fragment(prefix="units")
        name = units.emit(fragment, source.name, [0])
        made = TensorSpec(name=name, dtype="float32", shape=(None,) * 4, example_shape=(1,) * 4)
        inputs = [replace(source, shape=source.example_shape)]
        model = onnx.load_model_from_string(make_model(self._graph, [fragment], inputs, [made], name="units"))
        return sum(block.flops for block in ModelGraph.from_model(model, name="units").blocks)


def whole_vectors(count: float) -> int:
    """A number of channels near it that fills the vectors of a processor, if one is near: onnxruntime has slower
    kernels for others (a depth-wise convolution of 257 channels took nine times as long as one of 256)."""
    for step in VECTORS:
        whole = step * round(count / step)
        if abs(whole - count) <= NEAR * count:
            return whole
    return max(1, int(count))


class Chain:
    """Layers from one cut on, fitted step by step. Chains that begin with the same steps share them.

    `x` is the activation of that cut for the calibration images, (N, ...).
    """

    def __init__(self, graph: ModelGraph, planner: Planner, x: Array) -> None:
        self._graph, self._planner, self._start = graph, planner, x
        self._begin()

    def _begin(self) -> None:
        self._steps: list[Step] = []
        self._fragments: list[Fragment] = []
        self._value = self._truth = self._start

    def extend(self, steps: list[Step]) -> None:
        """Fit what is missing; start again where earlier steps differ."""
        if self._steps != steps[: len(self._steps)]:
            self._begin()
        for step in steps[len(self._steps) :]:
            self._add(step)

    @property
    def fragments(self) -> list[Fragment]:
        return list(self._fragments)

    def _add(self, step: Step) -> None:
        graph = self._graph
        source, target = graph.cuts[step.first].tensors[0], graph.cuts[step.end].tensors[0]
        truth = forward(graph, step.first, step.end, self._truth)
        fragment = Fragment(prefix=f"stand-in/{step.first}-{step.end}")
        if step.kind == "keep":
            fragment.include(onnx.load_model_from_string(graph.submodel(step.first, step.end)))
        elif step.kind == "tokens":
            _fit_tokens(fragment, source.name, self._value, truth, step.count, target.name)
        else:
            self._fit_layer(fragment, step, source, truth, target.name)
        model = make_model(graph, [fragment], (source,), (target,), name="layer")
        self._value = Runner(model, source, target, batched=graph.dynamic_batch)(self._value)
        self._truth = truth
        self._steps.append(step)
        self._fragments.append(fragment)

    def _fit_layer(self, fragment: Fragment, step: Step, source: TensorSpec, truth: Array, output: str) -> None:
        units = self._planner.units(step.first, step.end) if step.kind == "thin" else None
        x = self._value
        if units is None:
            stride = -(-x.shape[2] // truth.shape[2])
            weights = linear_units(x, truth, linear_kernel(x.shape[1], stride), step.count)
            name = fragment.conv(source.name, weights, stride=stride)
            hidden, kernel, stride = self._run(fragment, source, name, weights.shape[0]), 1, 1
        else:
            trial = Fragment(prefix="units")
            every = self._run(trial, source, units.emit(trial, source.name, range(units.count)), units.count)
            kernel, stride = units.kernel, units.stride
            kept = choose_units(every, x, truth, kernel, stride, step.count)
            hidden = every[:, kept]
            name = units.emit(fragment, source.name, kept)
        finish(fragment, source.name, name, hidden, x, truth, kernel=kernel, stride=stride, output=output)

    def _run(self, fragment: Fragment, source: TensorSpec, name: str, channels: int) -> Array:
        made = TensorSpec(
            name=name, dtype="float32", shape=(None, channels, None, None), example_shape=(1, channels, 1, 1)
        )
        model = make_model(self._graph, [fragment], (source,), (made,), name="units")
        return Runner(model, source, made, batched=self._graph.dynamic_batch)(self._value)


def _fit_tokens(fragment: Fragment, source: str, x: Array, target: Array, count: int, output: str) -> None:
    """Rows of (N, ..., D) to rows of (N, ..., E): one matrix, or two that meet in `count` columns if that is less."""
    rows, wanted = x.reshape(-1, x.shape[-1]), target.reshape(-1, target.shape[-1])
    step = max(1, len(rows) // rows_for(rows.shape[1]))
    bounds = Bounds.of(target)
    weights = fit_weights(rows[::step], wanted[::step], bounds)
    matrix, constant = weights[:-1], weights[-1]
    name = source
    if count * (len(matrix) + matrix.shape[1]) < matrix.size:
        spread = np.cov(rows[::step], rowvar=False)
        _, vectors = np.linalg.eigh(matrix.T @ spread @ matrix)
        basis = vectors[:, ::-1][:, :count]
        constant = constant + rows[::step].mean(axis=0) @ (matrix - matrix @ basis @ basis.T)
        name = fragment.op("MatMul", name, fragment.weight(matrix @ basis))
        matrix = basis.T
    name = fragment.op("Add", fragment.op("MatMul", name, fragment.weight(matrix)), fragment.weight(constant))
    bounds.emit(fragment, name, output)
