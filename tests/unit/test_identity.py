"""Which frame a message is: the head and its standby agree without a word between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.activation import encode_tensor_frame
from broker.errors import WireError
from broker.port import Message
from stages.identity import identify, keys_of, make_id
from tests.unit.builders import numbers


def message(data: bytes, frame_id: str | None = None) -> Message:
    headers = {} if frame_id is None else {"Nats-Msg-Id": frame_id}
    return Message(subject="understudy.p.in", data=data, reply="", headers=headers)


def tensors(frame_id: str | None = None) -> bytes:
    return b"".join(encode_tensor_frame({"x": numbers(1)}, frame_id))


def test_the_header_names_the_frame_before_the_tensor_message_does() -> None:
    assert identify(message(tensors("inside"), "header")).id == "header"
    assert identify(message(tensors("inside"))).id == "inside"
    assert identify(message(tensors())).id is None


@pytest.mark.parametrize("frame_id", ["", "i" * 257])
def test_a_name_that_cannot_be_used_is_refused(frame_id: str) -> None:
    with pytest.raises(WireError):
        identify(message(b"x", frame_id))


@pytest.mark.parametrize("data", [b"", b"\x91", b"\x92\x80", b"\x93\x84garbage", tensors("x")[:-1]])
def test_what_cannot_be_read_is_a_frame_without_a_name(data: bytes) -> None:
    """Whoever decodes it says what is wrong with it."""
    assert identify(message(data)).id is None


def test_equal_frames_without_a_name_have_equal_keys_and_different_names() -> None:
    one, same, other = (identify(message(data)) for data in (b"pixels", b"pixels", b"others"))
    assert one == same
    assert one.key != other.key
    assert len({make_id(one), make_id(same), make_id(other)}) == 3


def test_a_frame_keeps_the_name_that_it_has() -> None:
    assert make_id(identify(message(b"x", "mine"))) == "mine"


@given(st.binary(max_size=50), st.none() | st.text(min_size=1, max_size=256))
def test_a_result_s_id_leads_back_to_the_frame_s_key(data: bytes, frame_id: str | None) -> None:
    """The standby head hears frames and results alone: from a result's id it must find the frame."""
    try:
        identity = identify(message(data, frame_id))
    except WireError:
        return
    assert identity.key in keys_of(make_id(identity))


def test_a_publisher_s_name_that_looks_like_one_of_ours_is_still_its_own() -> None:
    name = "0123456789abcdef-01234567"
    assert keys_of(name) == (name, "0123456789abcdef")
    assert keys_of("0123456789abcdef-0123456") == ("0123456789abcdef-0123456",)
    assert keys_of("mine") == ("mine",)
