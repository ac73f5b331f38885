"""Copies of stages with weights of 8 or 4 bits: a standby that needs a quarter or an eighth of the bytes.

Weights alone are quantised, w = scale * q with one scale per output channel and q in [-127, 127] or [-7, 7]; the
activations stay float32. DequantizeLinear stands before each weight (operator set 13, for 4 bits 21).

onnxruntime 1.31 keeps the integers: it does not fold them into float32 weights when it loads the model. It makes each
float32 weight anew in every run, in working memory. Measured on two convolutions of 1024 x 1024 x 3 x 3 (75 MB) of a
process that has run once: 82 MB in 8 bits, 63 MB in 4 bits, 153 MB as they are; and 5.8, 17.7 and 5.2 ms a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

from stages.errors import ModelError
from stages.graph import ModelGraph

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Array = NDArray[Any]
Bits = Literal[8, 4]

OPSET: dict[Bits, int] = {8: 13, 4: 21}
IR: dict[Bits, int] = {8: 8, 4: 10}
LEVELS: dict[Bits, int] = {8: 127, 4: 7}
SHRINKS = np.linspace(0.5, 1.0, 26)
MIN_ELEMENTS = 64
"""Smaller weights stay: their scales would take as much."""


def quantised(graph: ModelGraph, first: int, end: int, bits: Bits) -> bytes:
    """The stage [first, end) with its convolutions' and matrices' weights in `bits` bits.

    Raises:
        ModelError: the model's operator set is too old and cannot be converted, or blocks are not a run of them.
    """
    model = _raised(onnx.load_model_from_string(graph.submodel(first, end)), bits, graph.name)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    axes = _weight_axes(model, weights)
    nodes: list[NodeProto] = []
    for name, axis in axes.items():
        nodes.append(_quantise(model, weights[name], axis, bits))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    return bytes(model.SerializeToString(deterministic=True))


def _raised(model: ModelProto, bits: Bits, name: str) -> ModelProto:
    """The model under an operator set that has what is needed."""
    current = next(item for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if current.version < OPSET[bits]:
        try:
            model = version_converter.convert_version(model, OPSET[bits])
        except Exception as error:  # it raises RuntimeError and classes of its own
            raise ModelError(
                f"model '{name}' has operator set {current.version}, {bits}-bit weights need {OPSET[bits]}, "
                f"and it cannot be converted: {error}"
            ) from error
    model.ir_version = max(model.ir_version, IR[bits])
    return model


def _weight_axes(model: ModelProto, weights: dict[str, TensorProto]) -> dict[str, int]:
    """Weights to quantise, and the axis of their output channels. One that is read otherwise as well stays."""
    axes: dict[str, int] = {}
    other: set[str] = set()
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            axis = _axis(node, position)
            if axis is None or axes.get(name, axis) != axis:
                other.add(name)
            elif name in weights and weights[name].data_type == TensorProto.FLOAT:
                axes[name] = axis
    return {
        name: axis % len(weights[name].dims)
        for name, axis in axes.items()
        if name not in other and np.prod(weights[name].dims) >= MIN_ELEMENTS and len(weights[name].dims) >= 2
    }


def _axis(node: NodeProto, position: int) -> int | None:
    if position != 1:
        return None
    if node.op_type == "Conv":
        return 0
    if node.op_type == "MatMul":
        return -1
    if node.op_type == "Gemm":
        transposed = any(item.name == "transB" and item.i for item in node.attribute)
        return 0 if transposed else 1
    return None


def _quantise(model: ModelProto, tensor: TensorProto, axis: int, bits: Bits) -> NodeProto:
    """Replaces the initializer by its integers and scales; returns the node that makes the weight again."""
    values = numpy_helper.to_array(tensor)
    whole, scale = round_weights(np.moveaxis(values, axis, 0), bits)
    whole = np.moveaxis(whole, 0, axis)
    name = tensor.name
    model.graph.initializer.remove(tensor)
    if bits == 8:
        packed = numpy_helper.from_array(np.ascontiguousarray(whole), f"{name}/int8")
    else:
        packed = helper.make_tensor(f"{name}/int4", TensorProto.INT4, whole.shape, _nibbles(whole), raw=True)
    model.graph.initializer.append(packed)
    model.graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}/scale"))
    return helper.make_node(
        "DequantizeLinear", [packed.name, f"{name}/scale"], [name], name=f"{name}/dequantise", axis=axis
    )


def _nibbles(whole: Array) -> bytes:
    """Two integers a byte, the first in the low half; an odd last one alone."""
    flat = whole.reshape(-1)
    pairs = np.append(flat, np.zeros(len(flat) % 2, np.int8)).view(np.uint8).reshape(-1, 2) & 0xF
    return bytes((pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8))


def round_weights(values: Array, bits: Bits) -> tuple[Array, Array]:
    """Integers int8 (c, ...) and scales (c,) of the first axis, with the least squared error among a few ranges: a
    smaller range than the largest weight's costs that one weight, and is finer for all others."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    level = LEVELS[bits]
    largest = np.maximum(np.abs(rows).max(axis=1), 1e-12)
    best, scale = np.full(len(rows), np.inf), largest / level
    for shrink in SHRINKS:
        trial = largest * shrink / level
        found = np.clip(np.round(rows / trial[:, None]), -level, level) * trial[:, None]
        error = ((found - rows) ** 2).sum(axis=1)
        scale = np.where(error < best, trial, scale)
        best = np.minimum(best, error)
    whole = np.clip(np.round(rows / scale[:, None]), -level, level).astype(np.int8)
    return whole.reshape(values.shape), scale
