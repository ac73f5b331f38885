"""Codecs: what comes back, what a codec leaves alone, and that nothing that arrives can do harm."""

from __future__ import annotations

import tracemalloc
from typing import Any, get_args

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from broker import wire
from broker.activation import Activation, decode, encode_activation
from broker.codecs import CODECS, LOSSLESS, Codec
from broker.errors import WireError
from broker.wire import Encoded
from stages import codec as codecs
from tests.unit.builders import activation

LOSSY = tuple(codec for codec in CODECS if codec not in LOSSLESS)
FLOATS = ("float16", "float32", "float64")


def relu(*shape: int, dtype: str = "float32") -> np.ndarray[Any, Any]:
    """What a trained network hands on: half zeros, the rest positive."""
    return np.maximum(np.random.default_rng(0).normal(size=shape), 0).astype(dtype)


def there_and_back(array: np.ndarray[Any, Any], codec: Codec, *, frames: int = 1) -> tuple[str, np.ndarray[Any, Any]]:
    """The codec that the message says, and what the receiver has."""
    ids = [str(number) for number in range(frames)]
    sent = activation({"x": array}, ids)
    (packed,) = codecs.pack(sent, codec, 1 << 30)
    got = decode(b"".join(encode_activation(packed)))
    assert isinstance(got, Activation)
    carried = got.tensors["x"]
    back = codecs.unpack(got).tensors["x"]
    assert isinstance(back, np.ndarray)
    return carried.codec if isinstance(carried, Encoded) else "none", back


def bits(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    return array.dtype, array.shape, array.tobytes()


arrays = hnp.arrays(
    st.sampled_from([np.dtype(name) for name in wire.DTYPES]), hnp.array_shapes(min_dims=0, max_dims=4, max_side=20)
)


@given(arrays, st.sampled_from(LOSSLESS))
def test_lossless_codecs_give_every_number_back_bit_by_bit(array: np.ndarray[Any, Any], codec: Codec) -> None:
    assert bits(there_and_back(array, codec)[1]) == bits(array)


@given(arrays.filter(lambda array: array.dtype.kind != "f"), st.sampled_from(LOSSY))
def test_what_is_no_floating_number_is_never_changed(array: np.ndarray[Any, Any], codec: Codec) -> None:
    assert bits(there_and_back(array, codec)[1]) == bits(array)


@given(arrays.filter(lambda array: array.dtype.kind == "f"), st.sampled_from(LOSSY))
@example(np.array([1.43e-67] + [0.0] * 7), "int8")
def test_any_floating_numbers_come_back_as_they_were_or_close(array: np.ndarray[Any, Any], codec: Codec) -> None:
    said, back = there_and_back(array, codec)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    if said in LOSSLESS:
        assert bits(back) == bits(array)
        return
    values = array.astype(np.float64)
    span = values.max() - values.min()
    # Half a step of 255, or of float16's 11 bits; and the rounding of a float32, or of the dtype itself.
    largest = np.abs(values).max()
    allowed = span / 510 * 1.001 if said.startswith("int8") else largest / 2048 + 2.0**-24
    assert (
        np.abs(back.astype(np.float64) - values).max()
        <= allowed + largest * 4 * np.finfo(array.dtype).eps + largest * 5e-7
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("codec", LOSSY)
def test_lossy_codecs_make_activations_smaller_and_say_so(dtype: str, codec: Codec) -> None:
    array = relu(2, 16, 16, 16, dtype=dtype)
    said, back = there_and_back(array, codec, frames=2)
    expected = codec if dtype != "float16" or not codec.startswith("fp16") else codec.removeprefix("fp16").strip("+")
    assert said == (expected or "none")
    np.testing.assert_allclose(back, array, atol=0.01)


def test_zeros_stay_zeros_where_nothing_is_negative() -> None:
    array = relu(4, 1000)
    said, back = there_and_back(array, "int8+zstd", frames=4)
    assert said == "int8+zstd"
    np.testing.assert_array_equal(back[array == 0], 0)


@pytest.mark.parametrize("codec", LOSSY)
def test_what_a_frame_becomes_does_not_depend_on_those_that_it_travels_with(codec: Codec) -> None:
    frame, other = relu(1, 500), 1000 * relu(1, 500)
    alone = there_and_back(frame, codec)[1]
    stacked = there_and_back(np.concatenate([frame, other]), codec, frames=2)[1]
    assert bits(stacked[:1]) == bits(alone)


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("value", [0.0, -3.25, 1e-40, 65504.0])
def test_a_constant_tensor_is_exact(codec: Codec, value: float) -> None:
    array = np.full((2, 300), value, np.float32)
    if codec.startswith("fp16") and value == 1e-40:
        array[:] = 2.0**-24
    assert bits(there_and_back(array, codec, frames=2)[1]) == bits(array)


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_tensor_with_a_number_that_is_not_finite_is_not_quantised(strange: float, codec: Codec, dtype: str) -> None:
    array = relu(2, 500, dtype=dtype)
    array[1, 7] = strange
    said, back = there_and_back(array, codec, frames=2)
    assert said == ("zstd" if codec.endswith("zstd") else "none")
    assert bits(back) == bits(array)


@pytest.mark.parametrize(
    ("codec", "values"),
    [
        ("fp16", [65520.0, 0.0]),
        ("fp16", [-1e30, 0.0]),
        ("int8", [-3e38, 3e38]),
        ("int8", [0.0, 3.4e38]),
        ("int8", [1e-45, 3e-45]),
    ],
)
def test_numbers_out_of_a_codec_s_range_are_left_as_they_are(codec: Codec, values: list[float]) -> None:
    array = np.array(values * 100, np.float32)
    assert there_and_back(array, codec)[0] == "none"


def test_a_double_beyond_float32_is_left_as_it_is() -> None:
    array = np.array([1e300, 0.0] * 100)
    assert there_and_back(array, "int8")[0] == "none"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), (), (1,)])
def test_tensors_with_nothing_to_gain_travel_as_they_are(codec: Codec, shape: tuple[int, ...]) -> None:
    said, back = there_and_back(np.ones(shape, np.float32), codec)
    assert said in ("none", "fp16")
    assert bits(back) == bits(np.ones(shape, np.float32))


def test_noise_that_cannot_be_compressed_is_not() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 4096).astype(np.uint8)
    assert there_and_back(noise, "zstd")[0] == "none"


def test_an_array_that_is_not_contiguous_is_encoded_in_its_order() -> None:
    array = relu(40, 60)[::2, ::-1]
    for codec in get_args(Codec):
        np.testing.assert_allclose(there_and_back(array, codec)[1], array, atol=0.02)


def test_frames_are_divided_below_the_limit_of_a_message_before_they_are_encoded() -> None:
    sent = activation({"x": relu(5, 100)}, list("abcde"))
    parts = codecs.pack(sent, "int8+zstd", 800)
    assert [[frame.id for frame in part.frames] for part in parts] == [["a", "b"], ["c", "d"], ["e"]]
    back = np.concatenate([codecs.unpack(part).tensors["x"] for part in parts])
    np.testing.assert_allclose(back, sent.tensors["x"], atol=0.02)


# ---- what arrives --------------------------------------------------------------------------------------------------


def arrived(codec: str, data: bytes, *, dtype: str = "float32", shape: tuple[int, ...] = (2, 3)) -> Activation:
    """An activation that a stranger made."""
    tensor = Encoded(dtype=np.dtype(dtype), shape=shape, codec=codec, data=data)  # type: ignore[arg-type]
    got = decode(b"".join(encode_activation(activation({"x": tensor}, ["a"]))))  # type: ignore[dict-item]
    assert isinstance(got, Activation)
    return got


def ranges(*rows: tuple[float, float]) -> bytes:
    return len(rows).to_bytes(4, "little") + np.array(rows, "<f4").tobytes()


def zstd(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def test_the_bytes_that_the_documentation_describes_are_understood() -> None:
    (values,) = codecs.unpack(
        arrived("int8", ranges((1.0, 0.5), (-1.0, 2.0)) + bytes([0, 1, 2, 0, 1, 255]))
    ).tensors.values()
    np.testing.assert_array_equal(values, [[1.0, 1.5, 2.0], [-1.0, 1.0, 509.0]])
    (values,) = codecs.unpack(arrived("int8+zstd", ranges((1.0, 0.5)) + zstd(bytes(range(6))))).tensors.values()
    np.testing.assert_array_equal(values, [[1.0, 1.5, 2.0], [2.5, 3.0, 3.5]])
    (values,) = codecs.unpack(arrived("fp16+zstd", zstd(np.arange(6, dtype="<f2").tobytes()))).tensors.values()
    np.testing.assert_array_equal(values, [[0, 1, 2], [3, 4, 5]])


def many_frames(size: int) -> bytes:
    return zstd(bytes(size // 2)) + zstd(bytes(size // 2))


@pytest.mark.parametrize(
    ("codec", "data", "says"),
    [
        ("fp16", b"", "needs 12 bytes, has 0"),
        ("fp16", bytes(11), "needs 12 bytes, has 11"),
        ("fp16", bytes(24), "needs 12 bytes, has 24"),
        ("int8", b"", "ranges of 0 rows"),
        ("int8", b"\x01", "ranges of 1 rows"),
        ("int8", (0).to_bytes(4, "little") + bytes(6), "ranges of 0 rows"),
        ("int8", ranges(*[(0.0, 1.0)] * 4) + bytes(6), "ranges of 4 rows"),
        ("int8", ranges(*[(0.0, 1.0)] * 7) + bytes(6), "ranges of 7 rows"),
        ("int8", b"\xff\xff\xff\xff" + bytes(6), "ranges of 4294967295 rows"),
        ("int8", ranges((0.0, 1.0)) + bytes(5), "needs 6 bytes, has 5"),
        ("int8", ranges((0.0, 1.0)) + bytes(7), "needs 6 bytes, has 7"),
        ("int8", ranges((np.nan, 1.0)) + bytes(6), "not finite"),
        ("int8", ranges((0.0, np.inf)) + bytes(6), "not finite"),
        ("zstd", b"", "cannot be decompressed"),
        ("zstd", bytes(24), "cannot be decompressed"),
        ("zstd", zstd(bytes(23)), "another size"),
        ("zstd", zstd(bytes(1 << 20)), "another size"),
        ("zstd", zstd(bytes(24), write_content_size=False), "another size"),
        ("zstd", zstd(bytes(24))[:-1], "cannot be decompressed"),
        ("zstd", zstd(bytes(24)) + b"more", "cannot be decompressed"),
        ("zstd", zstd(bytes(24)) + zstd(bytes(24)), "cannot be decompressed"),
        ("zstd", many_frames(24), "another size"),
        ("zstd", b"\x50\x2a\x4d\x18" + bytes(20), "another size|cannot be decompressed"),
        ("fp16+zstd", zstd(bytes(24)), "another size"),
        ("int8+zstd", zstd(bytes(6)), "rows|another size"),
        ("int8+zstd", ranges((0.0, 1.0)) + zstd(bytes(7)), "another size"),
    ],
)
def test_bytes_that_a_codec_cannot_have_made_are_refused(codec: str, data: bytes, says: str) -> None:
    message = arrived(codec, data)
    with pytest.raises(WireError, match=says):
        codecs.unpack(message)


@pytest.mark.parametrize("codec", ["fp16", "int8", "fp16+zstd", "int8+zstd"])
def test_integers_that_claim_to_be_quantised_are_refused(codec: str) -> None:
    with pytest.raises(WireError, match="cannot have gone through"):
        codecs.unpack(arrived(codec, bytes(24), dtype="int32"))


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "none"])
def test_an_empty_tensor_that_claims_to_be_encoded_is_refused(codec: str) -> None:
    with pytest.raises(WireError, match="cannot have gone through"):
        codecs.unpack(arrived(codec, b"", shape=(0, 3)))


def test_a_bool_that_is_none_is_refused_after_decompression_too() -> None:
    with pytest.raises(WireError, match="0 or 1"):
        codecs.unpack(arrived("zstd", zstd(bytes([2] * 6)), dtype="bool"))


def test_a_message_that_stands_for_more_than_a_broker_takes_is_refused_before_anything_is_decoded() -> None:
    bomb = zstd(bytes(16 << 20))
    assert len(bomb) < 2000
    tensor = Encoded(dtype=np.dtype(np.uint8), shape=(16 << 20,), codec="zstd", data=bomb)
    message = b"".join(encode_activation(activation({"x": tensor}, ["a"])))  # type: ignore[dict-item]
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="stand for 16777216 bytes, at most 8388608"):
            decode(message, max_decoded_bytes=8 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200), st.sampled_from([codec for codec in CODECS if codec != "none"]), st.data())
def test_whatever_bytes_arrive_become_an_array_of_that_shape_or_one_error(
    data: bytes, codec: Codec, draw: st.DataObject
) -> None:
    good = codecs.encode(relu(4, 30), codec, frames=4)
    assert isinstance(good, Encoded)
    mutated = bytearray(bytes(good.data))
    for _ in range(draw.draw(st.integers(0, 3))):
        mutated[draw.draw(st.integers(0, len(mutated) - 1))] = draw.draw(st.integers(0, 255))
    for body in (data, bytes(mutated), bytes(good.data)[: len(data)]):
        try:
            array = codecs.decode(Encoded(dtype=np.dtype(np.float32), shape=(4, 30), codec=codec, data=body))
        except WireError:
            continue
        assert isinstance(array, np.ndarray)
        assert (array.shape, array.dtype) == ((4, 30), np.dtype(np.float32))
