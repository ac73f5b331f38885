"""When a frame without an answer is sent again: the retransmission timer of TCP (RFC 6298), with frames for segments.

R is the time from the sending of a frame to its answer, for frames of which one copy alone was under way (Karn's rule:
to which copy another's answer belongs cannot be told). Its smoothed mean and deviation make the patience,

    RTO = max(least, SRTT + 4 RTTVAR) * 2^n,    RTTVAR += (|SRTT - R| - RTTVAR) / 4,    SRTT += (R - SRTT) / 8,

where n counts how often it ran out since the last R. A frame is taken for lost when it is away for longer, and

- one that was sent later is back: a pipeline answers in order; or
- nothing at all came back for as long. Then the oldest frame alone is sent again, as a probe: on a slow link all of
  them may only be waiting, and a second copy of each would have them wait twice as long. When the probe is back there
  are two cases (as in RFC 5682). If the answer of a frame that was sent once follows, they were waiting. If none does,
  for as long as the probe took since it was sent first, they are lost, and all of them are sent again: frames that wait
  in a pipeline follow each other in less time than one of them takes from end to end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

ALPHA, BETA, DEVIATIONS = 1 / 8, 1 / 4, 4
"""RFC 6298, section 2.3."""


class Away(Protocol):
    """A frame that has no answer yet.

    Attributes:
        sent_s: when it was sent last.
        attempts: how often it was sent because patience ran out, the first time included.
        once: one copy alone can be answered, that of `sent_s`.
    """

    sent_s: float
    attempts: int
    once: bool


Frame = TypeVar("Frame", bound=Away)


class Patience:
    """Of one sender. The clock is the caller's: `now_s` is that of `sent_s`.

    Args:
        least_s: it is never less; what it is before the first answer.
        most_doublings: of RTO, at most.
    """

    def __init__(self, least_s: float, *, most_doublings: int) -> None:
        self._least_s = least_s
        self._most_doublings = most_doublings
        self._mean_s: float | None = None
        self._deviation_s = 0.0
        self._newest_back_s = 0.0  # when the newest frame that is back was sent
        self._quiet_since_s = 0.0
        self._first_probe_s = 0.0  # when the frame that became the first probe was sent first
        self._suspect_before_s: float | None = None  # frames that were sent before it may be lost
        self._settle_s: float | None = None  # a probe is back: what may be lost is, after so long a silence
        self.expired = 0
        """How often patience ran out since something that tells a time was back."""

    @property
    def seconds(self) -> float:
        """RTO."""
        return self._doubled(self.expired)

    @property
    def in_all_s(self) -> float:
        """How long a frame is away when patience with it has run out once more than it can double."""
        return sum(self._doubled(times) for times in range(self._most_doublings + 1))

    def restart(self, now_s: float) -> None:
        """All is sent again for another reason: what was suspected is over. What was measured stays."""
        self.expired = 0
        self._quiet_since_s = now_s
        self._suspect_before_s = self._settle_s = None

    def heard(self, now_s: float) -> None:
        """Something came back."""
        self._quiet_since_s = now_s

    def answered(self, frame: Away, now_s: float) -> None:
        """A frame is back."""
        self.heard(now_s)
        if frame.once:
            self._measured(max(0.0, now_s - frame.sent_s))
            self._newest_back_s = max(self._newest_back_s, frame.sent_s)
            self.expired = 0
            self._suspect_before_s = self._settle_s = None
        elif self._suspect_before_s is not None and self._settle_s is None:
            self._settle_s = max(self._least_s, now_s - self._first_probe_s)

    def lost(self, frames: Sequence[Frame], now_s: float) -> list[Frame]:
        """Those that are to be sent again now. Whoever asks does so, and has `now_s` be their `sent_s`.

        Args:
            frames: all that are away, in the order in which they were first sent.
        """
        late = [frame for frame in frames if now_s - frame.sent_s >= self._wait_s(frame)]
        overtaken = [frame for frame in late if frame.sent_s < self._newest_back_s]
        if overtaken:
            return overtaken
        quiet_s = now_s - self._quiet_since_s
        if self._suspect_before_s is not None and self._settle_s is not None:
            suspects = [frame for frame in frames if frame.sent_s < self._suspect_before_s]
            if suspects and quiet_s < self._settle_s:
                return []
            self._suspect_before_s = self._settle_s = None
            if suspects:
                return suspects
        if not late or quiet_s < self.seconds:
            return []
        if self._suspect_before_s is None:
            self._first_probe_s = late[0].sent_s
        self._suspect_before_s = self._quiet_since_s = now_s
        self.expired += 1
        return late[:1]

    def _wait_s(self, frame: Away) -> float:
        return self._doubled(max(self.expired, frame.attempts - 1))

    def _doubled(self, times: int) -> float:
        measured_s = 0.0 if self._mean_s is None else self._mean_s + DEVIATIONS * self._deviation_s
        return math.ldexp(max(self._least_s, measured_s), min(times, self._most_doublings))

    def _measured(self, seconds: float) -> None:
        if self._mean_s is None:
            self._mean_s, self._deviation_s = seconds, seconds / 2
            return
        self._deviation_s += BETA * (abs(self._mean_s - seconds) - self._deviation_s)
        self._mean_s += ALPHA * (seconds - self._mean_s)
