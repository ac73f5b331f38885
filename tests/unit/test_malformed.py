"""What is not understood is counted, and neither logs nor dead letters grow with it."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from broker import control
from broker.control import Activate, Bye
from broker.malformed import LINES_AT_ONCE, Allowance, Malformed
from broker.port import Message


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def takes(allowance: Allowance, times: int) -> list[int | None]:
    return [allowance.take() for _ in range(times)]


def test_so_many_at_once_and_then_so_many_per_second() -> None:
    clock = Clock()
    allowance = Allowance(2.0, 3, clock=clock)
    assert takes(allowance, 5) == [0, 0, 0, None, None]
    clock.now_s += 1.0
    assert takes(allowance, 4) == [2, 0, None, None]
    clock.now_s += 0.4
    assert takes(allowance, 1) == [None]
    clock.now_s += 100.0
    assert takes(allowance, 5) == [3, 0, 0, None, None]


def message(data: bytes) -> Message:
    return Message(subject="understudy._.bye", data=data)


def logged(act: Callable[[], object]) -> list[dict[str, object]]:
    with structlog.testing.capture_logs() as lines:
        act()
    return [dict(line) for line in lines]


def test_every_message_is_counted_by_its_kind_and_few_are_logged() -> None:
    malformed = Malformed(clock=Clock())

    def flood() -> None:
        for _ in range(1000):
            assert malformed.decode(message(b"nonsense"), Bye) is None
        malformed.note("frame", "x" * 10_000)

    lines = logged(flood)
    assert malformed.counts == {"bye": 1000, "frame": 1}
    assert [line["kind"] for line in lines] == ["bye"] * LINES_AT_ONCE + ["frame"]
    assert all(len(str(line["reason"])) <= 200 for line in lines)


def test_what_is_understood_is_not_counted() -> None:
    malformed = Malformed()
    bye = Bye(node="a", incarnation="1")
    assert malformed.decode(message(control.encode(bye)), Bye) == bye
    assert malformed.decode(message(control.encode(bye)), Activate) is None
    assert malformed.counts == {"activate": 1}
