"""How many frames are in flight: so many that every step has its frame, and that none waits for long.

What is in flight beyond one frame per step waits before the slowest step, as a rule a link. That is no use, and does
harm where it is seconds: other messages wait behind it, and a broker that hears nothing through a full link for fifteen
seconds takes its neighbour for dead and forgets all that it holds for it. As in TCP Vegas (Brakmo and Peterson, IEEE
JSAC 13(8), 1995) the time R from sending to answer tells, next to the least R, of a frame that found the way free.

    R <= least R + QUEUE_S:    one frame more for each answer (once it had to be fewer: for each window of answers)
    otherwise:                 fewer, by the factor (least R + QUEUE_S) / R, once in each R

The least R is not known before a frame is back, so the number begins with about one frame for each stage, and it is
never less than that.
"""

from __future__ import annotations

import math

QUEUE_S = 2.0


class Pace:
    """Of one way of frames. `frames` are in flight at most: `first` in the beginning and at least, `most` at most."""

    def __init__(self, *, first: int, most: int) -> None:
        self._first = min(first, most)
        self._most = most
        self._size = float(self._first)
        self._least_s = math.inf
        self._hold_until_s = -math.inf  # what is answered before was sent when more were in flight
        self._was_fewer = False

    @property
    def frames(self) -> int:
        return int(self._size)

    def answered(self, *, sent_s: float, now_s: float) -> None:
        """A frame of this way is back that was sent once."""
        seconds = now_s - sent_s
        self._least_s = min(self._least_s, seconds)
        enough_s = self._least_s + QUEUE_S
        if seconds <= enough_s:
            self._size = min(self._most, self._size + (1 / self._size if self._was_fewer else 1))
        elif sent_s >= self._hold_until_s:
            self._size = max(self._first, self._size * enough_s / seconds)
            self._hold_until_s = now_s
            self._was_fewer = True
