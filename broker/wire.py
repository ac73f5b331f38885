"""The wire format: one msgpack document per message, written and read without copying a tensor.

    document = array [ header, tensor 0, tensor 1, ... ]
    header   = map { "v": 1, "tensors": [[name, dtype, shape], ...], "pad": "...", and the message's own keys }
    tensor i = bin, the C-ordered little-endian bytes of an array of that dtype and shape

Where a tensor went through a codec, the header has "codecs" too, one name per tensor, and the bin is what that codec
makes of those bytes. Such a tensor is kept as it is (`Encoded`) until `stages.codec` decodes it.

`pad` has the length that puts the first tensor's bytes at a multiple of 16 from the start of the document, so that
`np.frombuffer` gives an aligned array in place. Readers ignore it. A tensor that is not aligned is copied when read.

Nothing is trusted: every length, dtype and shape is checked before an array is made, and the header is bounded, so a
few bytes never make a large allocation.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from broker.codecs import CODECS, Codec
from broker.errors import WireError
from broker.port import Buffer

VERSION = 1
MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 256
MAX_DIMENSIONS = 16
ALIGNMENT_BYTES = 16

_NAMES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"

DTYPES: Mapping[str, np.dtype[Any]] = {name: np.dtype(name) for name in _NAMES.split()}
"""The dtypes that can cross a cut."""

Tensor = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """A tensor that went through a codec. `dtype` and `shape` are those of the array that it stands for.

    Attributes:
        codec: never `none`.
        data: what the codec made.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    codec: Codec
    data: Buffer

    @property
    def nbytes(self) -> int:
        """Bytes on the wire."""
        return len(self.data)

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the array that it stands for."""
        return math.prod(self.shape) * self.dtype.itemsize


Carried = Tensor | Encoded
"""A tensor as it travels between nodes."""

_FIRST_READ_BYTES = 8192
_BIN8, _BIN16, _BIN32 = 0xC4, 0xC5, 0xC6
_MAX_BIN_BYTES = (1 << 32) - 1

if sys.byteorder != "little":  # pragma: no cover - every supported machine is little-endian
    raise ImportError("the wire format is little-endian and is read in place: big-endian machines are not supported")


def pack(header: Mapping[str, Any], tensors: Mapping[str, Carried]) -> list[Buffer]:
    """The buffers whose concatenation is the document. Contiguous tensors are referred to, not copied: they must not
    change until the message is sent.

    Raises:
        WireError: a dtype that cannot be sent, or a tensor of 4 GiB or more.
    """
    arrays = [_sendable(name, array) for name, array in tensors.items()]
    specs = [[name, array.dtype.name, list(array.shape)] for name, array in zip(tensors, arrays, strict=True)]
    document: dict[str, Any] = {"v": VERSION, **header, "tensors": specs}
    if any(isinstance(array, Encoded) for array in arrays):
        document["codecs"] = [array.codec if isinstance(array, Encoded) else "none" for array in arrays]
    document["pad"] = ""
    packed = msgpack.packb(document)
    prefix = _array_prefix(1 + len(arrays))
    if not arrays:
        return [prefix + packed]
    first_bin = _bin_prefix(arrays[0].nbytes)
    misaligned = -(len(prefix) + len(packed) + len(first_bin)) % ALIGNMENT_BYTES
    # The header ends with the empty string of "pad" (one byte, 0xa0): give it its length in place of packing again.
    head = b"".join((prefix, packed[:-1], bytes((0xA0 | misaligned,)), b" " * misaligned, first_bin))
    parts: list[Buffer] = [head, _view(arrays[0])]
    for array in arrays[1:]:
        parts += (_bin_prefix(array.nbytes), _view(array))
    return parts


def unpack(data: Buffer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a document. The arrays are read-only views into `data` where alignment allows.

    Raises:
        WireError: `data` is not exactly one valid document, or a tensor of it is encoded.
    """
    header, tensors = unpack_carried(data)
    return header, dict(plain(tensors))


def unpack_carried(data: Buffer) -> tuple[dict[str, Any], dict[str, Carried]]:
    """The same for what nodes send each other: encoded tensors stay encoded.

    Raises:
        WireError: `data` is not exactly one valid document.
    """
    header, position, count = _read_header(data)
    if header.get("v") != VERSION:
        raise WireError(f"version {header.get('v')!r} is not understood: this side speaks version {VERSION}")
    specs = header.pop("tensors", None)
    header.pop("pad", None)
    if not isinstance(specs, list) or len(specs) != count:
        raise WireError(f"the header must list the {count} tensors that follow it")
    codecs = _check_codecs(header.pop("codecs", None), count)
    view = memoryview(data)
    tensors: dict[str, Carried] = {}
    for spec, codec in zip(specs, codecs, strict=True):
        name, dtype, shape = _check_spec(spec)
        if name in tensors:
            raise WireError(f"tensor {name!r} is there twice")
        start, end = _read_bin(view, position)
        if codec == "none":
            tensors[name] = array_of(view[start:end], name, dtype, shape)
        else:
            tensors[name] = Encoded(dtype=dtype, shape=shape, codec=codec, data=view[start:end])
        position = end
    if position != len(view):
        raise WireError(f"{len(view) - position} bytes follow the last tensor")
    return header, tensors


def plain(tensors: Mapping[str, Carried]) -> Mapping[str, Tensor]:
    """The same mapping, where nothing in it is encoded.

    Raises:
        WireError: something is.
    """
    for name, tensor in tensors.items():
        if isinstance(tensor, Encoded):
            raise WireError(f"tensor {name!r} went through codec {tensor.codec}, and none is expected here")
    return tensors  # type: ignore[return-value]


def size_of(parts: Sequence[Buffer]) -> int:
    """Bytes of the payload that `parts` make."""
    return sum(len(part) if isinstance(part, bytes) else memoryview(part).nbytes for part in parts)


def _sendable(name: str, array: Carried) -> Carried:
    if array.dtype.name not in DTYPES:
        raise WireError(f"tensor {name!r} has dtype {array.dtype}, which cannot be sent")
    if array.nbytes > _MAX_BIN_BYTES:
        raise WireError(f"tensor {name!r} has {array.nbytes} bytes: 4 GiB is the most that one message can carry")
    if isinstance(array, Encoded):
        return array
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    # ascontiguousarray makes a 0-dimensional array 1-dimensional; those are contiguous anyway.
    return little if little.flags.c_contiguous else np.ascontiguousarray(little)


def _view(array: Carried) -> memoryview:
    if isinstance(array, Encoded):
        return memoryview(array.data).toreadonly()
    # A zero-sized array cannot be cast to bytes as a memoryview. Read-only: the NATS back end sends that in place.
    return array.data.cast("B").toreadonly() if array.size else memoryview(b"")


def _array_prefix(length: int) -> bytes:
    return bytes((0x90 | length,)) if length < 16 else b"\xdc" + length.to_bytes(2, "big")


def _bin_prefix(length: int) -> bytes:
    return b"\xc6" + length.to_bytes(4, "big")


def _read_header(data: Buffer) -> tuple[dict[str, Any], int, int]:
    """The header map, where it ends, and the number of tensors that follow."""
    if len(data) == 0:
        raise WireError("the message is empty")
    size = min(len(data), _FIRST_READ_BYTES)
    while True:
        unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=True,
            max_buffer_size=MAX_HEADER_BYTES,
            max_str_len=65536,
            max_bin_len=65536,
            max_array_len=1024,
            max_map_len=64,
            max_ext_len=0,
        )
        unpacker.feed(memoryview(data)[:size])
        try:
            length = unpacker.read_array_header()
            if not 1 <= length <= MAX_TENSORS + 1:
                raise WireError(f"an array of {length} items: 1 header and at most {MAX_TENSORS} tensors are allowed")
            header = unpacker.unpack()
            break
        except msgpack.OutOfData:
            if size == len(data):
                raise WireError("the message ends in the middle of its header") from None
            if size >= MAX_HEADER_BYTES:
                raise WireError(f"the header exceeds {MAX_HEADER_BYTES} bytes") from None
            size = min(len(data), size * 8, MAX_HEADER_BYTES)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise WireError(f"not a msgpack document of ours: {str(error) or type(error).__name__}") from error
    if not isinstance(header, dict):
        raise WireError(f"the first item must be the header map, not {type(header).__name__}")
    return header, unpacker.tell(), length - 1


def _check_spec(spec: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    if not isinstance(spec, list) or len(spec) != 3:
        raise WireError("a tensor is described by [name, dtype, shape]")
    name, dtype, shape = spec
    if not isinstance(name, str) or not 0 < len(name) <= 1024:
        raise WireError("a tensor's name must be a text of 1 to 1024 characters")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WireError(f"tensor {name!r} has dtype {str(dtype)[:40]!r}: one of {', '.join(DTYPES)} is needed")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_dimension, shape)):
        raise WireError(f"tensor {name!r}: the shape must be a list of at most {MAX_DIMENSIONS} integers >= 0")
    return name, DTYPES[dtype], tuple(shape)


def _check_codecs(raw: Any, count: int) -> Sequence[Codec]:
    if raw is None:
        return ["none"] * count
    if not isinstance(raw, list) or len(raw) != count:
        raise WireError(f"'codecs' must name one codec for each of the {count} tensors")
    for codec in raw:
        if codec not in CODECS:
            raise WireError(f"codec {str(codec)[:40]!r} is not known: one of {', '.join(CODECS)} is needed")
    return raw


def _is_dimension(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 40


def _read_bin(view: memoryview, position: int) -> tuple[int, int]:
    """Where the bytes of the bin at `position` start and end."""
    kind = view[position] if position < len(view) else None
    width = {_BIN8: 1, _BIN16: 2, _BIN32: 4}.get(kind) if kind is not None else None
    if width is None:
        raise WireError("the message ends before its last tensor" if kind is None else "a tensor must be a msgpack bin")
    start = position + 1 + width
    end = start + int.from_bytes(view[position + 1 : start], "big")
    if end > len(view):
        raise WireError(f"a tensor of {end - start} bytes is announced, {max(0, len(view) - start)} are there")
    return start, end


def array_of(data: Buffer, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Tensor:
    """The array of these bytes, in place where alignment allows.

    Raises:
        WireError: they are not as many as that takes, or a bool is neither 0 nor 1.
    """
    wanted = math.prod(shape) * dtype.itemsize
    if len(data) != wanted:
        raise WireError(f"tensor {name!r} of shape {shape} and dtype {dtype} needs {wanted} bytes, has {len(data)}")
    try:
        array = np.frombuffer(data, dtype=dtype).reshape(shape) if wanted else np.empty(shape, dtype)
    except ValueError as error:  # numpy's own bounds, such as dimensions whose product with a zero overflows
        raise WireError(f"tensor {name!r}: {error}") from error
    if dtype.kind == "b" and wanted and np.frombuffer(data, dtype=np.uint8).max() > 1:
        raise WireError(f"tensor {name!r}: a bool is 0 or 1")
    return array if array.flags.aligned else array.copy()


def names(tensors: Iterable[str]) -> str:
    """Tensor names for a message to people."""
    return ", ".join(repr(name) for name in tensors) or "none"
