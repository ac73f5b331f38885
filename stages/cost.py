"""What a node costs: FLOPs, parameters, bytes; and the working set of a run of nodes. All for one frame.

A multiply-add counts as two floating-point operations, as in SEIFER (arXiv 2304.11941).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.dataflow import Dataflow, subgraphs
from stages.tensor import TensorSpec

if TYPE_CHECKING:
    from onnx import FunctionProto, NodeProto

Specs = Mapping[str, TensorSpec]

# Where the work and the weights of a network are. Everything else is cheap and stays with one of these.
WEIGHTED_OPS = frozenset(
    """Conv ConvTranspose MatMul Gemm Einsum LSTM GRU RNN Attention DeformConv
    QLinearConv QLinearMatMul ConvInteger MatMulInteger
    FusedConv FusedMatMul FusedGemm NhwcConv NhwcFusedConv QGemm MatMulNBits MatMulBnb4 MatMulIntegerToFloat
    DynamicQuantizeMatMul DynamicQuantizeLSTM QAttention MultiHeadAttention GroupQueryAttention""".split()  # noqa: SIM905  # thirty lines of one word each read worse
)

# Bits of one element of the types that numpy does not have; a string counts as one pointer and one length.
ODD_BITS = {"bfloat16": 16, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2, "float4e2m1": 4, "string": 128}
NOT_PARAMETERS = frozenset({"int64", "bool", "string"})  # shapes, axes, masks


def is_weighted(node: NodeProto, functions: Mapping[tuple[str, str], FunctionProto]) -> bool:
    """True for a weighted operator, or a node whose body or model-local function holds one."""
    if node.op_type in WEIGHTED_OPS:
        return True
    function = functions.get((node.domain, node.op_type))
    bodies: list[Any] = [*subgraphs(node), *([function] if function is not None else [])]
    return any(is_weighted(inner, functions) for body in bodies for inner in body.node)


def tensor_bytes(spec: TensorSpec) -> int:
    """Bytes of one frame of a tensor, also of a type that cannot cross a cut; 0 for a sequence or an optional."""
    if spec.dtype.startswith("float8"):
        return elements(spec)
    if (bits := ODD_BITS.get(spec.dtype)) is not None:
        return math.ceil(elements(spec) * bits / 8)
    try:
        return elements(spec) * np.dtype(spec.dtype).itemsize
    except TypeError:
        return 0


def elements(spec: TensorSpec) -> int:
    return math.prod(spec.example_shape)


def parameters(specs: Iterable[TensorSpec]) -> int:
    """Elements of the weights among static tensors: not the scalars (a Clip's limits), not shapes and axes."""
    return sum(elements(spec) for spec in specs if spec.example_shape and spec.dtype not in NOT_PARAMETERS)


def peak_bytes(flow: Dataflow, specs: Specs, start: int, end: int) -> int:
    """The largest sum of live tensors while the dynamic nodes [start, end) run one after the other.

    The tensors of the cut before them count throughout: the caller of the runtime holds them until the run returns.
    """
    held = flow.crossing(start - 1)
    kept = {*held, *flow.crossing(end - 1)}
    live = sum(tensor_bytes(specs[name]) for name in held)
    peak = live
    for position in range(start, end):
        made = [name for name in flow.node_at(position).output if name]
        live += sum(tensor_bytes(specs[name]) for name in made)
        peak = max(peak, live)
        done = {name for name in (*flow.reads_at(position), *made) if flow.last_read.get(name, -1) <= position}
        live -= sum(tensor_bytes(specs[name]) for name in done if name in flow.made and name not in kept)
    return peak


def node_flops(node: NodeProto, specs: Specs) -> int:
    """Floating-point operations of one node; one per output element where the table does not know the operator."""
    shapes = [specs[name].example_shape if name in specs else () for name in node.input]
    out = sum(elements(specs[name]) for name in node.output[:1] if name in specs)
    try:
        return _FLOPS.get(node.op_type, _element_wise(1))(node, shapes, out)
    except (IndexError, ValueError):  # a variant of a vendor's operator with other inputs than the table thinks
        return out


Shapes = list[tuple[int, ...]]
Flops = Callable[["NodeProto", Shapes, int], int]


def _attribute(node: NodeProto, name: str) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return list(attribute.ints) if attribute.ints else (attribute.s.decode() or attribute.i)
    return None


def _element_wise(operations: int) -> Flops:
    return lambda _node, _shapes, out: operations * out


def _reduction(_node: NodeProto, shapes: Shapes, _out: int) -> int:
    return math.prod(shapes[0])


def _convolution(weight: int) -> Flops:
    # W is (M, C / group, kernel...): each output element sums over all but the first.
    return lambda _node, shapes, out: 2 * out * math.prod(shapes[weight][1:])


def _transposed_convolution(_node: NodeProto, shapes: Shapes, _out: int) -> int:
    return 2 * math.prod(shapes[0]) * math.prod(shapes[1][1:])


def _gemm(node: NodeProto, shapes: Shapes, out: int) -> int:
    depth: int = shapes[0][0 if _attribute(node, "transA") else -1]
    return 2 * out * depth


def _matmul(_node: NodeProto, shapes: Shapes, out: int) -> int:
    return 2 * out * (shapes[0][-1] if shapes[0] else 1)


def _einsum(node: NodeProto, shapes: Shapes, out: int) -> int:
    terms = str(_attribute(node, "equation")).replace(" ", "").split("->")[0].split(",")
    if any("." in term for term in terms):
        return 2 * out * (shapes[0][-1] if shapes[0] else 1)
    sizes = {
        label: size
        for term, shape in zip(terms, shapes, strict=False)
        for label, size in zip(term, shape, strict=False)
    }
    return 2 * math.prod(sizes.values())


def _recurrent(_node: NodeProto, shapes: Shapes, _out: int) -> int:
    steps, batch = shapes[0][:2]
    return 2 * steps * batch * (math.prod(shapes[1]) + math.prod(shapes[2]))


def _attention(_node: NodeProto, shapes: Shapes, _out: int) -> int:
    query, key = shapes[0], shapes[1]
    if len(key) == 2:  # com.microsoft's Attention: X (batch, steps, width) and the packed weights (width, 3 x width)
        batch, steps, width = query
        return 2 * batch * steps * math.prod(key) + 4 * batch * steps * steps * width
    return 4 * math.prod(query) * (key[-2] if len(key) > 1 else 1)


def _pool(node: NodeProto, _shapes: Shapes, out: int) -> int:
    kernel: list[int] = _attribute(node, "kernel_shape") or [1]
    return out * math.prod(kernel)


def _local_response(node: NodeProto, _shapes: Shapes, out: int) -> int:
    return 2 * out * int(_attribute(node, "size") or 1)


# Operators that only move, name or shape data.
_FREE = """
    Reshape Flatten Squeeze Unsqueeze Identity Dropout Transpose Concat Split Slice Gather GatherElements GatherND
    Shape Size Cast CastLike Pad Expand Tile Constant ConstantOfShape Range DepthToSpace SpaceToDepth ScatterElements
    ScatterND Compress NonZero OneHot EyeLike ReverseSequence SequenceConstruct SequenceAt SequenceInsert
    SplitToSequence ConcatFromSequence SequenceLength Optional OptionalGetElement""".split()  # noqa: SIM905  # as above

_FLOPS: Mapping[str, Flops] = {
    **dict.fromkeys(_FREE, _element_wise(0)),
    **dict.fromkeys(("Conv", "ConvInteger", "FusedConv", "NhwcConv", "NhwcFusedConv", "DeformConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed_convolution,
    **dict.fromkeys(("Gemm", "FusedGemm", "QGemm"), _gemm),
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul", "FusedMatMul", "MatMulIntegerToFloat"), _matmul),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4", "DynamicQuantizeMatMul"), _matmul),
    "Einsum": _einsum,
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _recurrent),
    **dict.fromkeys(("Attention", "QAttention", "MultiHeadAttention", "GroupQueryAttention"), _attention),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "QLinearAveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "ArgMax", "ArgMin"), _reduction),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1"), _reduction),
    **dict.fromkeys(("ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"), _reduction),
    "BatchNormalization": _element_wise(2),
    # Mean, variance, and the scaling of each element.
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), _element_wise(5)),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization"), _element_wise(4)),
    # Maximum, difference, exponential, sum, quotient.
    **dict.fromkeys(("Softmax", "LogSoftmax"), _element_wise(5)),
    "LRN": _local_response,
}
