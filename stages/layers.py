"""What onnxruntime really runs of a model: the nodes of its optimised graph, each as a layer with its hyper-parameters.

onnxruntime folds a batch normalisation into its convolution, a ReLU and a sum into it as well, and re-orders tensors
for its blocked layout. A prediction of latency per layer (CONTINUER, section "Latency prediction model") must therefore
start from its optimised graph and not from the file. The graph is asked from onnxruntime itself, with the engine's own
options, and the shapes are those of one run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from stages.engine import session_options
from stages.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

Attribute = int | float | str | tuple[int, ...] | tuple[float, ...]

MAX_VALUES = 64
"""A static operand of integers with at most so many elements is kept by value: a shape, axes, pads."""

MAX_SCALARS = 4
"""The same for floating-point numbers: the limits of a Clip, not weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A tensor that a layer reads or makes.

    Attributes:
        dtype: numpy's name.
        shape: for one frame.
        static: it is part of the model and not computed.
        values: of a small static tensor, flat; None: they do not matter to the time.
    """

    dtype: str
    shape: tuple[int, ...]
    static: bool = False
    values: tuple[float, ...] | None = None

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def size_bytes(self) -> int:
        return self.elements * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One node of the optimised graph; equal layers take equal time.

    Attributes:
        op_type, domain: of the node: `FusedConv` of `com.microsoft`, `Conv` of `com.microsoft.nchwc`.
        attributes: name and value, sorted by name.
        inputs, outputs: in the node's order; None where an optional one is left out.
        opsets: domain and version, sorted: what the node needs to be loaded.
        whole: False: the node holds a graph of its own, or tensors as attributes, and cannot be made again by itself.
    """

    op_type: str
    domain: str
    attributes: tuple[tuple[str, Attribute], ...]
    inputs: tuple[Operand | None, ...]
    outputs: tuple[Operand | None, ...]
    opsets: tuple[tuple[str, int], ...]
    whole: bool = True

    def attribute(self, name: str, default: Any = None) -> Any:
        return dict(self.attributes).get(name, default)

    @property
    def weight_bytes(self) -> int:
        return sum(operand.size_bytes for operand in self.inputs if operand is not None and operand.static)

    @property
    def title(self) -> str:
        """For people: `nchwc.Conv 1x16x32x32 16x16x3x3`."""
        prefix = self.domain.rpartition(".")[2]
        shapes = ["x".join(map(str, operand.shape)) or "scalar" for operand in self.inputs if operand is not None]
        return " ".join([f"{prefix}.{self.op_type}" if prefix else self.op_type, *shapes])


def fused_layers(model: bytes, *, threads: int = 1) -> list[Layer]:
    """The layers that onnxruntime runs for a serialised model on the CPU, in order, equal ones as often as they occur.

    Args:
        threads: of one inference, as the engine is told.

    Raises:
        ModelError: onnxruntime cannot load the model, or not run it on ones.
    """
    fused = fused_model(model, threads=threads)
    values = _run(fused)
    static = {tensor.name: tensor for tensor in fused.graph.initializer}
    opsets = tuple(sorted((entry.domain, entry.version) for entry in fused.opset_import))
    return [_layer(node, values, static, opsets) for node in fused.graph.node]


def fused_model(model: bytes, *, threads: int = 1) -> ModelProto:
    """What onnxruntime makes of a serialised model with the engine's options. Raises ModelError."""
    options = session_options(threads)
    with tempfile.TemporaryDirectory(prefix="understudy-layers-") as folder:
        path = Path(folder) / "fused.onnx"
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            return onnx.load(path)
        except Exception as error:  # onnxruntime raises classes of its own that share no base
            raise ModelError(f"onnxruntime cannot optimise the model: {error}") from error


def as_it_is(threads: int = 1) -> ort.SessionOptions:
    """The engine's options for a model that is optimised already."""
    options = session_options(threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _run(fused: ModelProto) -> dict[str, NDArray[Any]]:
    """Every tensor that is computed, by its name, for inputs of ones."""
    probe = onnx.ModelProto()
    probe.CopyFrom(fused)
    outputs = {output.name for output in probe.graph.output}
    made = [name for node in probe.graph.node for name in node.output if name]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in outputs)
    static = {tensor.name for tensor in probe.graph.initializer}
    feeds = {entry.name: _ones(entry) for entry in probe.graph.input if entry.name not in static}
    try:
        session = ort.InferenceSession(probe.SerializeToString(), as_it_is(), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, feeds)
    except Exception as error:  # as above
        raise ModelError(f"onnxruntime cannot run the optimised model on ones: {error}") from error
    return {**feeds, **dict(zip(names, values, strict=True))}


def _ones(entry: onnx.ValueInfoProto) -> NDArray[Any]:
    kind = entry.type.tensor_type
    shape = [dimension.dim_value or 1 for dimension in kind.shape.dim]
    return np.ones(shape, dtype=helper.tensor_dtype_to_np_dtype(kind.elem_type))


def _layer(
    node: NodeProto,
    values: Mapping[str, NDArray[Any]],
    static: Mapping[str, TensorProto],
    opsets: Sequence[tuple[str, int]],
) -> Layer:
    attributes, whole = _attributes(node)
    return Layer(
        op_type=node.op_type,
        domain=node.domain,
        attributes=attributes,
        inputs=tuple(_operand(name, values, static) for name in node.input),
        outputs=tuple(_operand(name, values, static) for name in node.output),
        opsets=tuple(opsets),
        whole=whole and all(not name or name in values or name in static for name in node.input),
    )


def _attributes(node: NodeProto) -> tuple[tuple[tuple[str, Attribute], ...], bool]:
    """The plain attributes; and whether these are all."""
    found: list[tuple[str, Attribute]] = []
    whole = True
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            found.append((attribute.name, value.decode()))
        elif isinstance(value, int | float):
            found.append((attribute.name, value))
        elif isinstance(value, Sequence) and all(isinstance(item, int | float) for item in value):
            found.append((attribute.name, tuple(value)))
        else:
            whole = False
    return tuple(sorted(found)), whole


def _operand(name: str, values: Mapping[str, NDArray[Any]], static: Mapping[str, TensorProto]) -> Operand | None:
    if name in values and isinstance(values[name], np.ndarray):
        return Operand(dtype=str(values[name].dtype), shape=values[name].shape)
    if name not in static:
        return None
    tensor = static[name]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    shape = tuple(tensor.dims)
    elements = int(np.prod(shape, dtype=np.int64))
    kept = elements <= (MAX_VALUES if dtype.kind in "iub" else MAX_SCALARS)
    flat = tuple(numpy_helper.to_array(tensor).ravel().tolist()) if kept else None
    return Operand(dtype=str(dtype), shape=shape, static=True, values=flat)
