"""Hyper-parameters drawn from a box, and small ONNX graphs that are made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
COMMON_SIZES = (1, 2, 4, 7, 8, 13, 14, 16, 27, 28, 32, 55, 56, 64, 112, 224)
COMMON_CHANNELS = (3, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 576, 768, 960, 1024, 1280, 2048)
DIMENSIONS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The hyper-parameters that are sampled.

    Attributes:
        size: largest height and width.
        channels: most channels.
        width: most inputs or outputs of a dense layer.
        elements: of the largest tensor.
        flops: of the largest layer.
    """

    size: int = 224
    channels: int = 2048
    width: int = 4096
    elements: int = 1_000_000
    flops: float = 6e8


QUICK = Box(size=32, channels=128, width=512, elements=64_000, flops=1e7)


class Draw:
    """One point of the sequence, taken coordinate by coordinate."""

    def __init__(self, point: int, seed: int, box: Box) -> None:
        root = _golden(DIMENSIONS)
        offset = np.random.default_rng(seed).random(DIMENSIONS)
        self._values = [float((offset[axis] + point * root ** -(axis + 1)) % 1.0) for axis in range(DIMENSIONS)]
        self._next = 0
        self.box = box

    def share(self) -> float:
        value = self._values[self._next % DIMENSIONS]
        self._next += 1
        return value

    def pick(self, choices: tuple[Any, ...]) -> Any:
        return choices[min(int(self.share() * len(choices)), len(choices) - 1)]

    def number(self, low: int, high: int, common: tuple[int, ...] = ()) -> int:
        """Log-uniform; the nearest common one in half of the cases."""
        high = max(low, high)
        share = self.share()
        snap, share = share < 0.5, (2 * share) % 1.0
        value = round(low * (high / low) ** share)
        near = [size for size in common if low <= size <= high]
        return min(near, key=lambda size: abs(math.log(size / max(1, value)))) if snap and near else value

    def channels(self, most: int | None = None) -> int:
        value = self.number(3, min(self.box.channels, most or self.box.channels), COMMON_CHANNELS)
        return value if value < 8 else value - value % (8 if self.share() < 0.75 else 1)

    def image(self, *, least: int = 1) -> tuple[int, int]:
        """Channels, and height and width alike, within the box."""
        size = self.number(least, self.box.size, COMMON_SIZES)
        return self.channels(max(3, self.box.elements // size**2)), size


class Sketch:
    """A small graph under construction."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._inputs: list[Any] = []
        self._random = np.random.default_rng(0)

    def input(self, *shape: int) -> str:
        name = f"x{len(self._inputs)}"
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant((1 + 0.1 * self._random.standard_normal(shape, np.float32)).astype(np.float32))

    def constant(self, values: Any) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name

    def conv(self, x: str, channels: int, filters: int, kernel: int, *, stride: int = 1, group: int = 1) -> str:
        weight = self.weight(filters, channels // group, kernel, kernel)
        pads = [kernel // 2] * 4
        shape = {"kernel_shape": [kernel, kernel], "pads": pads, "strides": [stride, stride], "group": group}
        return self.op("Conv", x, weight, self.weight(filters), **shape)

    def feature_map(self, channels: int, size: int) -> str:
        """An input, or in half of the cases what a small convolution makes of one."""
        if self.draw.share() < 0.5:
            return self.input(1, channels, size, size)
        return self.conv(self.input(1, 8, size, size), 8, channels, 1)

    def model(self, *outputs: str) -> bytes:
        ends = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self._nodes, "sample", self._inputs, ends, self._weights)
        imports = [helper.make_opsetid("", OPSET)]
        return bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())


def _golden(dimensions: int) -> float:
    """The positive root of x^(d+1) = x + 1."""
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (dimensions + 1))
    return root
