"""What the steps of a recovery really take here, learnt from each plan and each failure, for the next estimates."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from planner.roofline import non_negative_least_squares
from recovery.estimates import Timings

GAIN = 0.3
"""How much the newest observation counts."""

LEAST_S = 1e-4
MOST_BYTES_PER_S = 1e12

LOADS = 16
"""So many of the last loads tell what the next one takes."""


class Experience:
    """Attributes:
    timings: as estimated now; before anything was seen, the defaults.
    """

    def __init__(self, timings: Timings | None = None) -> None:
        self.timings = timings or Timings()
        self._seen: set[str] = set()
        self._loads: deque[tuple[int, float]] = deque(maxlen=LOADS)

    def planned(self, seconds: float) -> None:
        """A plan was solved for."""
        self._learn("plan_s", seconds)

    def loaded(self, seconds: float, load_bytes: int) -> None:
        """All nodes loaded their parts of a plan; `load_bytes` is the most that one of them had to load. A line is laid
        through the last loads, by least squares of the relative errors: one that was slow for once counts little."""
        self._loads.append((load_bytes, max(LEAST_S, seconds)))
        sizes, spent = np.array(self._loads, np.float64).T
        fixed_s, s_per_byte = non_negative_least_squares(
            np.stack([np.ones_like(sizes), sizes], axis=1) / spent[:, None], np.ones_like(spent)
        ).tolist()
        rate = min(MOST_BYTES_PER_S, 1 / s_per_byte) if s_per_byte else MOST_BYTES_PER_S
        self.timings = replace(self.timings, load_fixed_s=max(LEAST_S, fixed_s), load_bytes_per_s=rate)

    def bridged(self, seconds: float, latency_s: float) -> None:
        """From knowing of a failure to the first answer over the bridge; `latency_s`: what a frame was estimated to
        take. What is left is the switch: telling the nodes, and sending frames again."""
        self._learn("switch_s", seconds - latency_s)

    def answered(self, latency_s: float, computing_s: float, messages: int) -> None:
        """What a frame takes on the active route, of that computing, and over how many messages. The least counts: the
        rest is waiting for other frames."""
        found = (latency_s - computing_s) / max(1, messages)
        if found < self.timings.message_s or "message_s" not in self._seen:
            self._seen.add("message_s")
            self.timings = replace(self.timings, message_s=max(LEAST_S, found))

    def _learn(self, name: str, seconds: float) -> None:
        seconds = max(LEAST_S, seconds)
        before = getattr(self.timings, name)
        value = before + GAIN * (seconds - before) if name in self._seen else seconds
        self._seen.add(name)
        self.timings = replace(self.timings, **{name: value})
