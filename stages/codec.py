"""Codecs for activations: fewer bytes on slow links, for some time of both nodes, and with some for a little accuracy.

- `fp16`: every number as the nearest float16.
- `int8`: affine, 8 bits for each number. The tensor is taken as R rows of equal length, with a minimum m and a step
  s = (maximum - m) / 255 each: x becomes q = round((x - m) / s), and comes back as m + s q, at most s / 2 off. There is
  a row for each frame, so that what a frame becomes does not depend on those that it is stacked with. (A row for each
  channel halves the error, at twice the time and a tenth more bytes.)
- `zstd`: Zstandard at level 1, lossless; also on what the other two made of a tensor.

A tensor that a codec can do nothing for goes without it, or without that half of it, and the message says so: integers
have no `fp16` and `int8`, and nor has a tensor with a number that is not finite, or out of range; what would not become
smaller stays as it is. Constant tensors are exact.

What arrives is not trusted: the size of an array is known before anything is decoded, and no other one is accepted.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import zstandard
from numpy.typing import NDArray

from broker.activation import Activation
from broker.codecs import Codec
from broker.errors import WireError
from broker.port import Buffer
from broker.wire import Carried, Encoded, Tensor, array_of, plain
from stages.batch import parts_below

LEVEL = 1
"""Of Zstandard. Higher ones cost more time than they save bytes on activations."""

Lossy = Literal["", "fp16", "int8"]

_STEPS: Mapping[Codec, tuple[Lossy, bool]] = {
    "none": ("", False),
    "zstd": ("", True),
    "fp16": ("fp16", False),
    "fp16+zstd": ("fp16", True),
    "int8": ("int8", False),
    "int8+zstd": ("int8", True),
}
"""What a codec does to the numbers, and whether it compresses what that makes."""

_NAMES: Mapping[tuple[Lossy, bool], Codec] = {steps: codec for codec, steps in _STEPS.items()}

_FP16_MAX = float(np.finfo(np.float16).max)
_COUNT_BYTES = 4
_ROW = np.dtype([("minimum", "<f4"), ("step", "<f4")])
_LEVELS = 255


def pack(activation: Activation, codec: Codec, limit_bytes: int) -> list[Activation]:
    """Encoded activations with the same frames, in order. None stands for more than `limit_bytes`, where one frame does
    not."""
    return [
        replace(
            part,
            tensors={
                name: encode(array, codec, frames=len(part.frames)) for name, array in plain(part.tensors).items()
            },
        )
        for part in parts_below(activation, limit_bytes)
    ]


def unpack(activation: Activation) -> Activation:
    """The same activation with nothing encoded; itself, where nothing was.

    Raises:
        WireError: a tensor's bytes are not what its codec makes of an array of that dtype and shape.
    """
    if not any(isinstance(tensor, Encoded) for tensor in activation.tensors.values()):
        return activation
    return replace(activation, tensors={name: decode(tensor, name) for name, tensor in activation.tensors.items()})


def encode(array: Tensor, codec: Codec, *, frames: int = 1) -> Carried:
    """What travels in the place of an array: the array itself, where the codec brings nothing.

    Args:
        array: of any dtype that can cross a cut, any shape.
        frames: how many are stacked along the first axis.
    """
    lossy, squeezes = _STEPS[codec]
    made = _quantise(array, lossy, frames)
    lossy = made.lossy
    body = np.ascontiguousarray(made.body).data.cast("B") if array.size else memoryview(b"")
    if squeezes:
        squeezed = _contexts.compressor.compress(body)
        squeezes = len(squeezed) < len(body)
        body = memoryview(squeezed) if squeezes else body
    if not lossy and not squeezes:
        return array
    data = b"".join((made.head, body)) if made.head else body
    return Encoded(dtype=array.dtype, shape=array.shape, codec=_NAMES[lossy, squeezes], data=data)


def decode(tensor: Carried, name: str = "") -> Tensor:
    """The array that a tensor stands for; `name` for messages.

    Raises:
        WireError: its bytes are not what its codec makes of an array of that dtype and shape.
    """
    if not isinstance(tensor, Encoded):
        return tensor
    lossy, squeezed = _STEPS[tensor.codec]
    count = math.prod(tensor.shape)
    if count == 0 or (lossy and tensor.dtype.kind != "f"):
        raise WireError(f"tensor {name!r}: {tensor.dtype} {tensor.shape} cannot have gone through {tensor.codec}")
    body, rows = memoryview(tensor.data), None
    if lossy == "int8":
        rows, body = _read_rows(body, name, count)
    size = {"": tensor.decoded_bytes, "fp16": 2 * count, "int8": count}[lossy]
    if squeezed:
        body = _expand(body, name, size)
    if lossy == "fp16":
        return array_of(body, name, np.dtype("<f2"), tensor.shape).astype(tensor.dtype)
    if rows is None:
        return array_of(body, name, tensor.dtype, tensor.shape)
    levels = array_of(body, name, np.dtype(np.uint8), (len(rows), count // len(rows)))
    with np.errstate(over="ignore"):  # a sender's rounding, or its mistake
        values = levels.astype(np.float32)
        values *= rows["step"][:, None]
        values += rows["minimum"][:, None]
        return values.reshape(tensor.shape).astype(tensor.dtype, copy=False)


@dataclass(frozen=True, slots=True)
class _Made:
    """`body` may be compressed, `head` goes before it as it is."""

    lossy: Lossy
    body: Tensor
    head: bytes = b""


def _quantise(array: Tensor, lossy: Lossy, frames: int) -> _Made:
    """An array after the lossy half of a codec; the array itself, where that cannot be."""
    made = None
    if lossy and array.dtype.kind == "f" and array.size:
        made = _to_fp16(array) if lossy == "fp16" else _to_int8(array, frames)
    return made or _Made("", array)


def _to_fp16(array: Tensor) -> _Made | None:
    if array.dtype.itemsize <= 2:
        return None
    with np.errstate(invalid="ignore"):
        in_range = array.min() >= -_FP16_MAX and array.max() <= _FP16_MAX  # both are False for a NaN
    return _Made("fp16", array.astype(np.float16)) if in_range else None


def _to_int8(array: Tensor, frames: int) -> _Made | None:
    rows = frames if array.ndim and array.shape[0] == frames else 1
    if _COUNT_BYTES + rows * _ROW.itemsize + array.size >= array.nbytes:
        return None
    if array.dtype.itemsize > 4 and 0 < np.abs(array).max() < np.finfo(np.float32).tiny:
        return None  # all of it would become 0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        values = array.astype(np.float32, copy=False).reshape(rows, -1)
        minimum = values.min(axis=1, keepdims=True)
        span = values.max(axis=1, keepdims=True) - minimum
        step = span / np.float32(_LEVELS)
        per_step = np.where(span == 0, 0, 1 / step).astype(np.float32)
        # What is not finite, or spans more or less than a float32 can tell, makes one of these infinite or NaN.
        if not np.isfinite((per_step, minimum + step * (_LEVELS + 1))).all():
            return None
        scaled = values - minimum
    scaled *= per_step
    scaled += np.float32(0.5)
    table = np.empty(rows, _ROW)
    table["minimum"], table["step"] = minimum[:, 0], step[:, 0]
    return _Made("int8", scaled.astype(np.uint8), rows.to_bytes(_COUNT_BYTES, "little") + table.tobytes())


def _read_rows(data: memoryview, name: str, count: int) -> tuple[NDArray[np.void], memoryview]:
    """The minimum and step of every row, and what follows them."""
    rows = int.from_bytes(data[:_COUNT_BYTES], "little")
    end = _COUNT_BYTES + rows * _ROW.itemsize
    if not 1 <= rows <= count or count % rows or len(data) < end:
        raise WireError(f"tensor {name!r}: {len(data)} bytes of int8 cannot begin with the ranges of {rows} rows")
    table = np.frombuffer(data[_COUNT_BYTES:end], _ROW)
    if not np.isfinite(table["minimum"]).all() or not np.isfinite(table["step"]).all():
        raise WireError(f"tensor {name!r}: the range of a row is not finite")
    return table, data[end:]


class _Contexts(threading.local):
    """Of Zstandard: each is for one thread at a time, and dear to make."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def _expand(data: Buffer, name: str, size: int) -> memoryview:
    """What was compressed: exactly `size` bytes, which must stand in the frame's own header. No more is allocated."""
    try:
        announced = zstandard.get_frame_parameters(data).content_size
        if announced != size:
            raise WireError(f"tensor {name!r}: {size} bytes are needed, what is compressed has another size")
        return memoryview(_contexts.decompressor.decompress(data, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise WireError(f"tensor {name!r} cannot be decompressed: {error}") from error
