"""The type of a layer, and what its time is predicted from: its hyper-parameters, its operations and its bytes.

The types are those of CONTINUER's table I, and what else light networks are made of. A type says what is computed and
not which of onnxruntime's kernels does it: that is a feature (`blocked`, `activation`, `summed`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stages import cost
from stages.layermodels import node_of
from stages.layers import Layer, Operand
from stages.tensor import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

CONVOLUTIONS = frozenset({"Conv", "FusedConv", "NhwcFusedConv"})

KINDS: Mapping[str, str] = {
    "BatchNormalization": "batch normalisation",
    "Relu": "ReLU",
    **dict.fromkeys(("Gemm", "FusedGemm"), "dense"),
    **dict.fromkeys(("Add", "Sum", "Sub"), "add"),
    "Dropout": "dropout",
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), "global average pool"),
    **dict.fromkeys(("GlobalMaxPool", "ReduceMax"), "global max pool"),
    "MaxPool": "max pool",
    "AveragePool": "average pool",
    "Concat": "concat",
    "LRN": "LRN",
    "Softmax": "softmax",
    "Clip": "clip",
    **dict.fromkeys(("Mul", "Div"), "multiply"),
    "Transpose": "transpose",
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"), "reshape"),
    **dict.fromkeys(("Sigmoid", "QuickGelu"), "sigmoid"),
    **dict.fromkeys(("HardSwish", "HardSigmoid"), "hard swish"),
    "Sqrt": "square root",
    **dict.fromkeys(("LayerNormalization", "SkipLayerNormalization"), "layer normalisation"),
    **dict.fromkeys(("Gelu", "FastGelu", "BiasGelu", "Erf", "Tanh"), "GELU"),
    "ReorderInput": "reorder",
    "ReorderOutput": "reorder",
    "Slice": "slice",
    "Pad": "pad",
}
"""Of operators that are one type whatever their operands are; a type that is not here is called by its operator."""

PAGE_BYTES = 4096
"""Caches place by the bits of an address below this, more or less."""

ACTIVATIONS = ("", "Relu", "Clip", "Sigmoid", "HardSigmoid", "Tanh", "LeakyRelu")

FEATURES = (
    "flops",
    "work",
    "bytes_in",
    "bytes_out",
    "bytes_weights",
    "intensity",
    "channels_in",
    "channels_out",
    "height_in",
    "width_in",
    "height_out",
    "width_out",
    "kernel_height",
    "kernel_width",
    "stride",
    "dilation",
    "groups",
    "group_channels",
    "group_filters",
    "padded",
    "last",
    "rank",
    "axis",
    "operands",
    "broadcast",
    "kept",
    "activation",
    "summed",
    "blocked",
    "variant",
    "alignment",
)
"""Names, in this order. `work`: the operations less those on the border's padding, which kernels for the blocked layout
and for pooling leave out. `group_channels`: input channels of one group. `last`: elements of the last dimension of the
first operand; `axis`: of the one that the operator works along. `operands`: how many are computed. `broadcast`: bytes
of the smaller operand over those of the larger. `kept`: elements that come out over those that go in. `variant`: tells
operators of one type apart, and what they move. `alignment`: bytes; what a layer puts side by side lies a distance
apart in memory, and the greatest power of two in that says how soon it strikes the same places of a cache again (an
element of 64 channels of 32 x 32 is brought to the last axis in 0.7 ns, of 31 x 31 in 0.1). The others are what they
are called, 0 where they do not apply."""


def kind_of(layer: Layer) -> str:
    """The layer's type, such as `convolution`; for an operator that no type knows its name, such as `Einsum`."""
    if layer.op_type in CONVOLUTIONS:
        return _convolution_kind(layer)
    if layer.op_type in ("MatMul", "FusedMatMul"):
        weights = layer.inputs[1] if len(layer.inputs) > 1 else None
        return "dense" if weights is not None and weights.static else "matrix product"
    return KINDS.get(layer.op_type, layer.op_type)


def _convolution_kind(layer: Layer) -> str:
    weights = layer.inputs[1]
    group = int(layer.attribute("group", 1))
    kernel = () if weights is None else weights.shape[2:]
    if group > 1 and weights is not None and weights.shape[1] == 1:
        # What onnxruntime makes of a batch normalisation in its blocked layout: one factor and offset per channel.
        return "batch normalisation" if math.prod(kernel) == 1 else "depth-wise convolution"
    if group > 1:
        return "grouped convolution"
    return "point-wise convolution" if math.prod(kernel) == 1 else "convolution"


def features(layer: Layer) -> dict[str, float]:
    """Every name of `FEATURES` with its value."""
    made = [operand for operand in layer.outputs if operand is not None]
    computed = [operand for operand in layer.inputs if operand is not None and not operand.static]
    static = [operand for operand in layer.inputs if operand is not None and operand.static]
    out = made[0] if made else Operand(dtype="float32", shape=())
    first = computed[0] if computed else (static[0] if static else out)
    traffic = {
        "bytes_in": float(sum(operand.size_bytes for operand in computed)),
        "bytes_out": float(sum(operand.size_bytes for operand in made)),
        "bytes_weights": float(sum(operand.size_bytes for operand in static)),
    }
    flops = float(layer_flops(layer))
    sizes = [operand.size_bytes for operand in layer.inputs if operand is not None and operand.size_bytes]
    found = {
        **traffic,
        "flops": flops,
        "work": flops * (_inside(layer, first, out) if _skips_padding(layer) else 1.0),
        "intensity": flops / max(1.0, sum(traffic.values())),
        **_window(layer, first, out),
        "last": float(first.shape[-1]) if first.shape else 1.0,
        "rank": float(len(first.shape)),
        "axis": _axis(layer, first),
        "operands": float(len(computed)),
        "broadcast": min(sizes) / max(sizes) if len(sizes) > 1 else 1.0,
        "kept": out.elements / max(1, first.elements),
        "activation": float(_activation(layer)),
        "summed": float(_is_summed(layer)),
        "blocked": float(layer.domain == "com.microsoft.nchwc"),
        "variant": float(_variant(layer, first, out)),
        "alignment": float(_alignment(layer, first)),
    }
    return {name: found[name] for name in FEATURES}


def layer_flops(layer: Layer) -> int:
    """Operations of one frame, as in `stages.cost`; a sum and an activation that are fused count one per element."""
    node = node_of(layer, inputs=[f"i{index}" for index in range(len(layer.inputs))], outputs=["o0"])
    specs = {f"i{index}": _spec(f"i{index}", operand) for index, operand in enumerate(layer.inputs) if operand}
    out = layer.outputs[0] if layer.outputs else None
    if out is None:
        return 0
    specs["o0"] = _spec("o0", out)
    extra = int(_is_summed(layer)) + int(_activation(layer) > 0)
    return cost.node_flops(node, specs) + extra * out.elements


def _spec(name: str, operand: Operand) -> TensorSpec:
    return TensorSpec(name=name, dtype=operand.dtype, shape=operand.shape, example_shape=operand.shape)


def _window(layer: Layer, first: Operand, out: Operand) -> dict[str, float]:
    """Channels, height and width as of NCHW, and the window that slides over them."""
    kernel: Sequence[int] = layer.attribute("kernel_shape", ())
    weights = layer.inputs[1] if layer.op_type in CONVOLUTIONS and len(layer.inputs) > 1 else None
    if weights is not None:
        kernel = weights.shape[2:]
    strides: Sequence[int] = layer.attribute("strides", ())
    pads: Sequence[int] = layer.attribute("pads", ())
    group = int(layer.attribute("group", 1))
    return {
        "channels_in": _size(first, 1),
        "channels_out": _size(out, 1),
        "height_in": _size(first, 2),
        "width_in": _size(first, 3),
        "height_out": _size(out, 2),
        "width_out": _size(out, 3),
        "kernel_height": float(kernel[0]) if kernel else 0.0,
        "kernel_width": float(kernel[-1]) if kernel else 0.0,
        "stride": float(strides[0]) if strides else 1.0,
        "dilation": float((layer.attribute("dilations") or (1,))[0]),
        "groups": float(group),
        "group_filters": _size(out, 1) / group,
        "group_channels": float(weights.shape[1]) if weights is not None else _size(first, 1) / group,
        "padded": float(sum(pads)) if pads and isinstance(pads, tuple) else 0.0,
    }


def _skips_padding(layer: Layer) -> bool:
    return layer.domain == "com.microsoft.nchwc" or layer.op_type.endswith("Pool")


def _inside(layer: Layer, first: Operand, out: Operand) -> float:
    """The share of a window's positions, over all outputs, that lie within the image."""
    kernel: Sequence[int] = layer.attribute("kernel_shape", ())
    dimensions = len(kernel)
    if dimensions == 0 or len(first.shape) != 2 + dimensions or len(out.shape) != 2 + dimensions:
        return 1.0
    strides: Sequence[int] = layer.attribute("strides") or (1,) * dimensions
    dilations: Sequence[int] = layer.attribute("dilations") or (1,) * dimensions
    pads: Sequence[int] = layer.attribute("pads") or (0,) * 2 * dimensions
    share = 1.0
    for axis in range(dimensions):
        positions = (
            at * strides[axis] + tap * dilations[axis] - pads[axis]
            for at in range(out.shape[2 + axis])
            for tap in range(kernel[axis])
        )
        inside = sum(0 <= position < first.shape[2 + axis] for position in positions)
        share *= inside / max(1, out.shape[2 + axis] * kernel[axis])
    return share


def _size(operand: Operand, dimension: int) -> float:
    return float(operand.shape[dimension]) if len(operand.shape) > dimension else 1.0


def _axis(layer: Layer, first: Operand) -> float:
    axis = layer.attribute("axis", 1 if layer.op_type == "Concat" else -1)
    if not isinstance(axis, int) or not -len(first.shape) <= axis < len(first.shape):
        return 1.0
    return float(first.shape[axis])


def _activation(layer: Layer) -> int:
    name = layer.attribute("activation", "")
    return ACTIVATIONS.index(name) if name in ACTIVATIONS else len(ACTIVATIONS)


def _is_summed(layer: Layer) -> bool:
    """Whether a fourth operand is added to a convolution's result."""
    return layer.op_type in CONVOLUTIONS and len(layer.inputs) > 3 and layer.inputs[3] is not None


def _variant(layer: Layer, first: Operand, out: Operand) -> int:
    if layer.op_type == "Transpose":
        order = _order(layer, first)
        return sum(axis * len(order) ** place for place, axis in enumerate(reversed(order)))  # as one number
    if layer.op_type == "Pad":
        return int(first.shape[-1:] != out.shape[-1:])  # else rows stay together: they are copied whole
    if layer.op_type in ("MatMul", "FusedMatMul"):
        return 2
    if layer.op_type in CONVOLUTIONS:
        return int(layer.op_type == "FusedConv")
    same = sorted(name for name, kind in KINDS.items() if kind == KINDS.get(layer.op_type))
    return same.index(layer.op_type) if same else 0


def _alignment(layer: Layer, first: Operand) -> int:
    if not first.shape:
        return 0
    if layer.op_type == "Transpose":
        axis = _order(layer, first)[-1]
    elif layer.op_type in ("ReorderInput", "ReorderOutput"):
        axis = 1
    else:
        return 0
    if axis == len(first.shape) - 1:
        return 0  # they lie side by side already
    apart = math.prod(first.shape[axis + 1 :]) * np.dtype(first.dtype).itemsize
    return min(apart & -apart, PAGE_BYTES)


def _order(layer: Layer, first: Operand) -> Sequence[int]:
    """Of a transposition: the axes of the input in those of the output."""
    order: Sequence[int] = layer.attribute("perm") or range(len(first.shape))[::-1]
    return order
