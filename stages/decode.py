"""From the bytes of a frame to the named tensors of the model: JPEG, PNG and `.npy`; every failure is a `FrameError`.

Tensor messages are decoded where messages are (`broker.wire`); their tensors then pass through `check_tensors` as well.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from stages.errors import FrameError
from stages.manifest import ImageInput, InputSpec
from stages.preprocess import JPEG_MAGIC, PNG_MAGIC, image_from_bytes, pixels_from_array
from stages.tensor import TensorSpec

NPY_MAGIC = b"\x93NUMPY"
MAX_NPY_HEADER_BYTES = 10_000
MAX_DIMENSIONS = 32
ACCEPTED = "a JPEG or PNG image, .npy bytes or a tensor message"
NARROWED = {"float32": ("float16", "float64")}
"""By model dtype, what is cast to it without asking. float64 is numpy's default; any other cast may hide a bug."""

_NPY_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

Array = NDArray[Any]


def decode_frame(
    payload: bytes | memoryview, spec: InputSpec, inputs: Sequence[TensorSpec], *, dynamic_batch: bool = True
) -> dict[str, Array]:
    """Decode a JPEG, a PNG or a `.npy` file, told apart by their first bytes.

    Args:
        payload: the bytes of the frame.
        spec: how the manifest describes the input.
        inputs: the model's inputs.
        dynamic_batch: see `check_tensors`.

    Returns:
        Input name to array: the model's dtype and shape, C-contiguous, one frame.

    Raises:
        FrameError: `empty`, `not-an-image` (none of the three, or a damaged image), `truncated`, `too-large`,
            `bad-shape`, `bad-dtype`, `not-finite`, `bad-message`.
    """
    payload = memoryview(payload).cast("B")
    if not payload:
        raise FrameError("empty", f"the frame has no bytes; {ACCEPTED} is wanted")
    head = bytes(payload[:8])
    if head.startswith(NPY_MAGIC):
        return _from_array(read_npy(payload), spec, inputs, dynamic_batch)
    if head.startswith(JPEG_MAGIC) or head == PNG_MAGIC:
        if not isinstance(spec, ImageInput):
            raise FrameError(
                "bad-message", f"an image was sent, but the model takes tensors: {_describe(inputs)}; send .npy bytes"
            )
        return _from_pixels(image_from_bytes(payload, spec), inputs, dynamic_batch)
    # A prefix of a magic is what a cut-off upload looks like.
    if any(magic.startswith(head) for magic in (NPY_MAGIC, JPEG_MAGIC, PNG_MAGIC)):
        raise FrameError(
            "truncated", f"the frame ends after {len(payload)} bytes, inside the first bytes of its header"
        )
    raise FrameError("not-an-image", f"{len(payload)} bytes starting with {head.hex(' ')} are none of: {ACCEPTED}")


def _from_array(array: Array, spec: InputSpec, inputs: Sequence[TensorSpec], dynamic_batch: bool) -> dict[str, Array]:
    if isinstance(spec, ImageInput) and _are_pixels(array, inputs[0]):
        return _from_pixels(pixels_from_array(array, spec), inputs, dynamic_batch)
    if len(inputs) != 1:
        raise FrameError(
            "bad-message",
            f"a .npy file holds one tensor, but the model has {len(inputs)} inputs: {_describe(inputs)}; "
            f"send a tensor message",
        )
    return check_tensors({inputs[0].name: array}, inputs, dynamic_batch=dynamic_batch)


def _are_pixels(array: Array, spec: TensorSpec) -> bool:
    """uint8 (H, W) or (H, W, C). A model that takes uint8 may be sent (C, H, W) as a tensor, any other may not."""
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        return False
    return array.ndim == 2 or array.shape[2] in (1, 3) or spec.dtype != "uint8"


def _from_pixels(values: Array, inputs: Sequence[TensorSpec], dynamic_batch: bool) -> dict[str, Array]:
    """The image input is the only one, and preprocessing yields float32: bring it to the model's dtype."""
    spec = inputs[0]
    if spec.dtype == "float32" and values.shape == spec.example_shape[1:]:
        return {spec.name: values[np.newaxis]}  # pixels are finite, and what is left to check is right
    if spec.dtype == "uint8":
        values = np.clip(np.rint(values), 0, 255)
    return check_tensors({spec.name: values.astype(spec.dtype, copy=False)}, inputs, dynamic_batch=dynamic_batch)


def read_npy(payload: bytes | memoryview) -> Array:
    """Read the bytes of a `.npy` file, in place. What its header claims is checked before anything is allocated.

    Raises:
        FrameError: `truncated`, `bad-message` (malformed header, trailing bytes), `bad-dtype` (objects, text,
            structures), `bad-shape` (negative or too many dimensions).
    """
    shape, fortran, dtype, start = _npy_header(payload)
    if dtype.hasobject or dtype.kind not in "biufc" or dtype.itemsize == 0:
        raise FrameError("bad-dtype", f"the .npy file holds {dtype}; a numeric dtype is wanted")
    if len(shape) > MAX_DIMENSIONS or any(isinstance(size, bool) or size < 0 for size in shape):
        raise FrameError("bad-shape", f"the .npy file declares the shape {_shorten(str(shape))}")
    count = math.prod(shape)
    wanted, got = count * dtype.itemsize, len(payload) - start
    if got < wanted:
        raise FrameError(
            "truncated",
            f"the .npy file declares {dtype} {_shorten(str(shape))}, {wanted} bytes, but {got} bytes follow",
        )
    if got > wanted:
        raise FrameError("bad-message", f"{got - wanted} bytes follow the {dtype} {shape} of the .npy file")
    if count == 0:
        raise FrameError("bad-shape", f"the .npy file holds no number: shape {_shorten(str(shape))}")
    flat: Array = np.frombuffer(payload, dtype=dtype, count=count, offset=start)
    return flat.reshape(shape, order="F" if fortran else "C")


def _npy_header(payload: bytes | memoryview) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether in Fortran's order, dtype, and where the data begins."""
    if len(payload) < 12:
        raise FrameError("truncated", f"the .npy file ends after {len(payload)} bytes, inside its header")
    version = (payload[6], payload[7])
    if version not in _NPY_READERS:
        raise FrameError("bad-message", f"the .npy file has version {version[0]}.{version[1]}; 1.0 or 2.0 is wanted")
    length_bytes = 2 if version == (1, 0) else 4
    length = int.from_bytes(payload[8 : 8 + length_bytes], "little")
    if length > MAX_NPY_HEADER_BYTES:
        raise FrameError("bad-message", f"the header of the .npy file has {length} bytes; at most 10,000 are read")
    start = 8 + length_bytes + length
    if len(payload) < start:
        raise FrameError("truncated", f"the .npy file ends after {len(payload)} bytes, inside its header")
    return *_parse_npy_header(version, bytes(payload[8:start])), start


# The frames of a stream have the same header, and numpy takes as long for it as for the rest of a small frame.
@lru_cache(maxsize=64)
def _parse_npy_header(version: tuple[int, int], header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        shape, fortran, dtype = _NPY_READERS[version](io.BytesIO(header), max_header_size=MAX_NPY_HEADER_BYTES)
    except (
        Exception
    ) as error:  # ast and numpy raise ValueError, SyntaxError, TypeError, RecursionError, MemoryError, ...
        raise FrameError("bad-message", f"the header of the .npy file is malformed: {_shorten(str(error))}") from error
    return shape, fortran, dtype


def check_tensors(
    tensors: Mapping[str, Array], inputs: Sequence[TensorSpec], *, dynamic_batch: bool = True
) -> dict[str, Array]:
    """Check the tensors of one frame against the model's inputs.

    Args:
        tensors: input name to array; a leading batch dimension of 1 may be missing where the model's is open or 1.
        inputs: the model's inputs.
        dynamic_batch: the open first dimension is the batch, which is 1 for a frame. False: it is one of the frame.

    Returns:
        The same names, in the model's order: its dtype and number of dimensions, C-contiguous, aligned, finite.

    Raises:
        FrameError: `bad-message` (a missing or an unknown name), `bad-dtype`, `bad-shape`, `not-finite`.
    """
    wanted = {spec.name for spec in inputs}
    if wanted != tensors.keys():
        names = ", ".join(repr(_shorten(name)) for name in sorted(tensors)[:8]) or "none"
        raise FrameError("bad-message", f"tensors {names} were sent; the model takes {_describe(inputs)}")
    return {spec.name: _check_tensor(tensors[spec.name], spec, dynamic_batch) for spec in inputs}


def _check_tensor(array: Array, spec: TensorSpec, dynamic_batch: bool) -> Array:
    dtype = np.dtype(spec.dtype)
    if array.dtype.newbyteorder("=") != dtype and array.dtype.name not in NARROWED.get(spec.dtype, ()):
        raise FrameError("bad-dtype", f"{array.dtype.name} was sent; input '{spec.name}' takes {spec.dtype}")
    shaped = array
    if array.ndim == len(spec.shape) - 1 and spec.shape[0] in (None, 1):
        shaped = array[np.newaxis]
    if not _fits(shaped.shape, spec, dynamic_batch):
        raise FrameError(
            "bad-shape",
            f"shape {array.shape} does not fit input '{spec.name}' of shape {_shape_text(spec, dynamic_batch)}",
        )
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused as that
        # Unaligned: a buffer may start anywhere in a message, and some processors fault on that.
        ready: Array = np.require(shaped, dtype=dtype, requirements=["C", "A"])
    if dtype.kind == "f":
        bad = int(ready.size - np.count_nonzero(np.isfinite(ready)))
        if bad:
            raise FrameError("not-finite", f"{bad} of {ready.size} values of '{spec.name}' are NaN or infinite")
    return ready


def _fits(shape: tuple[int, ...], spec: TensorSpec, dynamic_batch: bool) -> bool:
    if len(shape) != len(spec.shape):
        return False
    wanted = [1 if axis == 0 and dynamic_batch and size is None else size for axis, size in enumerate(spec.shape)]
    return all(got >= 1 and (size is None or got == size) for got, size in zip(shape, wanted, strict=True))


def _shape_text(spec: TensorSpec, dynamic_batch: bool) -> str:
    """`(batch, 3, 32, 32)`: one frame's batch is 1 and may be left out."""
    first = "batch" if dynamic_batch else "?"
    words = [(first if axis == 0 else "?") if size is None else str(size) for axis, size in enumerate(spec.shape)]
    text = f"({', '.join(words)})"
    return f"{text} with a batch of 1" if dynamic_batch and spec.shape and spec.shape[0] is None else text


def _describe(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"'{spec.name}' {spec.dtype} {_shape_text(spec, False)}" for spec in inputs)


def _shorten(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
