"""Small networks made by hand, for tests of anything that takes an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
Shape = Sequence[int | str | None]


class Net:
    """A graph under construction: each method adds a node and returns the name of its result."""

    def __init__(self, *, seed: int = 0) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._random = np.random.default_rng(seed)
        self._count = 0

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        self._count += 1
        names = [f"{op_type.lower()}{self._count}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, **attributes))
        return names[0]

    def named(self, name: str, op_type: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name

    def weight(self, *shape: int) -> str:
        values = self._random.normal(0, 0.3, shape).astype(np.float32)
        return self.constant(values)

    def constant(self, values: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def conv(self, x: str, channels_in: int, channels_out: int, *, stride: int = 1) -> str:
        weight = self.weight(channels_out, channels_in, 3, 3)
        return self.op("Conv", x, weight, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[stride, stride])

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def model(
        self,
        inputs: dict[str, Shape | tuple[Shape, int]],
        outputs: dict[str, Shape | tuple[Shape, int]],
        *,
        opset: int = 17,
        **extra: Any,
    ) -> Any:
        graph = helper.make_graph(
            self.nodes, "net", _values(inputs), _values(outputs), self.weights, **extra.pop("graph", {})
        )
        imports = [helper.make_opsetid("", opset), *extra.pop("imports", [])]
        return helper.make_model(graph, opset_imports=imports, ir_version=8, **extra)


def _values(specs: dict[str, Any]) -> list[Any]:
    """`name: shape` for float32, `name: (shape, type)` for others; a shape is a list."""
    return [
        helper.make_tensor_value_info(name, *((spec[1], spec[0]) if isinstance(spec, tuple) else (FLOAT, spec)))
        for name, spec in specs.items()
    ]


def resnet(blocks: int = 4) -> Any:
    """Stem, residual blocks of 8 channels, global pooling and a classifier with Softmax; open batch."""
    net = Net()
    x = net.relu(net.conv("image", 3, 8))
    for _ in range(blocks):
        inner = net.conv(net.relu(net.conv(x, 8, 8)), 8, 8)
        x = net.relu(net.op("Add", inner, x))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.named("scores", "Softmax", net.op("Gemm", x, net.weight(8, 5)))
    return net.model({"image": ["batch", 3, 8, 8]}, {"scores": ["batch", 5]})


def unet(depth: int = 3) -> Any:
    """Two convolutions per level, down and up, with a skip per level."""
    net = Net()
    x, skips = net.relu(net.conv("image", 1, 4)), []
    for _ in range(depth):
        x = net.relu(net.conv(net.relu(net.conv(x, 4, 4)), 4, 4))
        skips.append(x)
        x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.relu(net.conv(x, 4, 4))
    scales = net.constant(np.array([1, 1, 2, 2], dtype=np.float32))
    for skip in reversed(skips):
        x = net.op("Concat", net.op("Resize", x, "", scales, mode="nearest"), skip, axis=1)
        x = net.relu(net.conv(net.relu(net.conv(x, 8, 4)), 4, 4))
    net.named("mask", "Sigmoid", net.conv(x, 4, 1))
    return net.model({"image": ["batch", 1, 16, 16]}, {"mask": ["batch", 1, 16, 16]})


def transformer(layers: int = 3) -> Any:
    """Self-attention layers (pre-norm free: two residual sums each) that all read the mask; open batch and length."""
    net, width = Net(), 8
    x = net.op("MatMul", "tokens", net.weight(4, width))
    for _ in range(layers):
        query, key, value = (net.op("MatMul", x, net.weight(width, width)) for _ in range(3))
        scores = net.op("MatMul", query, net.op("Transpose", key, perm=[0, 2, 1]))
        weights = net.op("Softmax", net.op("Add", scores, "attention_mask"), axis=-1)
        attended = net.op("MatMul", net.op("MatMul", weights, value), net.weight(width, width))
        x = net.op("Add", attended, x)
        hidden = net.relu(net.op("MatMul", x, net.weight(width, 2 * width)))
        x = net.op("Add", net.op("MatMul", hidden, net.weight(2 * width, width)), x)
    net.named("out", "MatMul", x, net.weight(width, 3))
    inputs: dict[str, Any] = {"tokens": ["batch", "length", 4], "attention_mask": ["batch", 1, "length"]}
    return net.model(inputs, {"out": ["batch", "length", 3]})


def early_output() -> Any:
    """An auxiliary classifier in the middle whose result is an output too."""
    net = Net()
    x = net.relu(net.conv("image", 3, 4))
    x = net.relu(net.conv(x, 4, 4))
    side = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.named("side", "Gemm", side, net.weight(4, 2))
    for _ in range(3):
        x = net.relu(net.conv(x, 4, 4))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.named("main", "Gemm", x, net.weight(4, 2))
    return net.model({"image": ["batch", 3, 8, 8]}, {"main": ["batch", 2], "side": ["batch", 2]})


def siamese() -> Any:
    """Two inputs through the same weights, then a distance."""
    net = Net()
    weights = [net.weight(4, channels, 3, 3) for channels in (3, 4, 4)]
    ends = []
    for x in ("left", "right"):
        for weight in weights:
            x = net.relu(net.op("Conv", x, weight, pads=[1, 1, 1, 1]))
        ends.append(net.op("Flatten", net.op("GlobalAveragePool", x)))
    net.named("distance", "Gemm", net.op("Abs", net.op("Sub", *ends)), net.weight(4, 1))
    shape: list[int | str | None] = ["batch", 3, 8, 8]
    return net.model({"left": shape, "right": shape}, {"distance": ["batch", 1]})


def with_if() -> Any:
    """An If late in the model whose branches read a tensor from before the cuts, and a weight."""
    net = Net()
    early = net.relu(net.op("MatMul", "x", net.weight(4, 4)))
    x = net.relu(net.op("MatMul", early, net.weight(4, 4)))
    x = net.relu(net.op("MatMul", x, net.weight(4, 4)))
    bias = net.weight(4)
    branches = {
        f"{side}_branch": helper.make_graph(
            [helper.make_node(op, [early, bias], [f"{side}_out"])],
            side,
            [],
            [helper.make_tensor_value_info(f"{side}_out", FLOAT, None)],
        )
        for side, op in (("then", "Add"), ("else", "Mul"))
    }
    total = net.op("ReduceSum", x, keepdims=0)
    chosen = net.op("If", net.op("Greater", total, net.constant(np.float32(0))), **branches)
    net.named("y", "MatMul", net.op("Add", chosen, x), net.weight(4, 2))
    return net.model({"x": [1, 4]}, {"y": [1, 2]})


def cheap_only() -> Any:
    """No operator with weights at all."""
    net = Net()
    net.named("y", "Tanh", net.op("Abs", net.op("Neg", net.relu("x"))))
    return net.model({"x": ["n", 6]}, {"y": ["n", 6]})


def single_node() -> Any:
    net = Net()
    net.named("y", "Relu", "x")
    return net.model({"x": [2, 3]}, {"y": [2, 3]})


def vary_weights(model: Any) -> Any:
    """A copy of one of onnx's light models whose weights, made of one value each by ConstantOfShape, differ.

    With equal weights all channels are equal, and the published outputs too: whatever the input, every class gets the
    same score. The weights are still computed in the graph, so the file stays small.
    """
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    net = Net()
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            net.nodes.append(node)
            continue
        shape = shapes[node.input[0]]
        count, fan_in = int(np.prod(shape)), int(np.prod(shape[1:]))
        steps = net.op("Range", *(net.constant(np.float32(value)) for value in (0, count, 1)))
        wave = net.op("Sin", net.op("Mul", steps, net.constant(np.float32(12.9898 + len(net.nodes) % 7))))
        # Scales, shifts, means and variances stay positive; filters keep the size of what goes through them.
        size, shift = (2 / np.sqrt(fan_in), 0) if len(shape) > 1 else (0.1, 0.5)
        scaled = net.op("Mul", wave, net.constant(np.float32(size)))
        net.named(node.output[0], "Reshape", net.op("Add", scaled, net.constant(np.float32(shift))), node.input[0])
    varied = ModelProto()
    varied.CopyFrom(model)
    del varied.graph.node[:]
    varied.graph.node.extend(net.nodes)
    varied.graph.initializer.extend(net.weights)
    # Version 3 wants every initializer among the inputs.
    varied.ir_version = 4
    varied.opset_import[0].version = 11
    return varied
