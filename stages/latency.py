"""Predicts what onnxruntime takes for a sub-model from a machine's profile, and measures it where that can be done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from broker.wire import Tensor
from planner.latency import SessionLatency, block_seconds, session_latency
from planner.predictor import Prediction, Predictor
from stages.engine import Engine
from stages.features import features, kind_of
from stages.graph import ModelGraph
from stages.layers import Layer, fused_layers
from stages.tensor import TensorSpec
from stages.timing import WARM_RUNS

WARM_ROUNDS = 6
"""After loading, a round of all sessions takes 4 to 8 % longer than later ones, the next ones less and less."""


class LatencyModel:
    """Predicts sessions. A layer that was predicted once is not predicted again."""

    def __init__(self, predictor: Predictor, *, threads: int = 1) -> None:
        self._predictor = predictor
        self._threads = threads
        self._known: dict[Layer, Prediction] = {}

    def session(self, model: bytes) -> SessionLatency:
        """Of a serialised model.

        Raises:
            ModelError: onnxruntime cannot load or run it.
            MissingPackageError: LightGBM is not installed.
        """
        counted = Counter(fused_layers(model, threads=self._threads))
        self._predict([layer for layer in counted if layer not in self._known])
        in_all = sum(layer.weight_bytes * count for layer, count in counted.items())
        layers = [(self._within(layer, in_all), count) for layer, count in counted.items()]
        return session_latency(layers, self._predictor.profile.overhead_s)

    def _within(self, layer: Layer, session_bytes: int) -> Prediction:
        """Of a session with so many bytes of weights."""
        alone, far = self._known[layer], self._predictor.profile.far
        more_s = 0.0 if far is None else far.seconds(alone.kind, layer.weight_bytes, session_bytes)
        return replace(
            alone, seconds=alone.seconds + more_s, low=alone.low + more_s / 2, high=alone.high + more_s * 1.5
        )

    def blocks(self, graph: ModelGraph) -> tuple[float, ...]:
        """B seconds that add up to what the whole network takes: what the planner reckons with. Raises as `session`."""
        count = len(graph.blocks)
        prefixes = [0.0, *(self.session(graph.submodel(0, end)).seconds for end in range(1, count + 1))]
        suffixes = [
            prefixes[-1],
            *(self.session(graph.submodel(start, count)).seconds for start in range(1, count)),
            0.0,
        ]
        return block_seconds(prefixes, suffixes)

    def _predict(self, layers: Sequence[Layer]) -> None:
        by_kind: dict[str, list[Layer]] = {}
        for layer in layers:
            by_kind.setdefault(kind_of(layer), []).append(layer)
        for kind, same in by_kind.items():
            predictions = self._predictor.predict(kind, [features(layer) for layer in same])
            self._known.update(zip(same, predictions, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A sub-model as it is deployed: its bytes, and the tensors before and after it."""

    model: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def stage_session(graph: ModelGraph, first_block: int, end_block: int) -> Session:
    return part_session(graph, first_block, end_block, graph.submodel(first_block, end_block))


def part_session(graph: ModelGraph, first_block: int, end_block: int, model: bytes) -> Session:
    """What stands in for blocks, or an exit, for which `end_block` is the last."""
    return Session(model=model, inputs=graph.cuts[first_block].tensors, outputs=graph.cuts[end_block].tensors)


def measure_sessions(
    sessions: Mapping[str, Session],
    *,
    runs: int,
    threads: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, list[float]]:
    """Seconds of so many runs of each session in the engine, as a stage runs it; the sessions in turn, so that a slow
    moment of the machine strikes all of them. What a session needs to warm up is not counted.

    Raises:
        EngineError: onnxruntime cannot load one of them.
        FrameError: it cannot run one.
    """
    loaded = {
        name: (Engine.load(session.model, outputs=session.outputs, threads=threads), _sample(session.inputs))
        for name, session in sessions.items()
    }
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for done in range(-WARM_ROUNDS, runs):
        for name, (engine, tensors) in loaded.items():
            for _ in range(WARM_RUNS):  # others have used the caches: in a pipeline a stage runs again and again
                engine.run(tensors)
            start = clock()
            engine.run(tensors)
            if done >= 0:
                found[name].append(clock() - start)
        on_progress(max(0, done + 1), runs)
    return found


def _sample(inputs: Sequence[TensorSpec]) -> dict[str, Tensor]:
    random = np.random.default_rng(0)
    return {
        spec.name: random.standard_normal(spec.example_shape).astype(spec.dtype)
        if np.dtype(spec.dtype).kind == "f"
        else np.ones(spec.example_shape, spec.dtype)
        for spec in inputs
    }
