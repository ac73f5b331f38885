"""From an image to the numbers that the network takes: mode, size, scale, mean and standard deviation, layout."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.errors import FrameError
from stages.manifest import ImageInput

MAX_PIXELS = 50_000_000
"""An image with more pixels is refused before it is decoded: 50 megapixels take 150 MB in RGB."""

FORMATS = ("JPEG", "PNG")
JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def image_from_bytes(
    payload: bytes | memoryview, spec: ImageInput, *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.float32]:
    """Decode a JPEG or PNG and preprocess it.

    Returns:
        float32, (C, H, W) or (H, W, C) by the layout.

    Raises:
        FrameError: `truncated`, `not-an-image` (damaged), `too-large`, `bad-shape` (another size, and `exact` wanted).
    """
    image = _open(payload, max_pixels)
    try:
        _load(image, payload)
        return preprocess(image, spec)
    except FrameError:
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    except Exception as error:
        raise _damaged(payload, error) from error


def _open(payload: bytes | memoryview, max_pixels: int) -> Image.Image:
    """Read the header alone, and refuse what would be too large to decode."""
    try:
        image = Image.open(io.BytesIO(payload), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow has limits of its own above ours: an error at 179 megapixels, a warning (maybe made an error) at 89.
        raise FrameError("too-large", f"{error}; at most {max_pixels} pixels are decoded") from error
    except Exception as error:  # see image_from_bytes
        raise _damaged(payload, error) from error
    width, height = image.size
    if width * height > max_pixels:
        raise FrameError("too-large", f"the image has {width} x {height} pixels; at most {max_pixels} are decoded")
    return image


def _load(image: Image.Image, payload: bytes | memoryview) -> None:
    image.load()
    # Pillow is content with the pixels of a PNG that lacks its checksum and end.
    if image.format == "PNG" and bytes(payload).rfind(b"IEND") < 0:
        raise EOFError("checksum and end marker are missing")


def _damaged(payload: bytes | memoryview, error: Exception) -> FrameError:
    """A file without its end marker was cut off; one that has it is damaged inside."""
    tail = bytes(payload[-1024:])
    kind, complete = ("PNG", b"IEND" in tail) if bytes(payload[:8]) == PNG_MAGIC else ("JPEG", b"\xff\xd9" in tail)
    if complete:
        return FrameError("not-an-image", f"the {kind} of {len(payload)} bytes is damaged: {error}")
    return FrameError("truncated", f"the {kind} ends after {len(payload)} bytes, before its end marker: {error}")


def preprocess(image: Image.Image, spec: ImageInput) -> NDArray[np.float32]:
    """One image to the network's input.

    Any mode becomes greyscale or RGB as the network wants: palettes are looked up, transparency is laid onto black,
    16-bit grey is rounded to 8 bits.

    Returns:
        float32, (C, H, W) or (H, W, C) by the layout, without a batch dimension.

    Raises:
        FrameError: `bad-shape`: the image has another size and `resize` is `exact`.
    """
    image = _in_mode(image, "L" if spec.channels == 1 else "RGB")
    if image.size != (spec.width, spec.height):
        if spec.resize == "exact":
            raise FrameError(
                "bad-shape",
                f"the image has {image.width} x {image.height} pixels, input '{spec.name}' takes exactly "
                f"{spec.width} x {spec.height}",
            )
        image = image.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8).reshape(1, spec.height, spec.width, spec.channels)
    values: NDArray[np.float32] = normalise(pixels, spec)[0]
    return values


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255
        deep = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        image = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image.alpha_composite(layered)
    return image if image.mode == mode else image.convert(mode)


def normalise(pixels: NDArray[np.uint8], spec: ImageInput) -> NDArray[np.float32]:
    """(N, H, W, C) uint8 pixels to (pixel * scale - mean) / std in float32, contiguous, (N, C, H, W) or (N, H, W, C).

    Computed as pixel * factor + offset, in one pass over the array.
    """
    factor, offset = _factors(spec)
    values = pixels.astype(np.float32)
    values *= factor
    values += offset
    if spec.layout == "NCHW":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values, dtype=np.float32)


@cache
def _factors(spec: ImageInput) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mean = np.array(spec.mean or (0.0,), dtype=np.float64)
    std = np.array(spec.std or (1.0,), dtype=np.float64)
    return (spec.scale / std).astype(np.float32), (-mean / std).astype(np.float32)


def pixels_from_array(array: NDArray[np.uint8], spec: ImageInput) -> NDArray[np.float32]:
    """Pixels (H, W), (H, W, 1) or (H, W, 3) to the network's input, like an image of the same size.

    Raises:
        FrameError: `bad-shape`: not one of these shapes, a side of no or more than 65,535 pixels, or another size than
            the one that is wanted and `resize` is `exact`; `too-large`.
    """
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3)) or min(shape) < 1:
        raise FrameError("bad-shape", f"pixels have the shape {shape}; (H, W), (H, W, 1) or (H, W, 3) is wanted")
    if shape[0] * shape[1] > MAX_PIXELS or max(shape[:2]) > 65535:
        raise FrameError("too-large", f"the array has {shape[1]} x {shape[0]} pixels; at most {MAX_PIXELS} are taken")
    flat = array[:, :, 0] if array.ndim == 3 and shape[2] == 1 else array
    return preprocess(Image.fromarray(np.ascontiguousarray(flat)), spec)
