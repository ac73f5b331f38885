from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.decode import check_tensors, decode_frame, read_npy
from stages.errors import FrameError
from stages.manifest import ImageInput, TensorInput
from stages.tensor import TensorSpec

IMAGE = ImageInput(name="input", channels=3, height=8, width=8)
IMAGE_INPUTS = (TensorSpec(name="input", dtype="float32", shape=(None, 3, 8, 8), example_shape=(1, 3, 8, 8)),)
PAIR = TensorInput(names=("ids", "mask"))
PAIR_INPUTS = (
    TensorSpec(name="ids", dtype="int64", shape=(None, None), example_shape=(1, 5)),
    TensorSpec(name="mask", dtype="float32", shape=(1, 4), example_shape=(1, 4)),
)


def npy(array: np.ndarray[Any, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


def image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (255, 0, 0)).save(buffer, format=kind)
    return buffer.getvalue()


def refused(payload: bytes, spec: Any = IMAGE, inputs: Any = IMAGE_INPUTS) -> FrameError:
    with pytest.raises(FrameError) as error:
        decode_frame(payload, spec, inputs)
    return error.value


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_becomes_the_input_with_a_batch_of_one(kind: str) -> None:
    for payload in (image(kind), memoryview(image(kind))):
        tensors = decode_frame(payload, IMAGE, IMAGE_INPUTS)
        assert tensors["input"].shape == (1, 3, 8, 8)
        assert tensors["input"].dtype == np.float32
        np.testing.assert_allclose(tensors["input"][0, :, 4, 4], [1, 0, 0], atol=0.02)


def test_npy_pixels_are_preprocessed_like_an_image() -> None:
    for shape in ((8, 8), (8, 8, 1), (8, 8, 3), (20, 30, 3)):
        tensors = decode_frame(npy(np.full(shape, 255, np.uint8)), IMAGE, IMAGE_INPUTS)
        np.testing.assert_allclose(tensors["input"], np.ones((1, 3, 8, 8)))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 3, 8, 8)])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f2", "f8"])
def test_an_npy_tensor_is_taken_as_it_is(shape: tuple[int, ...], dtype: str) -> None:
    array = np.arange(192, dtype=dtype).reshape(shape)
    for order in ("C", "F"):
        got = decode_frame(npy(np.asarray(array, order=order)), IMAGE, IMAGE_INPUTS)["input"]
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
        assert got.flags.aligned
        np.testing.assert_array_equal(got, array.reshape(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (b"", "empty", "no bytes"),
        (b"GIF89a.......", "not-an-image", "JPEG or PNG"),
        (b"\x89PN", "truncated", "3 bytes"),
        (
            npy(np.zeros((3, 8, 7), np.float32)),
            "bad-shape",
            r"\(3, 8, 7\) does not fit input 'input' .*\(batch, 3, 8, 8\)",
        ),
        (npy(np.zeros((2, 3, 8, 8), np.float32)), "bad-shape", "batch of 1"),
        (npy(np.zeros((3, 8, 8), np.int32)), "bad-dtype", "int32 was sent; input 'input' takes float32"),
        (npy(np.zeros((3, 8, 8), np.complex64)), "bad-dtype", "complex64"),
        (npy(np.zeros((3, 8, 8), np.uint8)), "bad-shape", r"\(H, W, 3\)"),
        (npy(np.zeros((0, 8), np.uint8)), "bad-shape", "holds no number"),
        (npy(np.full((3, 8, 8), np.nan, np.float32)), "not-finite", "192 of 192"),
        (npy(np.full((3, 8, 8), 1e300)), "not-finite", "infinite"),
        (npy(np.array(["text"])), "bad-dtype", "numeric"),
        (npy(np.array([{}], object)), "bad-dtype", "numeric"),
        (npy(np.zeros((3, 8, 8), np.float32))[:-1], "truncated", "768 bytes, but 767"),
        (npy(np.zeros((3, 8, 8), np.float32)) + b"x", "bad-message", "1 bytes follow"),
        (npy(np.zeros((3, 8, 8), np.float32))[:50], "truncated", "header"),
        (npy(np.zeros((3, 8, 8), np.float32), version=(3, 0)), "bad-message", "version 3.0"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"(" * 100, "bad-message", "at most 10,000"),
        (b"\x93NUMPY\x01\x00\x64\x00" + b"(" * 100, "bad-message", "malformed"),
    ],
)
def test_what_cannot_be_used_is_refused_with_code_and_reason(payload: bytes, code: str, reason: str) -> None:
    error = refused(payload)
    assert error.code == code
    assert __import__("re").search(reason, error.reason)


@pytest.mark.parametrize("shape", ["(4294967296, 4294967296)", "(-1, 8)", "(1,) * 1", "(True, 8)"])
def test_a_header_that_lies_about_the_shape_allocates_nothing(shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    payload = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(32)
    with pytest.raises(FrameError):
        read_npy(payload)


def test_an_image_for_a_model_of_tensors_is_refused_with_what_it_takes() -> None:
    error = refused(image("PNG"), PAIR, PAIR_INPUTS)
    assert error.code == "bad-message"
    assert "'ids' int64" in error.reason


def test_npy_for_a_model_of_two_inputs_is_refused() -> None:
    assert "2 inputs" in refused(npy(np.zeros((1, 4), np.float32)), PAIR, PAIR_INPUTS).reason


def test_tensors_come_back_in_the_order_of_the_model_with_their_batch() -> None:
    sent = {"mask": np.ones(4, np.float64), "ids": np.arange(7)}
    got = check_tensors(sent, PAIR_INPUTS)
    assert list(got) == ["ids", "mask"]
    assert got["ids"].shape == (1, 7)
    assert got["mask"].shape == (1, 4)
    assert got["mask"].dtype == np.float32


@pytest.mark.parametrize(
    "sent",
    [
        {"ids": np.arange(7)},
        {"ids": np.arange(7), "mask": np.ones(4, np.float32), "x": np.ones(1)},
        {"ids": np.arange(7, dtype=np.int32), "mask": np.ones(4, np.float32)},
        {"ids": np.ones((1, 0), np.int64), "mask": np.ones(4, np.float32)},
    ],
)
def test_missing_unknown_narrow_and_empty_tensors_are_refused(sent: dict[str, Any]) -> None:
    with pytest.raises(FrameError):
        check_tensors(sent, PAIR_INPUTS)


def test_an_open_first_dimension_that_is_no_batch_may_be_longer() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(None, 2), example_shape=(1, 2))
    sent = {"x": np.ones((5, 2), np.float32)}
    assert check_tensors(sent, (spec,), dynamic_batch=False)["x"].shape == (5, 2)
    with pytest.raises(FrameError, match="bad-shape"):
        check_tensors(sent, (spec,))


def test_a_scalar_input_stays_a_scalar() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(), example_shape=())
    assert check_tensors({"x": np.array(1.0, np.float32)}, (spec,))["x"].shape == ()


def test_a_tensor_at_an_odd_address_is_aligned() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(None, 2), example_shape=(1, 2))
    sent = np.frombuffer(bytes(9), np.float32, count=2, offset=1)
    assert check_tensors({"x": sent}, (spec,))["x"].flags.aligned


def test_a_model_of_uint8_takes_pixels_and_tensors() -> None:
    spec = ImageInput(name="x", channels=3, height=8, width=8, scale=1.0, layout="NHWC")
    inputs = (TensorSpec(name="x", dtype="uint8", shape=(None, 8, 8, 3), example_shape=(1, 8, 8, 3)),)
    array = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for sent in (array, array[np.newaxis]):
        np.testing.assert_array_equal(decode_frame(npy(sent), spec, inputs)["x"][0], array)


VALID = [image("PNG"), image("JPEG"), npy(np.zeros((3, 8, 8), np.float32)), npy(np.zeros((8, 8), np.uint8))]


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
def test_arbitrary_bytes_never_do_more_than_raise_a_frame_error(data: bytes, magic: bytes) -> None:
    _survives(magic + data)


@settings(max_examples=300)
@given(st.sampled_from(VALID), st.integers(0, 2000), st.binary(min_size=1, max_size=8), st.integers(0, 2000))
def test_damaged_frames_never_do_more_than_raise_a_frame_error(valid: bytes, at: int, noise: bytes, cut: int) -> None:
    position = at % len(valid)
    damaged = valid[:position] + noise + valid[position + len(noise) :]
    _survives(damaged[: max(cut, 1)])


def _survives(payload: bytes) -> None:
    for spec, inputs in ((IMAGE, IMAGE_INPUTS), (PAIR, PAIR_INPUTS)):
        try:
            tensors = decode_frame(payload, spec, inputs)
        except FrameError:
            continue
        assert tensors["input"].shape == (1, 3, 8, 8)
