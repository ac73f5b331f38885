"""The ledger: what waits and what is remembered is bounded, and nothing is answered twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.ledger import Arrival, Held, Ledger
from tests.unit.builders import BLOB


def arrival(frame_id: str, size_bytes: int = 1) -> Arrival:
    return Arrival(id=frame_id, payload=bytes(size_bytes), reply="", accepted_s=0.0)


def held(frame_id: str) -> Held:
    return Held(id=frame_id, payload=b"", tensors={}, model=BLOB, replies=[], acks=[], accepted_s=0.0, sent_s=0.0)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(queue_frames=3, queue_bytes=10, recent_frames=3, recent_bytes=100)


def test_frames_are_taken_in_the_order_in_which_they_came(ledger: Ledger) -> None:
    for frame_id in "abc":
        assert ledger.offer(arrival(frame_id))
    assert [frame.id for frame in ledger.take(2)] == ["a", "b"]
    assert [frame.id for frame in ledger.take(9)] == ["c"]
    assert ledger.take(9) == []


def test_the_queue_refuses_one_frame_too_many_and_takes_it_when_there_is_room(ledger: Ledger) -> None:
    assert [ledger.offer(arrival(frame_id)) for frame_id in "abcd"] == [True, True, True, False]
    ledger.take(1)
    assert ledger.offer(arrival("d"))


def test_the_queue_refuses_more_bytes_than_it_may_hold(ledger: Ledger) -> None:
    assert ledger.offer(arrival("a", 6))
    assert not ledger.offer(arrival("b", 5))
    assert ledger.offer(arrival("c", 4))
    assert ledger.waiting_bytes == 10


def test_a_frame_larger_than_the_whole_queue_is_taken_when_nothing_else_waits(ledger: Ledger) -> None:
    assert ledger.offer(arrival("large", 1000))
    assert not ledger.offer(arrival("small", 1))
    ledger.take(1)
    assert ledger.waiting_bytes == 0


def test_a_frame_is_released_once(ledger: Ledger) -> None:
    frame = held("a")
    ledger.hold(frame)
    assert ledger.release("a") is frame
    assert ledger.release("a") is None
    assert ledger.release("never held") is None


def test_frames_in_flight_are_listed_oldest_first_and_may_be_released_meanwhile(ledger: Ledger) -> None:
    for frame_id in "abc":
        ledger.hold(held(frame_id))
    seen = []
    for frame in ledger.oldest():
        seen.append(frame.id)
        ledger.release(frame.id)
    assert seen == ["a", "b", "c"]
    assert not ledger.held


def test_the_results_of_the_newest_frames_are_remembered(ledger: Ledger) -> None:
    for frame_id in "abcd":
        ledger.answered(frame_id, frame_id.encode())
    assert [ledger.result_of(frame_id) for frame_id in "abcd"] == [None, b"b", b"c", b"d"]


def test_results_are_forgotten_when_they_are_too_large_together(ledger: Ledger) -> None:
    for frame_id in "abc":
        ledger.answered(frame_id, bytes(45))
    assert [ledger.result_of(frame_id) is None for frame_id in "abc"] == [True, False, False]


def test_one_enormous_result_is_not_remembered_and_does_no_harm(ledger: Ledger) -> None:
    ledger.answered("large", bytes(1000))
    ledger.answered("small", b"1")
    assert ledger.result_of("large") is None
    assert ledger.result_of("small") == b"1"


def test_the_same_frame_may_be_answered_again_and_again(ledger: Ledger) -> None:
    for _ in range(10):
        ledger.answered("a", bytes(40))
    assert ledger.result_of("a") == bytes(40)


def test_what_was_answered_is_forgotten_and_what_is_held_is_not(ledger: Ledger) -> None:
    ledger.answered("a", b"1")
    ledger.hold(held("b"))
    ledger.forget()
    assert ledger.result_of("a") is None
    assert list(ledger.held) == ["b"]
    ledger.answered("c", bytes(90))
    assert ledger.result_of("c") == bytes(90)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_the_bounds_hold_whatever_comes_and_goes(steps: list[tuple[bool, int]]) -> None:
    ledger = Ledger(queue_frames=4, queue_bytes=20)
    offered: list[int] = []
    for arrives, size in steps:
        if arrives:
            if ledger.offer(arrival("a", size)):
                offered.append(size)
        else:
            taken = ledger.take(size)
            assert [len(frame.payload) for frame in taken] == offered[: len(taken)]
            del offered[: len(taken)]
        assert len(ledger.waiting) == len(offered) <= 4
        assert ledger.waiting_bytes == sum(offered) <= 20
