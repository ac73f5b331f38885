"""The standby head: of all that was published it keeps what is not answered, within bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.activation import FrameTag, encode_tensor_frame
from broker.port import Message
from stages.identity import digest, identify, make_id
from stages.results import Provenance, result_json
from stages.standby_head import StandbyHead
from tests.unit.builders import numbers


def frame(data: bytes = b"pixels", frame_id: str | None = None, reply: str = "") -> Message:
    headers = {} if frame_id is None else {"Nats-Msg-Id": frame_id}
    return Message(subject="understudy.p.in", data=data, reply=reply, headers=headers)


def result(frame_id: str, *, error: tuple[str, str] | None = None, **answer: Any) -> Message:
    data = result_json(FrameTag(frame_id), answer, Provenance(epoch=1), 1.0, error)
    return Message(subject="understudy.p.out", data=data, reply="", headers={})


def standby(frames: int = 100, size_bytes: int = 1 << 20, **bounds: Any) -> StandbyHead:
    return StandbyHead(frames=frames, size_bytes=size_bytes, **bounds)


async def given_frames(head: StandbyHead, *ids: str) -> None:
    for frame_id in ids:
        await head.on_frame(frame(frame_id.encode(), frame_id))


def kept(head: StandbyHead) -> list[str]:
    return [message.headers["Nats-Msg-Id"] for message in head.frames()]


async def test_frames_are_kept_in_order_until_their_results_are_out() -> None:
    head = standby()
    await given_frames(head, "a", "b", "c")
    await head.on_result(result("b"))
    assert kept(head) == ["a", "c"]
    assert len(head) == 2


async def test_a_frame_is_kept_as_it_was_published_with_its_reply_subject() -> None:
    head = standby()
    published = frame(b"pixels", "a", reply="answer.1")
    await head.on_frame(published)
    assert head.frames() == [published]


async def test_a_frame_whose_answer_is_an_error_is_answered_and_its_result_is_not_remembered() -> None:
    head = standby()
    await given_frames(head, "a", "b")
    await head.on_result(result("a", error=("timeout", "no answer")))
    await head.on_result(result("b"))
    assert kept(head) == []
    assert [frame_id for frame_id, _ in head.results()] == ["b"]


async def test_a_result_is_remembered_byte_for_byte() -> None:
    head = standby()
    answer = result("a", class_index=7)
    await head.on_result(answer)
    assert list(head.results()) == [("a", answer.data)]


async def test_a_frame_published_again_is_kept_once_and_not_at_all_after_its_answer() -> None:
    head = standby()
    await given_frames(head, "a", "a", "b")
    assert kept(head) == ["a", "b"]
    await head.on_result(result("a"))
    await given_frames(head, "a")
    assert kept(head) == ["b"]


async def test_equal_frames_without_a_name_are_as_many_frames_as_were_published() -> None:
    head = standby()
    for _ in range(3):
        await head.on_frame(frame())
    assert len(head) == 3
    for left in (2, 1, 0):
        await head.on_result(result(make_id(identify(frame()))))
        assert len(head) == left


async def test_the_oldest_of_equal_frames_is_the_one_that_was_answered() -> None:
    head = standby()
    for reply in ("answer.1", "answer.2"):
        await head.on_frame(frame(reply=reply))
    await head.on_result(result(make_id(identify(frame()))))
    assert [message.reply for message in head.frames()] == ["answer.2"]


async def test_the_name_inside_a_tensor_message_counts() -> None:
    head = standby()
    await head.on_frame(frame(b"".join(encode_tensor_frame({"x": numbers(1)}, "inside"))))
    await head.on_result(result("inside"))
    assert len(head) == 0


NAMES = ['say "hi"', "back\\slash", 'both \\" of them', '","error":null}', "ünï ☃", "\n\t\x01", "{}", "'", "a" * 256]


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_that_json_escapes_is_the_same_name(name: str) -> None:
    head = standby()
    await given_frames(head, name, "other")
    await head.on_result(result(name))
    assert kept(head) == ["other"]
    assert [frame_id for frame_id, _ in head.results()] == [name]


@given(st.text(min_size=1, max_size=256))
async def test_any_name_is_found_in_its_result(name: str) -> None:
    if "\ud800" <= max(name) <= "\udfff" or any("\ud800" <= letter <= "\udfff" for letter in name):
        return  # no text in UTF-8
    head = standby()
    await head.on_frame(frame(b"x", name))
    before = len(head)
    await head.on_result(result(name))
    assert before - len(head) == before


async def test_a_result_that_another_encoder_wrote_is_understood() -> None:
    head = standby()
    await given_frames(head, "a")
    data = json.dumps({"error": None, "id": "a"}, indent=1).encode()
    await head.on_result(Message(subject="understudy.p.out", data=data, reply="", headers={}))
    assert kept(head) == []


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"7", b'{"id":7}', b'{"id":"a', b'{"id":"\\', b"\xff\xfe", b'{"id":null}']
)
async def test_what_is_no_result_changes_nothing(data: bytes) -> None:
    head = standby()
    await given_frames(head, "a")
    await head.on_result(Message(subject="understudy.p.out", data=data, reply="", headers={}))
    assert kept(head) == ["a"]
    assert list(head.results()) == []


async def test_a_result_of_a_frame_that_was_never_seen_is_no_harm() -> None:
    head = standby()
    await head.on_result(result("ghost"))
    assert len(head) == 0


async def test_a_frame_that_the_head_refuses_is_not_kept() -> None:
    head = standby()
    await head.on_frame(frame(b"x", "i" * 257))
    assert len(head) == 0


async def test_above_its_bound_of_frames_the_oldest_are_let_go() -> None:
    head = standby(frames=2)
    await given_frames(head, "a", "b", "c")
    assert kept(head) == ["b", "c"]
    await given_frames(head, "a")  # its publisher asks again
    assert kept(head) == ["c", "a"]


async def test_above_its_bound_of_bytes_the_oldest_are_let_go_and_one_frame_is_always_kept() -> None:
    head = standby(size_bytes=10)
    for name, size in (("a", 4), ("b", 5), ("c", 3)):
        await head.on_frame(frame(bytes(size), name))
    assert kept(head) == ["b", "c"]
    await head.on_frame(frame(bytes(1000), "large"))
    assert kept(head) == ["large"]


async def test_the_results_that_are_remembered_are_the_newest_within_bounds() -> None:
    head = standby(recent_frames=2)
    for name in "abc":
        await head.on_result(result(name))
    assert [frame_id for frame_id, _ in head.results()] == ["b", "c"]
    size = len(result("a").data)
    head = standby(recent_bytes=2 * size)
    for name in "abcca":
        await head.on_result(result(name))
    assert [frame_id for frame_id, _ in head.results()] == ["c", "a"]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["", "", "a", "b", "c"]), st.integers(0, 9)), max_size=60))
async def test_the_bounds_hold_whatever_comes_and_goes(steps: list[tuple[bool, str, int]]) -> None:
    head = standby(frames=4, size_bytes=20, recent_frames=2)
    for published, name, size in steps:
        message = frame(bytes(size), name or None)
        await (head.on_frame(message) if published else head.on_result(result(make_id(identify(message)))))
        sizes = [len(held.data) for held in head.frames()]
        assert len(sizes) == len(head) <= 4
        assert sum(sizes) <= 20
        assert len(list(head.results())) <= 2


async def test_frames_with_a_name_whose_results_were_missed_are_let_go() -> None:
    now_s = 0.0
    head = StandbyHead(frames=100, size_bytes=1 << 20, clock=lambda: now_s)
    await head.on_frame(frame(b"nameless"))
    await given_frames(head, "a", "b")
    now_s = 5.0
    await given_frames(head, "c")
    assert head.named(before_s=5.0) == [digest("a"), digest("b")]
    assert head.named() == [digest("a"), digest("b"), digest("c")]
    assert head.answered([digest("b"), digest("unknown")]) == 1
    assert [message.data for message in head.frames()] == [b"nameless", b"a", b"c"]
