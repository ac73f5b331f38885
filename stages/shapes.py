"""The dtype and shape of every tensor of a model for one frame, and which of its dimensions are open.

ONNX shape inference runs on concrete input shapes; what it cannot tell is measured by running the model once. A
dimension of an inner tensor is open if it changes when an open dimension of the inputs is doubled: so a model whose
input says `batch` but whose Reshape says 1 is found out, which symbolic inference would not do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from stages.dataflow import Dataflow
from stages.errors import ModelError
from stages.inputs import Inputs, Known, fill_inputs, read_type
from stages.tensor import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

RUNTIME_DTYPES = {"float": "float32", "double": "float64"}  # the other names of onnxruntime are numpy's

# The size of their result depends on values: what one run measures does not hold for the next.
VALUE_SHAPED_OPS = frozenset({"NonZero", "Unique", "NonMaxSuppression", "Compress", "StringSplit"})

# Shape inference reads the values of shapes and axes, never those of weights: larger tensors are left out of its copy.
SMALL_ELEMENTS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """What is known of the tensors of a model.

    Attributes:
        specs: each tensor that a dynamic node reads or makes, each input and each output.
        batched: the tensors whose first dimension, and no other, is the open first dimension of all inputs.
    """

    specs: Mapping[str, TensorSpec]
    batched: frozenset[str]


def resolve_shapes(model: ModelProto, flow: Dataflow, shapes: Mapping[str, Sequence[int]] | None) -> Shapes:
    """The dtype and shape of each tensor that matters, for one frame.

    Args:
        model: the model; it is not changed.
        flow: its dataflow.
        shapes: input name -> the concrete shape of one frame, for inputs whose open dimensions should not be 1.

    Raises:
        ModelError: `shapes` does not fit the inputs, an input has no shape, or the model cannot run.
    """
    values = [value for value in model.graph.input if value.name in set(flow.inputs)]
    base, symbols = fill_inputs(values, shapes or {})
    needed = dict.fromkeys((*flow.inputs, *flow.made, *flow.outputs))
    for index in flow.dynamic:
        needed.update(dict.fromkeys(flow.reads[index]))
    probe = _Probe(model, flow, tuple(needed))
    found = probe.tensors(base)
    open_axes: dict[str, set[int]] = {name: set() for name in needed}
    batched: frozenset[str] = frozenset()
    for places in symbols.values():
        moved = probe.changes(base, places, found)
        for name, axis in places:
            open_axes[name].add(axis)
        for name, axes in moved.items():
            open_axes[name] |= axes
        if set(places) == {(name, 0) for name in flow.inputs}:
            batched = frozenset(name for name, axes in moved.items() if axes == {0} and found[name][1][0] == 1)
    for name in _value_shaped(flow) & open_axes.keys():
        open_axes[name].update(probe.unknown_axes(name))
    return Shapes(specs={name: _spec(name, *found[name], open_axes[name]) for name in needed}, batched=batched)


def _spec(name: str, dtype: str, sizes: tuple[int, ...], open_axes: set[int]) -> TensorSpec:
    shape = tuple(None if axis in open_axes else size for axis, size in enumerate(sizes))
    return TensorSpec(name=name, dtype=dtype, shape=shape, example_shape=sizes)


def _value_shaped(flow: Dataflow) -> set[str]:
    """The tensors whose shape may depend on values of the frame."""
    names: set[str] = set()
    for index in flow.dynamic:
        if flow.nodes[index].op_type in VALUE_SHAPED_OPS or names.intersection(flow.reads[index]):
            names.update(flow.nodes[index].output)
    return names


def skeleton(model: ModelProto, flow: Dataflow) -> ModelProto:
    """The model with its large initializers as inputs and without what the file says of inner and output shapes."""
    thin = onnx.ModelProto(ir_version=max(model.ir_version, 4), producer_name="understudy")
    thin.opset_import.extend(model.opset_import)
    thin.functions.extend(model.functions)
    thin.graph.name = model.graph.name or "graph"
    thin.graph.node.extend(flow.nodes)
    thin.graph.input.extend(value for value in model.graph.input if value.name in set(flow.inputs))
    thin.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims, dtype=np.int64) <= SMALL_ELEMENTS:
            thin.graph.initializer.append(tensor)
        else:
            thin.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for value in model.graph.output:
        # What the file says of a result may be stale, or name a batch that the filled-in size contradicts.
        output = thin.graph.output.add(name=value.name)
        output.type.CopyFrom(value.type)
        if value.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    return thin


class _Probe:
    """Finds shapes for concrete inputs: inference first, one run of the model where inference gives up."""

    def __init__(self, model: ModelProto, flow: Dataflow, needed: tuple[str, ...]) -> None:
        self._model = model
        self._flow = flow
        self._needed = needed
        self._thin = skeleton(model, flow)
        self._session: Any = None
        self._missing: tuple[str, ...] = ()
        self._first: dict[str, Known] = {}

    def tensors(self, inputs: Inputs) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The dtype and shape of every needed tensor. Raises ModelError if the model cannot run where it must."""
        known = self._infer(inputs)
        self._first = self._first or known
        found, missing = {}, []
        for name in self._needed:
            dtype, sizes = known.get(name, (None, None))
            if dtype is None or sizes is None or None in sizes:
                missing.append(name)
            else:
                found[name] = (dtype, tuple(size for size in sizes if size is not None))
        if missing:
            found.update(self._measure(inputs, tuple(missing)))
        return {name: found[name] for name in self._needed}

    def changes(
        self, base: Inputs, places: Sequence[tuple[str, int]], found: Mapping[str, tuple[str, tuple[int, ...]]]
    ) -> dict[str, set[int]]:
        """The axes of each tensor that change when the dimensions at `places` are doubled; none if that cannot run."""
        doubled = dict(base)
        for name, axis in places:
            doubled[name] = tuple(2 * n if at == axis else n for at, n in enumerate(doubled[name]))
        try:
            other = self.tensors(doubled)
        except ModelError:
            return {}
        return {
            name: {axis for axis, pair in enumerate(zip(sizes, other[name][1], strict=False)) if pair[0] != pair[1]}
            for name, (_, sizes) in found.items()
        }

    def unknown_axes(self, name: str) -> set[int]:
        """The axes of a tensor that the first inference could not tell."""
        sizes = self._first.get(name, (None, None))[1]
        return {axis for axis, size in enumerate(sizes or ()) if size is None}

    def _infer(self, inputs: Inputs) -> dict[str, Known]:
        for value in self._thin.graph.input:
            if value.name in inputs:
                shape = value.type.tensor_type.shape
                shape.ClearField("dim")
                shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in inputs[value.name])
        try:
            graph = onnx.shape_inference.infer_shapes(self._thin, data_prop=True).graph
        except Exception:  # whatever it stumbles over, a run of the model tells
            graph = self._thin.graph
        known = {value.name: read_type(value.type) for value in (*graph.input, *graph.value_info, *graph.output)}
        for tensor in graph.initializer:
            known[tensor.name] = read_type(onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims))
        return known

    def _measure(self, inputs: Inputs, missing: tuple[str, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        import onnxruntime  # slow to import, and most models never get here

        try:
            if self._session is None or not set(missing) <= set(self._missing):
                self._missing = tuple(dict.fromkeys((*self._missing, *missing)))
                self._session = self._open(onnxruntime)
            feeds = {
                value.name: onnxruntime.OrtValue.ortvalue_from_numpy(
                    # Zero is an index that every table has; zeros in floats hide what comes after a division.
                    np.full(inputs[value.name], 0 if "int" in dtype else 1, dtype=dtype)
                )
                for value in self._model.graph.input
                if value.name in inputs and (dtype := read_type(value.type)[0]) is not None
            }
            results = self._session.run_with_ort_values(list(missing), feeds)
        except Exception as error:
            sizes = {name: list(shape) for name, shape in inputs.items()}
            raise ModelError(
                f"shape inference does not know '{missing[0]}' ({len(missing)} tensors in all), and the model does not "
                f"run with inputs {sizes}: give the shapes of one frame. onnxruntime: {error}"
            ) from error
        return {name: _measured(result) for name, result in zip(missing, results, strict=True)}

    def _open(self, runtime: Any) -> Any:
        whole = onnx.ModelProto()
        whole.CopyFrom(self._model)
        whole.graph.ClearField("node")
        whole.graph.node.extend(self._flow.nodes)
        listed = {value.name for value in (*whole.graph.output, *whole.graph.input)}
        whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._missing if name not in listed)
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return runtime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _measured(value: Any) -> tuple[str, tuple[int, ...]]:
    kind = value.data_type()
    if not kind.startswith("tensor("):
        return kind.partition("(")[0].replace("seq", "sequence"), ()
    dtype = kind[len("tensor(") : -1]
    return RUNTIME_DTYPES.get(dtype, dtype), tuple(value.shape())
