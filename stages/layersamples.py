"""Small ONNX models over the hyper-parameters of layers (CONTINUER, table I), for a machine's profile.

Sample n is always the same: its pattern is the n-th of a fixed cycle, its hyper-parameters are the next point of a
sequence that fills the box evenly (Roberts' additive recurrence, the generalised golden ratio), on logarithmic scales.
Half of the sizes are snapped to those that networks really have. A grid over the same box would need thousands of
points for what a few hundred tell.

The models are as a framework exports them: what onnxruntime makes of them (`stages.layers`) is what is timed. Where a
network has a layer behind a convolution, which gives it the blocked layout, half of the samples have one before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from stages.sketch import COMMON_CHANNELS, Box, Draw, Sketch


def _activated(s: Sketch, x: str) -> str:
    choice = s.draw.pick(("", "Relu", "Relu", "Clip"))
    if choice == "Clip":
        return s.op("Clip", x, s.constant(np.float32(0)), s.constant(np.float32(6)))
    return s.op(choice, x) if choice else x


def _filters(s: Sketch, channels: int, size: int, kernel: int, stride: int) -> int:
    """As many as the box's limit of operations leaves room for."""
    out = max(1, size // stride) ** 2
    most = min(s.draw.box.flops / (2 * channels * kernel**2 * out), s.draw.box.elements / out)
    return s.draw.channels(max(3, int(most)))


def _convolution(s: Sketch, kernels: tuple[int, ...]) -> str:
    channels, size = s.draw.image(least=1 if kernels == (1,) else 2)
    kernel = s.draw.pick(kernels)
    stride = s.draw.pick((1, 1, 1, 2))
    filters = _filters(s, channels, size, kernel, stride)
    x = s.conv(s.input(1, channels, size, size), channels, filters, kernel, stride=stride)
    if s.draw.share() < 0.3:
        out = (size + 2 * (kernel // 2) - kernel) // stride + 1
        x = s.op("Add", x, s.conv(s.input(1, 8, out, out), 8, filters, 1))
    return _activated(s, x)


def _depthwise(s: Sketch) -> str:
    channels, size = s.draw.image(least=2)
    kernel, stride = s.draw.pick((3, 3, 3, 5, 7)), s.draw.pick((1, 1, 2))
    return _activated(
        s, s.conv(s.feature_map(channels, size), channels, channels, kernel, stride=stride, group=channels)
    )


def _grouped(s: Sketch) -> str:
    channels, size = s.draw.image(least=2)
    group = s.draw.pick((2, 3, 4, 8, 32))
    channels = max(2, channels // group) * group
    kernel, stride = s.draw.pick((1, 3, 3)), s.draw.pick((1, 1, 2))
    filters = max(1, _filters(s, max(1, channels // group), size, kernel, stride) // group) * group
    return _activated(
        s, s.conv(s.input(1, channels, size, size), channels, filters, kernel, stride=stride, group=group)
    )


def _normalised(s: Sketch) -> str:
    channels, size = s.draw.image()
    x = s.feature_map(channels, size)
    x = s.op("Relu", x)  # a batch normalisation behind a convolution would be folded into it
    return s.op("BatchNormalization", x, *(s.constant(np.ones(channels, np.float32)) for _ in range(4)))


def _pooled(s: Sketch, op_type: str) -> str:
    channels, size = s.draw.image(least=3)
    kernel, stride = s.draw.pick((2, 3, 3, 5)), s.draw.pick((1, 2, 2))
    kernel = min(kernel, size)
    pads = [s.draw.pick((0, kernel // 2))] * 4
    shape = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": pads}
    return s.op(op_type, s.feature_map(channels, size), **shape)


def _global_pool(s: Sketch) -> str:
    channels, size = s.draw.image()
    x = s.feature_map(channels, size)
    if s.draw.share() < 0.5:
        return s.op("GlobalAveragePool", x)
    return s.op("ReduceMean", x, s.constant(np.array([2, 3])), keepdims=s.draw.pick((0, 1)))


def _dense(s: Sketch) -> str:
    inputs = s.draw.number(8, s.draw.box.width, COMMON_CHANNELS)
    most = min(s.draw.box.width, s.draw.box.elements * 4 // inputs, int(s.draw.box.flops / (2 * inputs)))
    outputs = s.draw.number(2, most, (10, 100, 1000, *COMMON_CHANNELS))
    if s.draw.share() < 0.3:
        rows = s.draw.number(1, min(256, max(1, int(s.draw.box.flops / (2 * inputs * outputs)))))
        return s.op("MatMul", s.input(1, rows, inputs), s.weight(inputs, outputs))
    x = s.op("Gemm", s.input(1, inputs), s.weight(outputs, inputs), s.weight(outputs), transB=1)
    return s.op("Relu", x) if s.draw.share() < 0.4 else x


def _matrix_product(s: Sketch) -> str:
    heads, rows = s.draw.pick((1, 2, 4, 8, 12)), s.draw.number(1, s.draw.box.size)
    depth, columns = s.draw.number(4, 256, (16, 32, 64, 128)), s.draw.number(1, s.draw.box.size)
    return s.op("MatMul", s.input(1, heads, rows, depth), s.input(1, heads, depth, columns))


def _binary(s: Sketch, *op_types: str) -> str:
    channels, size = s.draw.image()
    op_type = s.draw.pick(op_types)
    x = s.feature_map(channels, size)
    other = s.draw.share()
    if other < 0.7:
        return s.op(op_type, x, s.input(1, channels, size, size))
    shape = (1, channels, 1, 1) if other < 0.9 else (1,)
    return s.op(op_type, s.op("Relu", x), s.input(*shape))


def _unary(s: Sketch, *op_types: str) -> str:
    channels, size = s.draw.image()
    return s.op(s.draw.pick(op_types), s.input(1, channels, size, size))


def _clip(s: Sketch) -> str:
    channels, size = s.draw.image()
    return s.op("Clip", s.input(1, channels, size, size), s.constant(np.float32(0)), s.constant(np.float32(6)))


def _concat(s: Sketch) -> str:
    channels, size = s.draw.image()
    count = s.draw.pick((2, 2, 3, 4))
    part = max(1, channels // count)
    return s.op("Concat", *(s.feature_map(part, size) for _ in range(count)), axis=1)


def _local_response(s: Sketch) -> str:
    channels, size = s.draw.image()
    return s.op("LRN", s.input(1, channels, size, size), size=s.draw.pick((3, 5, 5, 7)))


def _softmax(s: Sketch) -> str:
    rows, columns = s.draw.number(1, 512), s.draw.number(2, s.draw.box.width, (10, 100, 1000))
    rows = min(rows, max(1, s.draw.box.elements // columns))
    return s.op("Softmax", s.input(rows, columns), axis=-1)


def _layer_norm(s: Sketch) -> str:
    rows, columns = s.draw.number(1, 512), s.draw.number(8, 1024, COMMON_CHANNELS)
    rows = min(rows, max(1, s.draw.box.elements // columns))
    return s.op("LayerNormalization", s.input(1, rows, columns), s.weight(columns), s.weight(columns), axis=-1)


def _transpose(s: Sketch) -> str:
    channels, size = s.draw.image()
    if s.draw.share() < 0.5:
        groups = s.draw.pick((2, 3, 4, 8))
        x = s.input(1, groups, max(1, channels // groups), size, size)
        return s.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    return s.op("Transpose", s.input(1, channels, size, size), perm=s.draw.pick(([0, 2, 3, 1], [0, 1, 3, 2])))


def _reshape(s: Sketch) -> str:
    channels, size = s.draw.image()
    x = s.input(1, channels, size, size)
    return s.op("Reshape", x, s.constant(np.array([1, channels * size, size])))


def _slice(s: Sketch) -> str:
    channels, size = s.draw.image(least=2)
    ends, steps = np.array([size, size]), np.array([2, 2] if s.draw.share() < 0.5 else [1, 1])
    starts = np.array([0, size // 3])
    x = s.input(1, channels, size, size)
    return s.op("Slice", x, s.constant(starts), s.constant(ends), s.constant(np.array([2, 3])), s.constant(steps))


def _pad(s: Sketch) -> str:
    channels, size = s.draw.image()
    more = s.draw.pick((channels // 2, 1))
    pads = [0, more, 0, 0, 0, more, 0, 0] if s.draw.share() < 0.5 else [0, 0, 1, 1, 0, 0, 1, 1]
    return s.op("Pad", s.input(1, channels, size, size), s.constant(np.array(pads)), s.constant(np.float32(0)))


Pattern = Callable[[Sketch], str]

PATTERNS: Mapping[str, tuple[int, Pattern]] = {
    "convolution": (10, lambda s: _convolution(s, (3, 3, 3, 5, 7))),
    "point-wise convolution": (6, lambda s: _convolution(s, (1,))),
    "depth-wise convolution": (6, _depthwise),
    "grouped convolution": (6, _grouped),
    "dense": (5, _dense),
    "batch normalisation": (2, _normalised),
    "ReLU": (2, lambda s: _unary(s, "Relu")),
    "add": (3, lambda s: _binary(s, "Add")),
    "global average pool": (2, _global_pool),
    "max pool": (4, lambda s: _pooled(s, "MaxPool")),
    "average pool": (4, lambda s: _pooled(s, "AveragePool")),
    "concat": (2, _concat),
    "multiply": (2, lambda s: _binary(s, "Mul")),
    "clip": (2, _clip),
    "LRN": (2, _local_response),
    "softmax": (2, _softmax),
    "sigmoid": (2, lambda s: _unary(s, "Sigmoid")),
    "hard swish": (2, lambda s: _unary(s, "HardSwish", "HardSigmoid")),
    "square root": (2, lambda s: _unary(s, "Sqrt")),
    "GELU": (2, lambda s: _unary(s, "Erf", "Tanh")),
    "layer normalisation": (2, _layer_norm),
    "matrix product": (4, _matrix_product),
    "transpose": (4, _transpose),
    "reshape": (2, _reshape),
    "slice": (4, _slice),
    "pad": (4, _pad),
    "dropout": (2, lambda s: _unary(s, "Dropout")),
}
"""By the type of layer that it is about: how often in a cycle, and what makes the graph. At inference a
Dropout is the identity: onnxruntime removes it, but where it makes the model's own output; there it is a copy, which is
what is timed. Layers that re-order tensors come with the others."""


def cycle() -> tuple[str, ...]:
    """Patterns in the order in which they are sampled, the frequent ones spread out: whoever stops early has some of
    each."""
    places = [((turn + 0.5) / often, name) for name, (often, _) in PATTERNS.items() for turn in range(often)]
    return tuple(name for _, name in sorted(places))


def sample(index: int, *, seed: int = 0, box: Box | None = None) -> tuple[str, bytes]:
    """Sample `index` >= 0: the name of its pattern, and a serialised model of it."""
    order = cycle()
    name = order[index % len(order)]
    often, pattern = PATTERNS[name]
    turn = sum(1 for other in order[: index % len(order)] if other == name)
    draw = Draw(index // len(order) * often + turn, seed, box or Box())
    sketch = Sketch(draw)
    return name, sketch.model(pattern(sketch))
