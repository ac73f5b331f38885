"""Results in the order of their frames, for each publisher."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stages.order import Ordering
from stages.outlet import Answer


def answer(frame_id: str) -> Answer:
    return Answer(id=frame_id, result=frame_id.encode())


def ids(answers: list[Answer]) -> list[str]:
    return [answer.id for answer in answers]


def test_an_answer_waits_for_those_before_it() -> None:
    order = Ordering()
    for frame_id in "abc":
        order.arrived(frame_id, "")
    assert ids(order.ready([answer("b")])) == []
    assert order.waiting == 1
    assert ids(order.ready([answer("a")])) == ["a", "b"]
    assert ids(order.ready([answer("c")])) == ["c"]
    assert order.waiting == 0


def test_publishers_do_not_wait_for_each_other() -> None:
    order = Ordering()
    order.arrived("a1", "a")
    order.arrived("b1", "b")
    order.arrived("a2", "a")
    assert ids(order.ready([answer("a2"), answer("b1")])) == ["b1"]
    assert ids(order.ready([answer("a1")])) == ["a1", "a2"]


def test_an_answer_to_a_frame_that_never_arrived_does_not_wait() -> None:
    order = Ordering()
    order.arrived("a", "")
    assert ids(order.ready([answer("refused")])) == ["refused"]


def test_a_frame_that_arrives_again_keeps_its_place() -> None:
    order = Ordering()
    for frame_id in ("a", "b", "a"):
        order.arrived(frame_id, "")
    assert ids(order.ready([answer("b")])) == []
    assert ids(order.ready([answer("a")])) == ["a", "b"]


@given(st.lists(st.sampled_from("pqr"), max_size=30), st.data())
def test_each_answer_comes_once_and_in_order_whatever_order_they_are_made_in(
    publishers: list[str], data: st.DataObject
) -> None:
    order = Ordering()
    arrived = [(f"{publisher}{number}", publisher) for number, publisher in enumerate(publishers)]
    for frame_id, publisher in arrived:
        order.arrived(frame_id, publisher)
    done = [frame_id for frame_id, _ in arrived]
    done = data.draw(st.permutations(done))
    out = [frame_id for made in done for frame_id in ids(order.ready([answer(made)]))]
    for publisher in "pqr":
        assert [i for i in out if i[0] == publisher] == [i for i, owner in arrived if owner == publisher]
    assert order.waiting == 0
