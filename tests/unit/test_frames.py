"""What a user may publish as a frame, and that the pipeline reads from it what was meant."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from broker.activation import decode_tensor_frame
from broker.errors import UnderstudyError
from understudy.frames import ContentError, joined, to_payload


def payload(content: Any) -> bytes:
    return bytes(joined(to_payload(content)))


def read_npy(content: Any) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = np.load(io.BytesIO(payload(content)))
    return array


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_sent_as_they_are_without_a_copy(kind: Any) -> None:
    content = kind(b"image")
    assert joined(to_payload(content)) is content


def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(b"image")
    assert payload(tmp_path / "image.jpg") == b"image"


@pytest.mark.parametrize("name", ["missing.jpg", "."])
def test_a_path_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(ContentError, match=r"cannot read .*: (No such file|Is a directory)"):
        to_payload(tmp_path / name)


@given(
    hnp.arrays(
        st.sampled_from([np.dtype(name) for name in ("?", "u1", "i2", "<i8", ">i4", "f2", "<f4", ">f4", "f8")]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0),
    )
)
def test_an_array_is_sent_as_an_npy_file_with_the_same_numbers(array: np.ndarray[Any, Any]) -> None:
    got = read_npy(array)
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    assert got.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4)[::2, ::-1],
        np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(2, 0, 1),
    ],
    ids=["strided", "fortran", "transposed"],
)
def test_an_array_of_any_layout_is_sent_in_its_order(array: np.ndarray[Any, Any]) -> None:
    np.testing.assert_array_equal(read_npy(array), array)


def test_a_contiguous_array_is_not_copied() -> None:
    array = np.arange(100_000, dtype=np.float32)
    assert np.shares_memory(np.frombuffer(to_payload(array)[1], np.uint8), array)


def test_a_mapping_of_arrays_becomes_a_tensor_message() -> None:
    frame_id, tensors = decode_tensor_frame(payload({"left": np.ones((1, 2)), "right": [[1, 2, 3]]}))
    assert frame_id is None
    assert {name: array.tolist() for name, array in tensors.items()} == {"left": [[1, 1]], "right": [[1, 2, 3]]}


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_a_picture_is_sent_as_png_with_the_same_pixels(mode: str) -> None:
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).convert(mode)
    got = Image.open(io.BytesIO(payload(picture)))
    assert (got.format, got.size) == ("PNG", (4, 4))
    np.testing.assert_array_equal(np.asarray(got.convert("RGB")), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "F"])
def test_a_picture_that_png_cannot_hold_is_sent_converted_or_refused_by_us(mode: str) -> None:
    picture = Image.new(mode, (4, 4))
    try:
        data = payload(picture)
    except ContentError:
        return
    assert Image.open(io.BytesIO(data)).size == (4, 4)


def kind(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("content", [None, 5, 1.5, "image.jpg", ["a"], {1, 2}, object()], ids=kind)
def test_anything_else_is_refused_with_what_is_possible(content: Any) -> None:
    with pytest.raises(ContentError, match=f"a {type(content).__name__} is not a frame: give bytes, a pathlib.Path"):
        to_payload(content)


@pytest.mark.parametrize("content", [np.array([None]), {"x": np.array(["text"])}, {"x": object()}])
def test_arrays_that_hold_no_numbers_are_refused_by_an_error_of_ours(content: Any) -> None:
    with pytest.raises(UnderstudyError):
        to_payload(content)


def test_an_array_of_dates_is_refused_by_an_error_of_ours() -> None:
    with pytest.raises(ContentError):
        to_payload(np.array(["2020-01-01"], "M8[D]"))
