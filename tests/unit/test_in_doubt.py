"""Which answers to frames in doubt go out, and which never do."""

from __future__ import annotations

import json

import pytest

from broker.port import Message
from stages.identity import entry, mark_of
from stages.in_doubt import InDoubt

SAME = ("0123456789abcdef-00000001", "0123456789abcdef-00000002", "0123456789abcdef-00000003")
"""Ids that heads have made up for frames of the same content."""


def in_doubt(*ids: str) -> InDoubt:
    """A head of epoch 5 takes over these frames."""
    return InDoubt([mark_of(frame_id) for frame_id in ids], epoch=5)


def answer(frame_id: str) -> Message:
    return Message(subject="understudy.p.out", data=result(frame_id))


def result(frame_id: str, epoch: int = 5, error: str | None = None) -> bytes:
    return json.dumps({"id": frame_id, "epoch": epoch, "error": error}, separators=(",", ":")).encode()


def test_answers_are_withheld_until_it_is_settled_in_their_order() -> None:
    doubt = in_doubt("a", "b", "c")
    assert [doubt.takes(frame_id, answer(frame_id)) for frame_id in ("b", "a", "new")] == [True, True, False]
    assert doubt.ids == ["b", "a"]
    assert [*doubt.settle().values()] == [answer("b"), answer("a")]
    assert not doubt.takes("c", answer("c"))


@pytest.mark.parametrize("comes_first", [True, False])
def test_a_frame_that_the_lost_head_has_answered_is_not_answered_again(comes_first: bool) -> None:
    doubt = in_doubt("a", "b")
    if comes_first:
        doubt.heard(result("a", epoch=4))
    assert doubt.takes("a", answer("a"))
    assert doubt.takes("b", answer("b"))
    if not comes_first:
        doubt.heard(result("a", epoch=4))
    assert [*doubt.settle().values()] == [answer("b")]
    assert doubt.late == 1


def test_a_frame_of_the_same_content_is_another_one() -> None:
    doubt = in_doubt(SAME[0])
    assert doubt.takes(SAME[1], answer(SAME[1]))
    assert not doubt.takes(SAME[2], answer(SAME[2]))  # published after the take-over
    doubt.heard(result(SAME[0], epoch=4))
    assert [*doubt.settle().values()] == []


def test_its_own_results_and_what_is_no_result_change_nothing() -> None:
    doubt = in_doubt("a", "b")
    assert doubt.takes("a", answer("a"))
    for data in (result("a", epoch=5), result("b", epoch=6), b"nonsense", b"{}", b"[1]", b'{"id":"a","epoch":"4"}'):
        doubt.heard(data)
    assert [*doubt.settle().values()] == [answer("a")]
    assert doubt.late == 0


def test_narrowed_it_lets_go_what_cannot_have_been_answered() -> None:
    doubt = in_doubt("a", "b", "c", "d")
    for frame_id in ("a", "b"):
        assert doubt.takes(frame_id, answer(frame_id))
    assert [*doubt.narrow([entry("b"), entry("d"), entry("of long ago")]).values()] == [answer("a")]
    assert [doubt.takes(frame_id, answer(frame_id)) for frame_id in ("c", "d")] == [False, True]
    assert [*doubt.settle().values()] == [answer("b"), answer("d")]


def test_narrowed_it_counts_frames_of_the_same_content() -> None:
    doubt = in_doubt(*SAME[:2])
    assert all(doubt.takes(frame_id, answer(frame_id)) for frame_id in SAME[:2])
    assert [*doubt.narrow([entry(SAME[2])]).values()] == [answer(SAME[1])]


def test_narrowed_it_keeps_errors_which_a_head_says_by_itself() -> None:
    doubt = in_doubt("a")
    refusal = Message(subject="understudy.p.out", data=result("a", error="bad-message"))
    assert doubt.takes("a", refusal)
    assert doubt.narrow([]) == {}
    assert doubt.settle() == {"a": refusal}


def test_what_the_lost_head_has_answered_is_not_answered_after_it_was_settled_either() -> None:
    doubt = in_doubt("a")
    doubt.heard(result("a", epoch=4))
    assert doubt.settle() == {}
    assert doubt.takes("a", answer("a"))
    assert not doubt.takes("a", answer("a"))
