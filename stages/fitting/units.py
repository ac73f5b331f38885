"""The hidden channels of a block: what its last convolution reads.

A residual block is Conv, Relu, Conv (ResNet) or Conv, Clip, depthwise Conv, Clip, Conv (MobileNetV2). Each channel
between the first and the last convolution is made alone: it can be kept or left out by itself. A thinner block keeps a
few of them (channel pruning, He et al. 2017, arXiv 1707.06168), and a new last convolution is fitted to what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from stages.fitting.fragment import Fragment

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Array = NDArray[Any]

POINTWISE = frozenset(
    {"Relu", "LeakyRelu", "Clip", "Elu", "Selu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Gelu"}
)
MAX_KERNEL = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """A chain of nodes from a block's input to the input of its last convolution.

    Attributes:
        nodes: first a whole convolution (or none: the channels are the input's own), then nodes that treat every
            channel alone.
        constants: the weights that they read.
        count: how many channels there are.
        whole: whether the first node is a whole convolution.
        kernel, stride: of the last convolution, which is not among the nodes; it is square and padded by kernel // 2.
    """

    nodes: tuple[NodeProto, ...]
    constants: Mapping[str, Array]
    count: int
    whole: bool
    kernel: int
    stride: int

    def emit(self, fragment: Fragment, source: str, kept: Sequence[int]) -> str:
        """Adds the chain for some of the channels; returns the name of its result, (N, len(kept), H, W)."""
        index = np.asarray(kept, np.int64)
        name = source
        if not self.whole:
            name = fragment.op("Gather", name, fragment.weight(index), axis=1)
        for node in self.nodes:
            name = self._emit_node(fragment, node, name, index)
        return name

    def _emit_node(self, fragment: Fragment, node: NodeProto, source: str, kept: Array) -> str:
        per_channel = node.op_type in ("Conv", "BatchNormalization")
        others = [
            fragment.weight(self.constants[name][kept] if per_channel else self.constants[name]) if name else ""
            for name in node.input[1:]
        ]
        result = fragment.op(node.op_type, source, *others)
        added = fragment.nodes[-1]
        added.domain = node.domain
        added.attribute.extend(node.attribute)
        if node.op_type == "Conv":
            for attribute in added.attribute:
                if attribute.name == "group" and attribute.i > 1:
                    attribute.i = len(kept)
        return result


def find_units(model: ModelProto, source: str, target: str) -> Units | None:
    """The units before the last convolution of a sub-model from `source` to `target`; None where there are none."""
    constants = _constants(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in reversed(model.graph.node):
        if node.op_type == "Conv" and _is_plain(node, constants) and node.output[0] != source:
            units = _trace(node, source, makers, constants)
            if units is not None and _reaches(model, node.output[0], target):
                return units
    return None


def _reaches(model: ModelProto, name: str, target: str) -> bool:
    """Whether only sums and functions of single values lie between: no pooling, no further convolution."""
    readers = [node for node in model.graph.node if name in node.input]
    if name == target:
        return True
    return len(readers) == 1 and (
        readers[0].op_type in POINTWISE | {"Add", "Sum", "BatchNormalization", "Identity", "Dropout"}
        and _reaches(model, readers[0].output[0], target)
    )


def _constants(model: ModelProto) -> dict[str, Array]:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _trace(
    last: NodeProto, source: str, makers: Mapping[str, NodeProto], constants: Mapping[str, Array]
) -> Units | None:
    chain: list[NodeProto] = []
    name, whole = last.input[0], False
    while name != source and not whole:
        node = makers.get(name)
        if node is None or any(other and other not in constants for other in node.input[1:]):
            return None
        whole = node.op_type == "Conv" and _group(node) == 1
        if whole and node.input[0] != source:
            return None
        if not whole and not _is_separable(node, constants):
            return None
        chain.insert(0, node)
        name = node.input[0]
    if not any(node.op_type in POINTWISE for node in chain):
        return None
    weight = constants[last.input[1]]
    used = {name: constants[name] for node in chain for name in node.input[1:] if name}
    return Units(
        nodes=tuple(chain),
        constants=used,
        count=weight.shape[1],
        whole=whole,
        kernel=weight.shape[2],
        stride=_ints(last, "strides", [1, 1])[0],
    )


def _is_separable(node: NodeProto, constants: Mapping[str, Array]) -> bool:
    if node.op_type == "Conv":
        weight = constants.get(node.input[1])
        return weight is not None and weight.shape[1] == 1 and _group(node) == weight.shape[0]
    return node.op_type in POINTWISE or (node.op_type == "BatchNormalization" and len(node.output) == 1)


def _is_plain(node: NodeProto, constants: Mapping[str, Array]) -> bool:
    """A whole 2-d convolution with a square odd kernel, padded by half of it, without dilation."""
    weight = constants.get(node.input[1])
    if weight is None or weight.ndim != 4 or _group(node) != 1:
        return False
    height, width = weight.shape[2:]
    strides = _ints(node, "strides", [1, 1])
    return (
        height == width <= MAX_KERNEL
        and height % 2 == 1
        and _ints(node, "pads", [0] * 4) == [height // 2] * 4
        and set(_ints(node, "dilations", [1, 1])) == {1}
        and strides[0] == strides[1]
        and not any(item.name == "auto_pad" and item.s != b"NOTSET" for item in node.attribute)
    )


def _group(node: NodeProto) -> int:
    return next((int(item.i) for item in node.attribute if item.name == "group"), 1)


def _ints(node: NodeProto, name: str, default: list[int]) -> list[int]:
    return next((list(item.ints) for item in node.attribute if item.name == name), default)
