"""What can be published as a frame, and how it becomes a payload."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.activation import encode_tensor_frame
from broker.errors import UnderstudyError, WireError
from broker.port import Buffer

PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")
"""Pillow's modes that a PNG can hold; pictures of other modes are converted to RGB."""


class ContentError(UnderstudyError):
    """Something that cannot be a frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame with an id of your own. The id is what makes publishing it twice harmless."""

    content: Any
    id: str


def to_payload(content: Any) -> list[Buffer]:
    """The payload of a frame, in parts.

    Args:
        content: bytes of a JPEG, PNG, `.npy` file or tensor message; the path of such a file; an array for a model with
            one input (or the pixels of an image, uint8); a mapping of arrays by the names of the inputs; a PIL image.

    Raises:
        ContentError: none of these, or a file that cannot be read.
    """
    match content:
        case bytes() | bytearray() | memoryview():
            return [content]
        case Path():
            try:
                return [content.read_bytes()]
            except OSError as error:
                raise ContentError(f"cannot read {content}: {error.strerror}") from error
        case np.ndarray():
            return _npy(content)
        case Mapping():
            try:
                return encode_tensor_frame({str(name): np.asarray(array) for name, array in content.items()})
            except WireError as error:
                raise ContentError(str(error)) from error
    if hasattr(content, "save") and hasattr(content, "getbands"):
        buffer = io.BytesIO()
        picture = content if content.mode in PNG_MODES else content.convert("RGB")
        picture.save(buffer, format="PNG")
        return [buffer.getvalue()]
    raise ContentError(
        f"a {type(content).__name__} is not a frame: give bytes, a pathlib.Path, a numpy array, a mapping of arrays "
        f"or a PIL image"
    )


def joined(parts: Sequence[Buffer]) -> Buffer:
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _npy(array: NDArray[Any]) -> list[Buffer]:
    # The header of the format, then the array's own memory: np.save would copy it.
    if array.dtype.kind not in "biuf":
        raise ContentError(f"an array of dtype {array.dtype} is not a frame: numbers are needed")
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(contiguous))
    return [header.getvalue(), contiguous.data.cast("B") if contiguous.size else b""]
