"""Frames per second, from a counter that is reported now and then."""

from __future__ import annotations

from collections import deque

WINDOW_S = 2.0


class RateMeter:
    """Rate over the last `WINDOW_S` seconds of reports. Bounded: older reports are dropped."""

    def __init__(self) -> None:
        self._reports: deque[tuple[float, int]] = deque(maxlen=256)
        self._source = ""

    def count(self, source: str, total: int, now_s: float) -> None:
        """`total` frames so far, according to `source` (a counter that starts again has another source)."""
        if source != self._source:
            self._source = source
            self._reports.clear()
        self._reports.append((now_s, total))
        while len(self._reports) > 2 and now_s - self._reports[0][0] > WINDOW_S:
            self._reports.popleft()

    @property
    def frames_per_s(self) -> float:
        if len(self._reports) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._reports[0], self._reports[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0
