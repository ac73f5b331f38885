"""Pieces of ONNX graphs, and models made of them.

A fitted part is written with operators whose meaning has not changed since operator set 9 (Conv, Relu, Min, Add, Gemm,
AveragePool, ...), so that it can be joined with blocks of the network under the network's own operator sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from stages.graph import ModelGraph
from stages.tensor import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

OLDEST_IR = 8
"""Of a part; newer where the network's file is."""


@dataclass(slots=True, kw_only=True)
class Fragment:
    """Nodes under construction, with their weights. Every method adds a node and returns its result's name.

    Attributes:
        prefix: starts the name of every inner tensor: two fragments of one model must not share it.
    """

    prefix: str
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, TensorProto] = field(default_factory=dict)

    def op(self, op_type: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{self.prefix}/{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, values: NDArray[Any]) -> str:
        """A constant; float64 becomes float32."""
        array = np.ascontiguousarray(values, dtype=np.float32 if values.dtype.kind == "f" else values.dtype)
        name = f"{self.prefix}/weight{len(self.weights)}"
        self.weights[name] = numpy_helper.from_array(array, name)
        return name

    def conv(self, x: str, weight: NDArray[Any], bias: NDArray[Any] | None = None, *, stride: int = 1) -> str:
        """Odd kernel (out, in, k, k), padded by k // 2."""
        kernel = weight.shape[2]
        inputs = [x, self.weight(weight)] + ([] if bias is None else [self.weight(bias)])
        return self.op(
            "Conv",
            *inputs,
            kernel_shape=[kernel, kernel],
            pads=[kernel // 2] * 4,
            strides=[stride, stride],
        )

    def include(self, model: ModelProto) -> None:
        """The nodes and weights of a sub-model, under their own names."""
        self.nodes.extend(model.graph.node)
        self.weights.update({tensor.name: tensor for tensor in model.graph.initializer})


def make_model(
    graph: ModelGraph,
    fragments: Sequence[Fragment],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    name: str,
) -> bytes:
    """A serialised model of the fragments, in their order, under the operator sets of the network."""
    weights = {key: value for fragment in fragments for key, value in fragment.weights.items()}
    proto = helper.make_graph(
        [node for fragment in fragments for node in fragment.nodes],
        name,
        [_value(spec) for spec in inputs],
        [_value(spec) for spec in outputs],
        list(weights.values()),
    )
    model = helper.make_model(proto, producer_name="understudy")
    lightest = min(graph.blocks, key=lambda block: block.memory_bytes).index
    template = onnx.load_model_from_string(graph.submodel(lightest, lightest + 1))
    del model.opset_import[:]
    model.opset_import.extend(template.opset_import)
    model.functions.extend(template.functions)
    model.ir_version = max(template.ir_version, OLDEST_IR)
    return bytes(model.SerializeToString(deterministic=True))


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, dtype, spec.shape)
