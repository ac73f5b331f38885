"""The rate of the links into a node, from the activations that come over them anyway.

Clocks of two machines differ, so only differences on one clock are used. A message sent at s by its sender's clock and
arrived at a by ours has the delay d = a - s, its time on the way plus an unknown constant; the least lately stands
for an empty link. A message whose delay exceeds that by more than the time since the arrival before it was on its way
already when that one arrived: it waited behind it, and the link carried just this message in between. Then

    rate = size / (a - a_before).

(A packet pair: Keshav, SIGCOMM 1991.) A link on which nothing ever waits shows nothing, and is no bottleneck either.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

MIN_BYTES = 32 << 10
"""Smaller messages say more of the event loop than of the link."""

MAX_DELAYS = 256
"""The least delay is that of so many messages: a clock that is set, or drifts, is followed."""

MAX_WAIT_S = 60.0
"""A longer wait is none, but a clock that was set."""

MIN_SAMPLES = 8
MAX_SAMPLES = 64
MAX_SENDERS = 256


@dataclass(slots=True)
class _Link:
    arrived_s: float
    delays: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_DELAYS))
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))


class LinkMeter:
    """Bounded: the newest `MAX_SAMPLES` pairs of each of `MAX_SENDERS` senders."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}

    def observe(self, sender: str, *, sent_s: float, arrived_s: float, size_bytes: int) -> None:
        """A message has arrived.

        Args:
            sender: the node that it came from.
            sent_s: when, by the sender's clock.
            arrived_s: when, by ours, which runs steadily.
            size_bytes: of its payload.
        """
        if size_bytes < MIN_BYTES:
            return
        link = self._links.get(sender)
        if link is None:
            if len(self._links) >= MAX_SENDERS:
                return
            link = self._links[sender] = _Link(arrived_s)
        delay_s, gap_s = arrived_s - sent_s, arrived_s - link.arrived_s
        waited_s = delay_s - min(link.delays, default=delay_s)
        if abs(waited_s) > MAX_WAIT_S:
            link.delays.clear()
        elif 0 < gap_s < waited_s:
            link.rates.append(size_bytes / gap_s)
        link.delays.append(delay_s)
        link.arrived_s = arrived_s

    def bytes_per_s(self) -> dict[str, float]:
        """The median rate from each sender whose link was busy often enough to tell."""
        return {
            sender: median(link.rates) for sender, link in sorted(self._links.items()) if len(link.rates) >= MIN_SAMPLES
        }
