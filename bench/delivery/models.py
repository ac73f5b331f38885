"""The models: as many blocks as stages, each a convolution and a ReLU, and activations of one size at every cut."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bench.subjects import Subject, npy
from stages.bundle import Bundle, write_bundle
from stages.description import describe
from stages.engine import Engine
from stages.graph import ModelGraph

CHANNELS = 48
"""Also the number of classes: the output is the mean of each channel."""

FRAMES = 16
SLOW_BYTES = 100_000
KERNEL, SLOW_KERNEL = 13, 7
"""Hundreds of microseconds for frames of 12 KB, milliseconds for those of 600 KB."""


def side_of(frame_bytes: int) -> int:
    """Height and width of a frame of about so many bytes, float32."""
    return max(1, round(math.sqrt(frame_bytes / (4 * CHANNELS))))


def make_model(side: int, stages: int, seed: int = 0) -> onnx.ModelProto:
    """x (batch, 48, side, side) -> `stages` times Conv and ReLU -> mean of each channel -> softmax (batch, 48)."""
    random = np.random.default_rng(seed)
    kernel = KERNEL if 4 * CHANNELS * side**2 < SLOW_BYTES else SLOW_KERNEL
    shape = (CHANNELS, CHANNELS, kernel, kernel)
    scale = math.sqrt(2 / math.prod(shape[1:]))
    weights, nodes, last = [], [], "frame"
    for number in range(1, stages + 1):
        values = (random.standard_normal(shape) * scale).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"weight{number}"))
        nodes.append(helper.make_node("Conv", [last, f"weight{number}"], [f"sum{number}"], pads=[kernel // 2] * 4))
        last = f"activation{number}"
        nodes.append(helper.make_node("Relu", [f"sum{number}"], [last]))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Softmax", ["flat"], ["scores"]),
    ]
    given = helper.make_tensor_value_info("frame", TensorProto.FLOAT, ["batch", CHANNELS, side, side])
    made = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CHANNELS])
    graph = helper.make_graph(nodes, "delivery", [given], [made], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_subject(frame_bytes: int, stages: int, folder: Path) -> Subject:
    """The model of one size of frames, as a bundle in `folder`, and frames of it."""
    side = side_of(frame_bytes)
    size = 4 * CHANNELS * side**2
    name = f"frames-{size}"
    model_path, bundle = folder / f"{name}.onnx", folder / name
    onnx.save(make_model(side, stages), model_path)
    labels = [f"channel {number}" for number in range(CHANNELS)]
    write_bundle(bundle, describe(ModelGraph.load(model_path), name=name, labels=labels), model_path=model_path)
    random = np.random.default_rng(1)
    return Subject(
        name=name,
        title=f"{size / 1e3:.0f} kB frames, {stages} stages",
        bundle=Bundle.load(bundle),
        served={"bundle": bundle},
        frames=tuple(npy(_frame(random, side)) for _ in range(FRAMES)),
        frame_kind=f".npy float32 (1, {CHANNELS}, {side}, {side})",
        slow=size >= SLOW_BYTES,
    )


def _frame(random: np.random.Generator, side: int) -> NDArray[np.float32]:
    """Noise, and a level of its own for each channel: so that frames have different classes."""
    levels = 2 * random.standard_normal((1, CHANNELS, 1, 1))
    return (levels + random.standard_normal((1, CHANNELS, side, side))).astype(np.float32)


def scores_of(subject: Subject) -> list[list[float]]:
    """What the whole model says of every frame."""
    engine = Engine.load(subject.bundle.model_path.read_bytes(), outputs=subject.spec.outputs)
    name = subject.spec.outputs[0].name
    return [engine.run(inputs)[name].reshape(-1).tolist() for inputs in subject.inputs]
