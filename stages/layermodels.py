"""A layer as an ONNX model of its own, to be timed: the layer alone, or side by side with copies of itself.

The copies read the same tensors, each with weights of its own: what a session costs by itself is then a small share,
and what is read is as near as within a network, where the layer before has just made the tensors, and all the other
layers have been run since the weights were read. What a copy makes is given back at once (its shape is all that is
wanted of it), so that the next one writes to the same memory, as within a network. The model is in onnxruntime's
optimised form and must be run as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from stages.errors import ModelError
from stages.layers import Layer, Operand

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

IR_VERSION = 8
SHAPE_OPSET = 20
"""Where a layer does not need the standard operators."""


def layer_model(layer: Layer, *, copies: int = 1, seed: int = 0) -> bytes:
    """A serialised model that runs the layer so many times. Its inputs are the layer's computed operands, `i0`, `i1`
    ...; its output `shape` is the shape of what the last copy makes.

    Raises:
        ModelError: the layer holds a graph of its own, or makes what is not a tensor.
    """
    if not layer.whole or not layer.outputs or any(output is None for output in layer.outputs[:1]):
        raise ModelError(f"layer {layer.title} cannot be timed by itself")
    random = np.random.default_rng(seed)
    operands = [(index, operand) for index, operand in enumerate(layer.inputs) if operand is not None]
    weights = {index: fill(operand, random) for index, operand in operands if operand.static}

    def names(copy: int) -> list[str]:
        own = [f"w{copy}_{index}" if index in weights else f"i{index}" for index in range(len(layer.inputs))]
        return [name if operand is not None else "" for name, operand in zip(own, layer.inputs, strict=True)]

    nodes = []
    for copy in range(copies):
        outputs = [f"o{copy}_{index}" if out else "" for index, out in enumerate(layer.outputs)]
        nodes.append(node_of(layer, inputs=names(copy), outputs=outputs))
        nodes.append(helper.make_node("Shape", outputs[:1], ["shape" if copy == copies - 1 else f"shape{copy}"]))
    made = layer.outputs[0]
    assert made is not None  # noqa: S101 - looked at above
    graph = helper.make_graph(
        nodes,
        "layer",
        [_value(f"i{index}", operand) for index, operand in operands if not operand.static],
        [helper.make_tensor_value_info("shape", TensorProto.INT64, [len(made.shape)])],
        [
            numpy_helper.from_array(_unlike(value, copy), f"w{copy}_{index}")
            for copy in range(copies)
            for index, value in weights.items()
        ],
    )
    opsets = {"": SHAPE_OPSET, **dict(layer.opsets)}
    imports = [helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION).SerializeToString())


def _unlike(value: NDArray[Any], copy: int) -> NDArray[Any]:
    """Not the same for two copies: onnxruntime keeps equal weights of matrices once."""
    if copy == 0 or value.dtype.kind != "f" or value.size < 2:
        return value
    other = value.copy()
    other.flat[0] += copy / 4096
    return other


def layer_feeds(layer: Layer, *, seed: int = 1) -> dict[str, NDArray[Any]]:
    """Inputs for the model: normal numbers, and ones where the type is not a floating-point number."""
    random = np.random.default_rng(seed)
    operands = enumerate(layer.inputs)
    return {f"i{index}": fill(operand, random) for index, operand in operands if operand and not operand.static}


def node_of(layer: Layer, *, inputs: Sequence[str], outputs: Sequence[str]) -> NodeProto:
    """The layer's node, with these tensors."""
    attributes = {name: list(value) if isinstance(value, tuple) else value for name, value in layer.attributes}
    node = helper.make_node(layer.op_type, list(inputs), list(outputs), domain=layer.domain)
    for name, value in attributes.items():
        if value == []:
            continue  # of no known type; an absent list is the same
        node.attribute.append(helper.make_attribute(name, value))
    return node


def fill(operand: Operand, random: np.random.Generator) -> NDArray[Any]:
    """A tensor with the operand's values, or some of its type and shape."""
    dtype = np.dtype(operand.dtype)
    if operand.values is not None:
        return np.asarray(operand.values, dtype).reshape(operand.shape)
    if dtype.kind != "f":
        return np.ones(operand.shape, dtype)
    # Positive and near 1: a variance, a divisor or a square root of it is as good as any, and no sum is denormal.
    return (1 + 0.1 * random.standard_normal(operand.shape, np.float32)).astype(dtype)


def _value(name: str, operand: Operand) -> Any:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(operand.dtype)), operand.shape)
