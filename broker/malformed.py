"""Messages that are not understood: each is counted by its kind, some are logged, and nothing else comes of it.

Whoever may publish may flood: a log line costs more than a message, and a dead letter is one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import structlog

from broker import control
from broker.control import Control
from broker.errors import WireError
from broker.port import Message

log = structlog.get_logger("understudy.malformed")

LINES_PER_S = 1.0
LINES_AT_ONCE = 10
SHOWN_CHARACTERS = 200


class Allowance:
    """Lets `at_once` through, and from then on `per_s` (a token bucket). `clock` in seconds."""

    def __init__(self, per_s: float, at_once: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._clock = clock
        self._left = float(at_once)
        self._seen_s = clock()
        self._withheld = 0

    def take(self) -> int | None:
        """None: not now. Else how many were withheld since the last that was let through."""
        now_s = self._clock()
        self._left = min(self._at_once, self._left + (now_s - self._seen_s) * self._per_s)
        self._seen_s = now_s
        if self._left < 1:
            self._withheld += 1
            return None
        self._left -= 1
        withheld, self._withheld = self._withheld, 0
        return withheld


class Malformed:
    """Of one process. `counts`: by kind, since the start; kinds are a closed set, whatever arrives."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: dict[str, Allowance] = {}
        self.counts: Counter[str] = Counter()

    def note(self, kind: str, reason: str, *, subject: str = "", size_bytes: int = 0) -> None:
        """A message of this kind was not understood."""
        self.counts[kind] += 1
        if kind not in self._lines:
            self._lines[kind] = Allowance(LINES_PER_S, LINES_AT_ONCE, clock=self._clock)
        withheld = self._lines[kind].take()
        if withheld is not None:
            log.warning(
                "message-malformed",
                kind=kind,
                subject=subject[:SHOWN_CHARACTERS],
                reason=reason[:SHOWN_CHARACTERS],
                size_bytes=size_bytes,
                withheld=withheld,
            )

    def note_message(self, kind: str, message: Message, reason: str) -> None:
        self.note(kind, reason, subject=message.subject, size_bytes=len(message.data))

    def decode(self, message: Message, kind: type[Control]) -> Control | None:
        """The control message, or None for one that is not understood: noted under the name of its kind."""
        try:
            return control.decode(message.data, kind)
        except WireError as error:
            self.note_message(kind.__name__.lower(), message, error.reason)
            return None
