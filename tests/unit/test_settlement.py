"""Who can have sent on what a head has answered lately, as a standby head has seen it."""

from __future__ import annotations

import pytest

from broker.control import Route
from stages.settlement import DRAINED_S, SEEN_S, SeenRoutes
from tests.unit.builders import route


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def way(epoch: int, *nodes: str, head: str = "h") -> Route:
    """Each node runs one block."""
    return route(epoch, *((node, f"stage:{i}-{i + 1}") for i, node in enumerate(nodes)), head=head)


@pytest.mark.parametrize(
    ("nodes", "sender"),
    [(("h", "a", "b"), "b"), (("a", "b", "h"), "b"), (("h", "a", "h", "b", "h"), "b"), (("a",), "a"), (("h",), "")],
    ids=str,
)
def test_what_is_answered_comes_from_the_last_node_before_the_heads(nodes: tuple[str, ...], sender: str) -> None:
    assert way(1, *nodes).node_before_head == sender


def test_the_senders_of_a_route_are_known_after_a_while(clock: Clock) -> None:
    seen = SeenRoutes(clock)
    assert not seen.senders("h")
    seen.note(way(1, "h", "a"))
    seen.note(way(1, "h", "a"))
    assert not seen.senders("h")
    clock.now_s += SEEN_S
    assert seen.senders("h") == {"a"}


def test_frames_may_be_on_routes_that_were_replaced_lately(clock: Clock) -> None:
    seen = SeenRoutes(clock)
    for epoch, last in enumerate("abc", start=1):
        seen.note(way(epoch, "h", last))
        clock.now_s += SEEN_S
    assert seen.senders("h") == {"a", "b", "c"}
    clock.now_s += DRAINED_S - SEEN_S - 0.1  # 35 s after a was replaced, 30 s after b
    assert seen.senders("h") == {"b", "c"}
    seen.note(way(4, "h", "d"))
    clock.now_s += DRAINED_S
    assert seen.senders("h") == {"d"}


def test_where_the_heads_node_did_everything_nobody_can_say(clock: Clock) -> None:
    seen = SeenRoutes(clock)
    seen.note(way(1, "h"))
    clock.now_s += SEEN_S
    assert not seen.senders("h")
    seen.note(way(2, "h", "a"))
    assert not seen.senders("h")  # frames of before may still be under way
    clock.now_s += DRAINED_S
    assert seen.senders("h") == {"a"}


def test_routes_of_another_head_say_nothing(clock: Clock) -> None:
    seen = SeenRoutes(clock)
    seen.note(way(1, "a", "b", head="g"))
    clock.now_s += SEEN_S
    assert not seen.senders("h")
    seen.note(way(2, "a", "c", head="h"))
    assert seen.senders("h") == {"c"}
