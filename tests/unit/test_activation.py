"""Activations, failures and tensor frames on the wire: what comes back, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import wire
from broker.activation import (
    MAX_FRAMES,
    MAX_HOPS,
    Activation,
    Failure,
    FrameTag,
    decode,
    decode_tensor_frame,
    encode_activation,
    encode_failure,
    encode_tensor_frame,
)
from broker.errors import WireError

finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**53 - 1)
hops = st.tuples(st.text(max_size=20), counts, finite, finite)
tags = st.builds(FrameTag, st.text(min_size=1, max_size=40), st.lists(hops, max_size=3).map(tuple))


@given(counts, counts, st.lists(tags, min_size=1, max_size=5))
def test_an_activation_comes_back_as_it_was(epoch: int, cut: int, frames: list[FrameTag]) -> None:
    tensors = {"x": np.arange(2 * len(frames), dtype=np.float32), "y": np.zeros((len(frames), 0), np.int8)}
    sent = Activation(epoch=epoch, cut=cut, frames=tuple(frames), tensors=tensors)
    got = decode(b"".join(encode_activation(sent)))
    assert isinstance(got, Activation)
    assert (got.epoch, got.cut, got.frames) == (epoch, cut, tuple(frames))
    assert got.size_bytes == sent.size_bytes == 8 * len(frames)
    np.testing.assert_array_equal(got.tensors["x"], tensors["x"])


@given(counts, st.lists(tags, min_size=1, max_size=5), st.text(max_size=20), st.text(max_size=60))
def test_a_failure_comes_back_as_it_was(epoch: int, frames: list[FrameTag], code: str, reason: str) -> None:
    sent = Failure(epoch=epoch, cut=3, frames=tuple(frames), code=code, reason=reason)
    assert decode(b"".join(encode_failure(sent))) == sent


def test_a_failure_with_an_endless_reason_is_shortened() -> None:
    sent = Failure(epoch=1, cut=0, frames=(FrameTag("a"),), code="failed", reason="no" * 10_000)
    got = decode(b"".join(encode_failure(sent)))
    assert isinstance(got, Failure)
    assert got.reason == "no" * 1000


def message(tensors: dict[str, Any] | None = None, **changes: Any) -> bytes:
    """An activation's message with some keys of its header changed; None removes one."""
    header = {"kind": "activation", "epoch": 1, "cut": 0, "frames": [["a", [["node", 0, 1.5, 2]]]], **changes}
    present = {key: value for key, value in header.items() if value is not None}
    return b"".join(wire.pack(present, {"x": np.zeros(2)} if tensors is None else tensors))


def test_the_message_that_the_cases_below_change_is_valid() -> None:
    got = decode(message())
    assert got.frames == (FrameTag("a", (("node", 0, 1.5, 2.0),)),)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": None}, "kind"),
        ({"kind": "other"}, "kind 'other'"),
        ({"kind": ["activation"]}, "kind"),
        ({"epoch": None}, "'epoch'"),
        ({"epoch": -1}, "'epoch'"),
        ({"epoch": True}, "'epoch'"),
        ({"epoch": 1.0}, "'epoch'"),
        ({"epoch": 1 << 53}, "'epoch'"),
        ({"cut": None}, "'cut'"),
        ({"cut": "0"}, "'cut'"),
        ({"cut": -1}, "'cut'"),
        ({"frames": None}, "'frames'"),
        ({"frames": []}, "'frames'"),
        ({"frames": {"a": []}}, "'frames'"),
        ({"frames": [["a", []]] * (MAX_FRAMES + 1)}, "'frames'|max_array_len"),
        ({"frames": ["a"]}, "a frame is"),
        ({"frames": [["a"]]}, "a frame is"),
        ({"frames": [["a", [], 1]]}, "a frame is"),
        ({"frames": [["a", {}]]}, "a frame is"),
        ({"frames": [["a", [["node", 0, 1, 1]] * (MAX_HOPS + 1)]]}, "a frame is"),
        ({"frames": [["", []]]}, "id must be"),
        ({"frames": [["i" * 257, []]]}, "id must be"),
        ({"frames": [[7, []]]}, "id must be"),
        ({"frames": [["a", ["node"]]]}, "a hop is"),
        ({"frames": [["a", [["node", 0, 1]]]]}, "a hop is"),
        ({"frames": [["a", [["node", 0, 1, 1, 1]]]]}, "a hop is"),
        ({"frames": [["a", [[1, 0, 1, 1]]]]}, "a hop is"),
        ({"frames": [["a", [["node", 0.5, 1, 1]]]]}, "a hop is"),
        ({"frames": [["a", [["node", 0, "now", 1]]]]}, "a hop is"),
        ({"frames": [["a", [["node", 0, 1, None]]]]}, "a hop is"),
        ({"tensors": {}}, "without tensors"),
        ({"tensors": {}, "kind": "failure"}, "a code and a reason"),
        ({"tensors": {}, "kind": "failure", "code": "failed", "reason": 5}, "a code and a reason"),
        ({"tensors": {}, "kind": "failure", "code": 1, "reason": "no"}, "a code and a reason"),
    ],
)
def test_a_malformed_message_is_refused_and_the_field_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(WireError, match=says):
        decode(message(**changes))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(WireError, match="a hop is"):
        decode(message(frames=[["a", [["node", 0, 1.5, value]]]]))


@given(
    st.dictionaries(st.sampled_from(["kind", "epoch", "cut", "frames", "code", "reason"]), st.integers() | st.text())
)
def test_arbitrary_headers_are_refused_with_a_wire_error_alone(header: dict[str, Any]) -> None:
    small = {key: value if isinstance(value, str) else value % 2**60 for key, value in header.items()}
    with pytest.raises(WireError):
        decode(b"".join(wire.pack(small, {})))


@pytest.mark.parametrize("frame_id", [None, "mine", "\N{SNOWMAN}" * 256])
def test_a_tensor_frame_comes_back_with_its_id(frame_id: str | None) -> None:
    sent = {"left": np.ones((1, 2), np.float32), "right": np.zeros((1, 3), np.int64)}
    got_id, tensors = decode_tensor_frame(b"".join(encode_tensor_frame(sent, frame_id)))
    assert got_id == frame_id
    assert {name: array.tolist() for name, array in tensors.items()} == {"left": [[1, 1]], "right": [[0, 0, 0]]}


@pytest.mark.parametrize("frame_id", ["", "i" * 257, 5, ["a"]])
def test_a_tensor_frame_whose_id_is_not_usable_is_refused(frame_id: Any) -> None:
    with pytest.raises(WireError, match="id must be"):
        decode_tensor_frame(b"".join(wire.pack({"id": frame_id}, {"x": np.zeros(1)})))


def test_a_tensor_frame_without_tensors_is_refused() -> None:
    with pytest.raises(WireError, match="without tensors"):
        decode_tensor_frame(b"".join(encode_tensor_frame({}, "a")))
