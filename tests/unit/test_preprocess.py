from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from stages.errors import FrameError
from stages.manifest import ImageInput
from stages.preprocess import image_from_bytes, normalise, pixels_from_array, preprocess

GREY = ImageInput(name="input", channels=1, height=4, width=6)
RGB = ImageInput(name="input", channels=3, height=4, width=6)


def picture(mode: str, colour: object, size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def test_an_rgb_image_becomes_float32_channels_first_scaled_to_0_1() -> None:
    values = preprocess(picture("RGB", (255, 51, 0)), RGB)
    assert values.dtype == np.float32
    assert values.shape == (3, 4, 6)
    assert values.flags.c_contiguous
    np.testing.assert_allclose(values[:, 0, 0], [1.0, 0.2, 0.0], atol=1e-6)


def test_mean_and_std_are_applied_per_channel_after_the_scale() -> None:
    spec = RGB.model_copy(update={"mean": (0.5, 0.25, 0.0), "std": (0.5, 0.25, 2.0)})
    values = preprocess(picture("RGB", (255, 0, 255)), spec)
    np.testing.assert_allclose(values[:, 0, 0], [1.0, -1.0, 0.5], atol=1e-6)


def test_normalise_agrees_with_the_formula_in_double_precision() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    wanted = ((pixels / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    got = normalise(pixels, RGB.model_copy(update={"mean": mean, "std": std}))
    np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_the_layout_nhwc_keeps_channels_last() -> None:
    values = preprocess(picture("RGB", (255, 0, 0)), RGB.model_copy(update={"layout": "NHWC"}))
    assert values.shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (picture("L", 255), 1.0),
        (picture("1", 1), 1.0),
        (picture("RGBA", (255, 255, 255, 0)), 0.0),  # transparent: black
        (picture("LA", (255, 0)), 0.0),
        (picture("I;16", 65535), 1.0),
        (picture("I", 65535), 1.0),
        (picture("I;16", 32896), 128 / 255),
        (picture("CMYK", (0, 0, 0, 0)), 1.0),
        (picture("RGB", (255, 255, 255)).convert("P"), 1.0),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_every_mode_becomes_grey_or_rgb(image: Image.Image, wanted: float) -> None:
    for spec in (GREY, RGB):
        np.testing.assert_allclose(preprocess(image, spec), wanted, atol=1e-6)


def test_a_16_bit_png_keeps_its_brightness() -> None:
    deep = Image.fromarray(np.full((4, 6), 51 * 257, dtype=np.uint16))
    np.testing.assert_allclose(image_from_bytes(encoded(deep), GREY), 0.2, atol=1e-6)


def test_a_palette_with_a_transparent_colour_is_laid_onto_black() -> None:
    image = picture("P", 0)
    image.putpalette([255, 255, 255] * 256)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", transparency=0)
    np.testing.assert_array_equal(image_from_bytes(buffer.getvalue(), GREY), 0.0)


def test_another_size_is_resized_bilinearly() -> None:
    assert preprocess(picture("RGB", (10, 10, 10), (60, 33)), RGB).shape == (3, 4, 6)


def test_another_size_is_refused_where_the_exact_one_is_wanted() -> None:
    with pytest.raises(FrameError, match=r"60 x 33 pixels.*exactly 6 x 4") as error:
        preprocess(picture("L", 0, (60, 33)), GREY.model_copy(update={"resize": "exact"}))
    assert error.value.code == "bad-shape"


def test_pixels_of_an_array_give_what_the_image_gives() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        pixels_from_array(pixels, RGB), image_from_bytes(encoded(Image.fromarray(pixels)), RGB)
    )


def test_a_bomb_is_refused_from_its_header_alone() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (9_000, 60_000):  # below and above Pillow's own limits
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
        with pytest.raises(FrameError) as error:
            image_from_bytes(bomb, GREY)
        assert error.value.code == "too-large"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_an_image_that_was_cut_off_is_truncated(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    with pytest.raises(FrameError) as error:
        image_from_bytes(whole[: int(len(whole) * share)], RGB)
    assert error.value.code == "truncated"


def test_an_image_that_is_damaged_inside_is_no_image() -> None:
    whole = bytearray(encoded(picture("RGB", (1, 2, 3))))
    whole[40:50] = b"\x00" * 10
    with pytest.raises(FrameError, match="damaged") as error:
        image_from_bytes(bytes(whole), RGB)
    assert error.value.code == "not-an-image"
