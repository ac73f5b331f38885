"""Frames to stream, and what the whole network says of each when it runs in one piece, here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.bundle import Bundle
from stages.decode import decode_frame
from stages.engine import Engine
from stages.errors import FrameError
from stages.graph import ModelGraph
from stages.manifest import ImageInput, TensorInput
from stages.results import ResultMaker
from stages.spec import PipelineSpec
from stages.tensor import TensorSpec
from understudy.data import digits_bundle, digits_frames
from understudy.emulation.errors import EmulationError
from understudy.result import Result

COUNT = 16
RELATIVE, ABSOLUTE = 1e-3, 1e-4
"""How far apart the same sums may be that were added up in another order: in batches, in stages."""

_SCORES = 1000
_TIMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A frame as a client publishes it, and the answer that is right: scores by class, or outputs by name. `label`: the
    class that the frame shows; None: nobody knows."""

    content: Any
    scores: Mapping[int, float]
    outputs: Mapping[str, NDArray[Any]]
    label: int | None = None

    def is_right(self, result: Result) -> bool:
        """Of two classes that score the same, either is right."""
        if result.error is not None:
            return False
        if self.scores:
            said = None if result.class_index is None else self.scores.get(result.class_index)
            return said is not None and said >= max(self.scores.values()) - ABSOLUTE
        return self.outputs.keys() == result.outputs.keys() and all(
            np.allclose(result.outputs[name], value, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
            for name, value in self.outputs.items()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """`seconds`: what the whole network takes for one frame, on one core of this machine."""

    samples: Sequence[Sample]
    seconds: float


def make_samples(bundle: Bundle, graph: ModelGraph) -> Samples:
    """For the digits network the digits that ship with it, for any other noise, the same each time. Blocks.

    Raises:
        EmulationError: the network refuses what it is given.
    """
    spec = PipelineSpec.of(graph, bundle.manifest, dynamic_batch=graph.dynamic_batch)
    engine = Engine.load(bundle.model_path.read_bytes(), outputs=spec.outputs)
    maker = ResultMaker(spec, _SCORES)
    try:
        contents, labels = _contents(bundle, spec)
        samples = [_sample(*pair, spec, engine, maker) for pair in zip(contents, labels, strict=True)]
        tensors = _decoded(samples[0].content, spec)
        seconds = statistics.median(_timed(engine, tensors) for _ in range(_TIMED))
    except FrameError as error:
        raise EmulationError(f"the model takes no frames of noise, and has none of its own: {error}") from error
    return Samples(samples=samples, seconds=seconds)


def _contents(bundle: Bundle, spec: PipelineSpec) -> tuple[Sequence[Any], Sequence[int | None]]:
    """Frames, and what they show."""
    if bundle.manifest.name == "digits" and bundle.manifest.version == digits_bundle().manifest.version:
        frames, labels = digits_frames()
        return frames[: 4 * COUNT], labels[: 4 * COUNT]
    random = np.random.default_rng(0)
    return [_noise(spec, random) for _ in range(COUNT)], [None] * COUNT


def _noise(spec: PipelineSpec, random: np.random.Generator) -> Any:
    wanted = spec.manifest.input
    if isinstance(wanted, ImageInput):
        return _picture(wanted, random)
    assert isinstance(wanted, TensorInput)  # noqa: S101 - there are two kinds
    arrays = {tensor.name: _array(tensor, random) for tensor in spec.inputs}
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def _picture(wanted: ImageInput, random: np.random.Generator) -> Any:
    from PIL import Image

    shape = (wanted.height, wanted.width) if wanted.channels == 1 else (wanted.height, wanted.width, 3)
    return Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))


def _array(tensor: TensorSpec, random: np.random.Generator) -> NDArray[Any]:
    values = random.random(tensor.example_shape)
    return (values if np.dtype(tensor.dtype).kind == "f" else values > 0.5).astype(tensor.dtype)


def _decoded(content: Any, spec: PipelineSpec) -> Mapping[str, NDArray[Any]]:
    from understudy.frames import joined, to_payload

    if isinstance(content, Mapping):
        return content
    payload = bytes(joined(to_payload(content)))
    return decode_frame(payload, spec.manifest.input, spec.inputs, dynamic_batch=spec.dynamic_batch)


def _sample(content: Any, label: int | None, spec: PipelineSpec, engine: Engine, maker: ResultMaker) -> Sample:
    outputs = engine.run(_decoded(content, spec))
    [answer] = maker.answers(outputs, 1)
    if isinstance(answer, FrameError):
        raise answer
    scores = {entry["class_index"]: entry["score"] for entry in answer.get("scores", ())}
    return Sample(content=content, scores=scores, outputs={} if scores else outputs, label=label)


def _timed(engine: Engine, tensors: Mapping[str, NDArray[Any]]) -> float:
    """On the clock of this thread, which computes alone: what else the machine does is not the model's."""
    began_s = time.thread_time()
    engine.run(tensors)
    return time.thread_time() - began_s
