"""What each codec does to the activations of a model, measured for its bundle: bytes, time, and accuracy."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from broker.codecs import Codec
from broker.wire import Tensor
from stages import codec as codecs
from stages.calibration import CalibrationData
from stages.engine import Engine
from stages.graph import ModelGraph
from stages.manifest import CodecLoss, CodecRecord, MeasuredCodec, wilson_interval

TIMED_FRAMES = 16
"""Bytes and times are those of so many frames, one at a time."""

REPEATS = 5
"""Each time is the least of so many: what else the machine does can only add to it."""

BATCH = 64

MEASURED: tuple[MeasuredCodec, ...] = get_args(MeasuredCodec)

LOSSY: tuple[Codec, ...] = ("fp16", "int8")
"""What changes numbers; with `zstd` after it they are the same."""

Tensors = Mapping[str, Tensor]
Tell = Callable[[str], None]


def measure_codecs(
    graph: ModelGraph, data: CalibrationData, *, classifies: bool, on_progress: Tell | None = None
) -> tuple[CodecRecord, ...]:
    """Every codec at every cut between the first and the last, where 1 byte stays 1 byte and nothing takes any time.

    Args:
        data: with labels the loss is one of right answers, without them one of answers that are the network's own.
        classifies: whether the output is a score per class; without that no loss is measured.

    Raises:
        CalibrationError: an image cannot be used.
        EngineError, FrameError: onnxruntime cannot load or run the model.
    """
    tell = on_progress or (lambda _: None)
    blocks = Blocks.of(graph)
    tell("codecs: bytes and times")
    frames = [blocks.activations(inputs) for inputs in timed_frames(graph, data)]
    flops_per_s = max(1, sum(block.flops for block in graph.blocks)) / blocks.seconds(frames)
    losses: dict[str, CodecLoss] = {}
    if classifies:
        tell("codecs: accuracy")
        losses = dict(zip(LOSSY, measure_losses(blocks, data, LOSSY), strict=True))
    found = []
    for codec in MEASURED:
        measured = [measure_cut([frame[cut] for frame in frames], codec) for cut in range(1, len(graph.blocks))]
        ends = CutCost(ratio=1.0, encode_s_per_byte=0.0, decode_s_per_byte=0.0)
        cuts = [ends, *measured, ends]
        record = CodecRecord(
            codec=codec,
            ratio=tuple(cut.ratio for cut in cuts),
            encode_s_per_byte=tuple(cut.encode_s_per_byte for cut in cuts),
            decode_s_per_byte=tuple(cut.decode_s_per_byte for cut in cuts),
            loss=losses.get(codec.partition("+")[0]),
            flops_per_s=flops_per_s,
        )
        found.append(record)
    return tuple(found)


def timed_frames(graph: ModelGraph, data: CalibrationData) -> Iterator[Tensors]:
    """Single frames from all over the data, which may be sorted by class."""
    for index in np.unique(np.linspace(0, data.count - 1, TIMED_FRAMES).astype(int)).tolist():
        yield {graph.inputs[0].name: data.read(index)}


class Blocks:
    """A network that runs block by block."""

    def __init__(self, graph: ModelGraph, engines: Sequence[Engine]) -> None:
        self.graph = graph
        self.engines = tuple(engines)

    @classmethod
    def of(cls, graph: ModelGraph) -> Blocks:
        """Raises EngineError where onnxruntime cannot load a block."""
        numbers = range(len(graph.blocks))
        engines = [Engine.load(graph.submodel(k, k + 1), outputs=graph.cuts[k + 1].tensors) for k in numbers]
        return cls(graph, engines)

    def activations(self, inputs: Tensors) -> list[Tensors]:
        """Of every cut, 0 to B."""
        found = [inputs]
        for engine in self.engines:
            found.append(engine.run(found[-1]))
        return found

    def seconds(self, frames: Sequence[Sequence[Tensors]]) -> float:
        """How long the blocks take for a frame, one after the other."""
        return statistics.median(
            sum(_least_s(partial(engine.run, taken)) for engine, taken in zip(self.engines, frame, strict=False))
            for frame in frames
        )

    def answers(
        self, inputs: Tensors, codec: Codec = "none", at: Sequence[int] | None = None, *, first: int = 0
    ) -> NDArray[np.intp]:
        """The class of each frame, where the activations of these cuts (default: all between the first and the last)
        go through a codec; `inputs` are those of cut `first`."""
        values, cuts = inputs, range(1, len(self.engines)) if at is None else at
        frames = len(next(iter(inputs.values())))
        for cut, engine in enumerate(self.engines[first:], start=first):
            if codec != "none" and cut in cuts:
                values = {n: codecs.decode(codecs.encode(x, codec, frames=frames), n) for n, x in values.items()}
            values = engine.run(values)
        (scores,) = values.values()
        return np.asarray(scores.reshape(frames, -1).argmax(axis=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class CutCost:
    """Of one codec at one cut: bytes after / before, and seconds per byte before."""

    ratio: float
    encode_s_per_byte: float
    decode_s_per_byte: float


def measure_cut(frames: Sequence[Tensors], codec: Codec) -> CutCost:
    """The sums over all frames, each of which is encoded and decoded by itself."""
    before = after = 0
    encode_s = decode_s = 0.0
    for tensors in frames:
        for array in tensors.values():
            carried = codecs.encode(array, codec)
            before, after = before + array.nbytes, after + carried.nbytes
            encode_s += _least_s(partial(codecs.encode, array, codec))
            decode_s += _least_s(partial(codecs.decode, carried))
    before = max(1, before)
    return CutCost(
        ratio=max(after, 1) / before, encode_s_per_byte=encode_s / before, decode_s_per_byte=decode_s / before
    )


def measure_losses(
    blocks: Blocks, data: CalibrationData, chosen: Sequence[Codec], at: Sequence[int] | None = None
) -> list[CodecLoss]:
    """The accuracy that each codec costs at these cuts (default: all at once): the same images with it and without."""
    name, worse, better = blocks.graph.inputs[0].name, [0] * len(chosen), [0] * len(chosen)
    for inputs, labels in data.batches(BATCH if blocks.graph.dynamic_batch else 1):
        plain = blocks.answers({name: inputs})
        right = np.ones(len(plain), dtype=bool) if labels is None else plain == labels
        for index, codec in enumerate(chosen):
            still = blocks.answers({name: inputs}, codec, at) == (plain if labels is None else labels)
            worse[index] += int(np.count_nonzero(right & ~still))
            better[index] += int(np.count_nonzero(~right & still))
    labelled = data.labels is not None
    return [loss_of(lost, gained, data.count, labelled=labelled) for lost, gained in zip(worse, better, strict=True)]


def loss_of(worse: int, better: int, images: int, *, labelled: bool = True) -> CodecLoss:
    """The difference of two proportions of the same images, of which so many are only right without and only right
    with the codec. Its 95 % interval is made of Wilson's of the two by the square-and-add rule (Zou & Donner,
    Statistics in Medicine 27, 2008)."""
    lost, gained = worse / images, better / images
    lost_low, lost_high = wilson_interval(worse, images)
    gained_low, gained_high = wilson_interval(better, images)
    value = lost - gained
    return CodecLoss(
        value=value,
        low=max(-1.0, value - math.hypot(lost - lost_low, gained_high - gained)),
        high=min(1.0, value + math.hypot(lost_high - lost, gained - gained_low)),
        images=images,
        labelled=labelled,
    )


def _least_s(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
