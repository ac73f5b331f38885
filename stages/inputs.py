"""The inputs of a model: what they may be, and their concrete shapes for one frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx

from stages.errors import ModelError

if TYPE_CHECKING:
    from onnx import TypeProto, ValueInfoProto

# The types that a message can carry and numpy knows, by ONNX number.
DTYPES: Mapping[int, str] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
SUPPORTED = frozenset(DTYPES.values())
Size = tuple[int | None, ...]
Known = tuple[str | None, Size | None]
Inputs = dict[str, tuple[int, ...]]
Symbols = dict[object, list[tuple[str, int]]]


def fill_inputs(values: Sequence[ValueInfoProto], shapes: Mapping[str, Sequence[int]]) -> tuple[Inputs, Symbols]:
    """The concrete shape of each input, and which dimensions (input, axis) share one open size."""
    names = [value.name for value in values]
    if stray := [name for name in shapes if name not in names]:
        raise ModelError(f"a shape is given for '{stray[0]}', but the inputs of the model are {names}")
    declared = {value.name: _declared(value, shapes) for value in values}
    symbols: Symbols = {}
    sizes: dict[object, int] = {}
    for name, keys in declared.items():
        for axis, key in enumerate(keys):
            if not isinstance(key, int):
                symbols.setdefault(key, []).append((name, axis))
                if name in shapes:
                    sizes[key] = int(shapes[name][axis])
    filled: Inputs = {}
    for name, keys in declared.items():
        filled[name] = tuple(key if isinstance(key, int) else sizes.get(key, 1) for key in keys)
        if name in shapes and filled[name] != tuple(shapes[name]):
            raise ModelError(f"input '{name}': shape {list(shapes[name])} is given, the model takes {list(keys)}")
    return filled, symbols


def _declared(value: ValueInfoProto, shapes: Mapping[str, Sequence[int]]) -> tuple[object, ...]:
    """One entry per dimension: a size, or the key of an open one."""
    dtype, _ = read_type(value.type)
    if dtype not in SUPPORTED:
        raise ModelError(f"input '{value.name}' has type {dtype}: only {', '.join(sorted(SUPPORTED))} can be sent")
    given = shapes.get(value.name)
    if given is not None and any(size < 1 for size in given):
        raise ModelError(f"input '{value.name}': every dimension of the given shape {list(given)} must be at least 1")
    if not value.type.tensor_type.HasField("shape"):
        if given is None:
            raise ModelError(f"input '{value.name}' has no shape in the model: give one for a single frame")
        return tuple(int(size) for size in given)
    keys: list[object] = []
    for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
        if dimension.dim_value > 0:
            keys.append(dimension.dim_value)
        else:
            # Exporters that do not name their open dimensions mean the batch by the first of every input.
            unnamed = ("batch",) if axis == 0 else (value.name, axis)
            keys.append(("dim", dimension.dim_param) if dimension.dim_param else unnamed)
    if given is not None and len(given) != len(keys):
        raise ModelError(f"input '{value.name}' has {len(keys)} dimensions, but the given shape is {list(given)}")
    return tuple(keys)


def read_type(proto: TypeProto) -> Known:
    """The dtype and the sizes that a type states; a sequence or an optional has the name of its kind as dtype."""
    kind = proto.WhichOneof("value")
    if kind is None:
        return None, None
    if kind != "tensor_type":
        return kind.removesuffix("_type"), ()
    tensor = proto.tensor_type
    if not tensor.elem_type:
        return None, None
    dtype = DTYPES.get(tensor.elem_type) or onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    if not tensor.HasField("shape"):
        return dtype, None
    return dtype, tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
