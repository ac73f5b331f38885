"""The wire format: what is packed comes back, without a copy, and nothing that arrives can do harm."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from broker import wire
from broker.errors import WireError

SMALL_PEAK_BYTES = 4 << 20


def joined(header: dict[str, Any], tensors: dict[str, Any]) -> bytes:
    return b"".join(wire.pack(header, tensors))


def document(*specs: Any, bins: tuple[bytes, ...] = (), **header: Any) -> bytes:
    """What a stranger's client would write, with plain msgpack and no padding."""
    packed = msgpack.packb([{"v": 1, "tensors": list(specs), **header}, *bins])
    assert isinstance(packed, bytes)
    return packed


def values(dtype: str, *shape: int) -> np.ndarray[Any, Any]:
    return (np.arange(int(np.prod(shape))).reshape(shape) % 2).astype(dtype)


@pytest.mark.parametrize("dtype", wire.DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3, 5), (0,), (4, 0, 2)])
def test_every_dtype_and_shape_comes_back_equal(dtype: str, shape: tuple[int, ...]) -> None:
    sent = values(dtype, *shape)
    header, tensors = wire.unpack(joined({"kind": "test"}, {"x": sent}))
    assert header == {"v": 1, "kind": "test"}
    assert tensors["x"].dtype == sent.dtype
    assert tensors["x"].shape == shape
    np.testing.assert_array_equal(tensors["x"], sent)


@given(hnp.arrays(st.sampled_from([np.dtype(name) for name in wire.DTYPES]), hnp.array_shapes(min_dims=0, max_dims=5)))
def test_any_numbers_come_back_bit_by_bit(sent: np.ndarray[Any, Any]) -> None:
    _, tensors = wire.unpack(joined({}, {"x": sent}))
    assert tensors["x"].tobytes() == sent.tobytes()


@pytest.mark.parametrize(
    "strange",
    [
        np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-1],
        np.asfortranarray(np.arange(24, dtype=np.int16).reshape(4, 6)),
        np.arange(24, dtype=np.int64).reshape(2, 3, 4).transpose(2, 0, 1),
        np.broadcast_to(np.float64(2.5), (3, 2)),
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.arange(6, dtype=">i8")[::-1],
        np.array(7, dtype=">u2"),
    ],
    ids=["reversed", "fortran", "transposed", "broadcast", "big-endian", "big-endian reversed", "big-endian scalar"],
)
def test_arrays_of_any_layout_and_byte_order_come_back_with_the_same_values(strange: np.ndarray[Any, Any]) -> None:
    _, tensors = wire.unpack(joined({}, {"x": strange}))
    np.testing.assert_array_equal(tensors["x"], strange)
    assert tensors["x"].dtype == strange.dtype.newbyteorder("<")


@pytest.mark.parametrize("count", [0, 1, 2, 14, 15, 16, 17, wire.MAX_TENSORS])
def test_several_tensors_keep_their_names_and_order(count: int) -> None:
    sent = {f"tensor {number}": np.full((number % 5, 3), number, np.float32) for number in range(count)}
    _, tensors = wire.unpack(joined({}, sent))
    assert list(tensors) == list(sent)
    for name, array in sent.items():
        np.testing.assert_array_equal(tensors[name], array)


@given(st.text(max_size=40), st.integers(0, 5))
def test_the_first_tensor_is_read_in_place_whatever_the_header_is_long(text: str, size: int) -> None:
    data = joined({"text": text}, {"x": np.arange(size + 1, dtype=np.float64), "y": np.arange(3, dtype=np.uint8)})
    header, tensors = wire.unpack(data)
    assert header["text"] == text
    assert all(np.shares_memory(tensor, np.frombuffer(data, np.uint8)) for tensor in tensors.values())
    assert not tensors["x"].flags.writeable


@pytest.mark.parametrize("receive", [bytes, bytearray, memoryview])
def test_a_tensor_is_read_in_place_from_any_kind_of_buffer(receive: Any) -> None:
    data = receive(joined({}, {"x": np.arange(1000, dtype=np.float32)}))
    _, tensors = wire.unpack(data)
    assert np.shares_memory(tensors["x"], np.frombuffer(data, np.uint8))


def test_a_tensor_that_is_not_aligned_is_still_read_right() -> None:
    sent = {"bytes": np.arange(3, dtype=np.uint8), "x": np.arange(5, dtype=np.float64)}
    _, tensors = wire.unpack(joined({}, sent))
    assert tensors["x"].flags.aligned
    np.testing.assert_array_equal(tensors["x"], sent["x"])


def test_what_is_sent_refers_to_the_memory_of_contiguous_arrays() -> None:
    first, second = np.arange(100_000, dtype=np.float32), np.arange(100_000, dtype=np.int64).reshape(100, -1)
    parts = wire.pack({}, {"first": first, "second": second})
    assert np.shares_memory(np.frombuffer(parts[1], np.uint8), first)
    assert np.shares_memory(np.frombuffer(parts[3], np.uint8), second)
    assert wire.size_of(parts) == len(b"".join(parts))


def test_packing_and_unpacking_a_large_tensor_allocates_next_to_nothing() -> None:
    array = np.zeros(4 << 20, np.float32)
    data = joined({}, {"x": array})
    tracemalloc.start()
    try:
        wire.pack({}, {"x": array})
        wire.unpack(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < array.nbytes / 4


@pytest.mark.parametrize("count", [0, 1, 3, 15, 40])
def test_a_plain_msgpack_reader_sees_a_map_and_then_bytes(count: int) -> None:
    sent = {str(number): np.arange(number, dtype="<i4") for number in range(count)}
    header, *bins = msgpack.unpackb(joined({"id": "a"}, sent))
    assert header["v"] == 1
    assert header["id"] == "a"
    assert header["tensors"] == [[name, "int32", [array.size]] for name, array in sent.items()]
    assert bins == [array.tobytes() for array in sent.values()]


@pytest.mark.parametrize("size", [0, 3, 255, 256, 65_535, 65_536])
def test_a_plain_msgpack_writer_is_understood_without_padding(size: int) -> None:
    sent = (np.arange(size) % 251).astype(np.uint8)
    data = document(["x", "uint8", [size]], ["y", "float32", [2]], bins=(sent.tobytes(), b"\0" * 8), id="mine")
    header, tensors = wire.unpack(data)
    assert header["id"] == "mine"
    np.testing.assert_array_equal(tensors["x"], sent)
    np.testing.assert_array_equal(tensors["y"], [0, 0])


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([object()]), np.zeros(2, "c8"), np.zeros(2, "M8[s]")])
def test_what_cannot_be_sent_is_refused_with_its_name_and_dtype(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(WireError, match=r"'odd'.*cannot be sent"):
        wire.pack({}, {"odd": array})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"hello", "not a msgpack document"),
        (b"\x90", "an array of 0 items"),
        (msgpack.packb(["text"]), "header map"),
        (msgpack.packb([{}]), "version None"),
        (msgpack.packb([{"v": 2, "tensors": []}]), "version 2"),
        (msgpack.packb([{"v": 1}]), "list the 0 tensors"),
        (msgpack.packb([{"v": 1, "tensors": {}}]), "list the 0 tensors"),
        (document(["x", "uint8", [1]]), "list the 0 tensors"),
        (document(bins=(b"1",)), "list the 1 tensors"),
        (document(["x", "uint8"], bins=(b"1",)), r"\[name, dtype, shape\]"),
        (document("x", bins=(b"1",)), r"\[name, dtype, shape\]"),
        (document(["", "uint8", [1]], bins=(b"1",)), "name must be"),
        (document([7, "uint8", [1]], bins=(b"1",)), "name must be"),
        (document(["n" * 1025, "uint8", [1]], bins=(b"1",)), "name must be"),
        (document(["x", "object", [1]], bins=(b"1",)), "dtype 'object'"),
        (document(["x", ["uint8"], [1]], bins=(b"1",)), "dtype"),
        (document(["x", "<f4", [1]], bins=(b"1234",)), "dtype '<f4'"),
        (document(["x", "uint8", 1], bins=(b"1",)), "shape"),
        (document(["x", "uint8", [-1]], bins=(b"1",)), "shape"),
        (document(["x", "uint8", [True]], bins=(b"1",)), "shape"),
        (document(["x", "uint8", [1.0]], bins=(b"1",)), "shape"),
        (document(["x", "uint8", [1 << 40]], bins=(b"1",)), "shape"),
        (document(["x", "uint8", [1] * 17], bins=(b"1",)), "shape"),
        (document(["x", "uint8", [2]], bins=(b"1",)), "needs 2 bytes, has 1"),
        (document(["x", "uint8", [0]], bins=(b"1",)), "needs 0 bytes, has 1"),
        (document(["x", "float32", [(1 << 40) - 1] * 16], bins=(b"1",)), "needs"),
        (document(["x", "float32", [0, (1 << 40) - 1, (1 << 40) - 1]], bins=(b"",)), "'x'"),
        (document(["x", "bool", [2]], bins=(b"\x01\x02",)), "bool is 0 or 1"),
        (document(["x", "uint8", [1]], ["x", "uint8", [1]], bins=(b"1", b"2")), "there twice"),
        (document(["x", "uint8", [1]], bins=(b"1",)) + b"!", "1 bytes follow"),
        (msgpack.packb([{"v": 1, "tensors": [["x", "uint8", [1]]]}, "1"]), "must be a msgpack bin"),
        (msgpack.packb([{"v": 1, "tensors": [["x", "uint8", [1]]]}, [1]]), "must be a msgpack bin"),
        (msgpack.packb([{1: 2, "v": 1, "tensors": []}]), "not a msgpack document"),
        (msgpack.packb([{"v": 1, "tensors": [], "x": msgpack.ExtType(5, b"data")}]), "not a msgpack document"),
        (msgpack.packb([{"v": 1, "tensors": [], "x": msgpack.Timestamp(1)}]), "not a msgpack document"),
        (msgpack.packb([{"v": 1, "tensors": [], "x": "y" * 70_000}]), "not a msgpack document"),
        (msgpack.packb([{"v": 1, "tensors": [], "x": ["y" * 60_000] * 20}]), "exceeds 1048576 bytes"),
        (
            msgpack.packb([{"v": 1, "tensors": [], "x": b"\xff".decode("latin1")}]).replace(b"\xc3\xbf", b"\xff\xff"),
            "utf",
        ),
        (b"\xdc\x01\x02" + b"\xc0" * 258, "an array of 258 items"),
    ],
)
def test_a_document_that_breaks_a_rule_is_refused_and_the_rule_is_named(data: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        wire.unpack(data)


def test_a_document_that_ends_anywhere_too_early_is_refused() -> None:
    data = joined({"kind": "test", "frames": [["id", []]]}, {"x": np.arange(20, dtype=np.int16), "y": np.zeros(3)})
    for end in range(len(data)):
        with pytest.raises(WireError):
            wire.unpack(data[:end])


def test_a_long_header_is_read_though_it_comes_in_more_than_one_piece() -> None:
    frames = [[f"frame {number}" * 20, []] for number in range(1024)]
    header, tensors = wire.unpack(joined({"frames": frames}, {"x": np.arange(4, dtype=np.float32)}))
    assert header["frames"] == frames
    np.testing.assert_array_equal(tensors["x"], [0, 1, 2, 3])


def peak_of_refusing(data: bytes) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            wire.unpack(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\x92\xdf\xff\xff\xff\xff",
        b"\x92\xdd\xff\xff\xff\xff",
        b"\x91\x81\xa1x\xdd\xff\xff\xff\xff",
        b"\x91\x81\xa1x\xdf\x7f\xff\xff\xff",
        b"\x91\x81\xdb\xff\xff\xff\xff",
        b"\x91\x81\xa1x\xc6\xff\xff\xff\xff",
        b"\x91\x81\xa1x\xc9\xff\xff\xff\xff\x01",
        b"\x91" * 100_000,
        b"\x91" + b"\x81\xa1x" * 50_000,
        b"\x92\x81\xa1x" + b"\xdc\x10\x00" + b"\x91" * 4096,
        document(["x", "float64", [(1 << 40) - 1]], bins=(b"",)),
        document(["x", "uint8", [5]], bins=(b"",))[:-2] + b"\xc6\xff\xff\xff\xff",
    ],
    ids=lambda bomb: f"{bomb[:10].hex()} of {len(bomb)}",
)
def test_a_few_bytes_that_announce_much_are_refused_without_allocating_it(bomb: bytes) -> None:
    assert peak_of_refusing(bomb) < SMALL_PEAK_BYTES


def test_nested_arrays_that_announce_much_are_refused_without_allocating_it() -> None:
    assert peak_of_refusing(b"\x91\x81\xa1x" + b"\xdc\xff\xff" * 900) < SMALL_PEAK_BYTES


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(WireError):
        wire.unpack(data)


nested = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(nested, max_size=4))
def test_arbitrary_msgpack_documents_are_read_or_refused_and_nothing_else(items: list[Any]) -> None:
    with contextlib.suppress(WireError):
        wire.unpack(msgpack.packb(items))


@given(st.lists(nested, max_size=3), nested, st.binary(max_size=20))
def test_arbitrary_descriptions_of_a_tensor_are_read_or_refused_and_nothing_else(
    spec: list[Any], version: Any, data: bytes
) -> None:
    for header in ({"v": 1, "tensors": [spec]}, {"v": 1, "tensors": spec}, {"v": version, "tensors": [spec]}):
        with contextlib.suppress(WireError):
            wire.unpack(msgpack.packb([header, data]))


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(-3, 3),
)
def test_a_damaged_document_is_read_or_refused_and_nothing_else(damage: list[tuple[int, int]], shift: int) -> None:
    data = bytearray(
        joined({"kind": "test"}, {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.ones(2, bool)})
    )
    for place, value in damage:
        data[place % len(data)] = value
    damaged = bytes(data[:shift] if shift < 0 else data + bytes(shift))
    try:
        _, tensors = wire.unpack(damaged)
    except WireError:
        return
    assert all(tensor.dtype.name in wire.DTYPES for tensor in tensors.values())


def test_names_are_listed_for_people() -> None:
    assert wire.names(["a", "b"]) == "'a', 'b'"
    assert wire.names([]) == "none"


ENCODED = wire.Encoded(dtype=np.dtype(np.float32), shape=(2, 3), codec="int8", data=b"whatever it is")


def test_an_encoded_tensor_comes_back_as_it_was_beside_others() -> None:
    data = joined({}, {"plain": values("int8", 3), "x": ENCODED})
    header, tensors = wire.unpack_carried(data)
    assert header == {"v": 1}
    got = tensors["x"]
    assert isinstance(got, wire.Encoded)
    assert (got.dtype, got.shape, got.codec, bytes(got.data)) == (ENCODED.dtype, (2, 3), "int8", b"whatever it is")
    assert (got.nbytes, got.decoded_bytes) == (14, 24)
    np.testing.assert_array_equal(tensors["plain"], values("int8", 3))


def test_a_message_without_an_encoded_tensor_does_not_name_codecs() -> None:
    assert b"codecs" not in joined({}, {"x": values("int8", 3)})


def test_a_frame_may_not_hold_an_encoded_tensor() -> None:
    with pytest.raises(WireError, match="'x' went through codec int8, and none is expected"):
        wire.unpack(joined({}, {"x": ENCODED}))


@pytest.mark.parametrize("raw", ["int8", [], ["int8", "int8"], {"x": "int8"}, 7])
def test_codecs_that_are_not_one_for_each_tensor_are_refused(raw: Any) -> None:
    with pytest.raises(WireError, match="one codec for each of the 1 tensors"):
        wire.unpack_carried(document(["x", "int8", [1]], bins=(b"a",), codecs=raw))


@pytest.mark.parametrize("codec", ["gzip", "", None, 1, ["int8"], "zstd+int8"])
def test_a_codec_that_is_not_known_is_refused(codec: Any) -> None:
    with pytest.raises(WireError, match="is not known: one of none, zstd"):
        wire.unpack_carried(document(["x", "int8", [1]], bins=(b"a",), codecs=[codec]))


def test_codecs_of_none_are_the_same_as_none() -> None:
    _, tensors = wire.unpack(document(["x", "int8", [1]], bins=(b"a",), codecs=["none"]))
    assert tensors["x"] == [97]
