"""Takes a run of nodes out of a model as a model of its own, with all that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from stages.dataflow import Dataflow
from stages.errors import ModelError
from stages.tensor import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

# What protobuf can serialise.
MAX_MODEL_BYTES = 2**31 - 1

# Before version 4 an initializer had to be an input as well; without that the runtime knows that it is constant.
OLDEST_IR = 4


def extract(
    model: ModelProto,
    flow: Dataflow,
    nodes: Sequence[int],
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    name: str,
) -> bytes:
    """A serialised model of the given nodes, and the static nodes and initializers that they read.

    Args:
        model: the whole model; it is not changed.
        flow: its dataflow.
        nodes: indices of dynamic nodes in canonical order.
        inputs: what crosses the cut before the nodes. One that no node reads stays an input.
        outputs: what crosses the cut after them. One that is also an input is passed through: the runtime copies it.
        name: the graph's name.

    Returns:
        Bytes that are the same for the same arguments. Operator sets and model-local functions are carried along.

    Raises:
        ModelError: the result would be above 2 GiB.
    """
    reads = [read for node in nodes for read in flow.reads[node]]
    static_nodes, initializers = flow.static_closure([*reads, *(tensor.name for tensor in outputs)])
    part = onnx.ModelProto(ir_version=max(model.ir_version, OLDEST_IR), producer_name="understudy")
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = name
    part.graph.input.extend(_value(tensor) for tensor in inputs)
    part.graph.output.extend(_value(tensor) for tensor in outputs)
    part.graph.node.extend(flow.nodes[index] for index in sorted({*nodes, *static_nodes}))
    weights = [tensor for tensor in model.graph.initializer if tensor.name in initializers]
    # Counted before they are copied: two copies of 2 GiB would be a bad way to find out.
    size = part.ByteSize() + sum(tensor.ByteSize() for tensor in weights)
    if size < MAX_MODEL_BYTES:
        part.graph.initializer.extend(weights)
        part.graph.sparse_initializer.extend(
            tensor for tensor in model.graph.sparse_initializer if tensor.values.name in initializers
        )
        size = part.ByteSize()
    if size >= MAX_MODEL_BYTES:
        raise ModelError(f"'{name}' needs {size} bytes, the limit of an ONNX file is 2 GiB: take fewer blocks together")
    return bytes(part.SerializeToString(deterministic=True))


def _value(tensor: TensorSpec) -> onnx.ValueInfoProto:
    dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return onnx.helper.make_tensor_value_info(tensor.name, dtype, tensor.shape)
