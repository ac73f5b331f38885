"""The rate of the links into a node, from the activations that come over them anyway.

Clocks of two machines differ, so only differences on one clock are used. Let two messages of one sender follow each
other, sent s_1, s_2 by its clock, arrived a_1, a_2 by ours. If they moved apart on the way, a_2 - a_1 > s_2 - s_1, the
second waited behind the first: the link was busy all the time between the arrivals, and carried just the second. Then

    rate = size_2 / (a_2 - a_1).

(A packet pair: Keshav, SIGCOMM 1991.) A link that is never busy shows nothing, and is no bottleneck either.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

MIN_BYTES = 32 << 10
"""Smaller messages say more of the event loop than of the link."""

BUSY = 0.7
"""Sent this much closer together than they arrived: only then were the two surely queued behind each other."""

MIN_SAMPLES = 8
MAX_SAMPLES = 64
MAX_SENDERS = 256


@dataclass(slots=True)
class _Link:
    sent_s: float
    arrived_s: float
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
            if len(self._links) < MAX_SENDERS:
                self._links[sender] = _Link(sent_s, arrived_s)
            return
        sent_gap_s, arrival_gap_s = sent_s - link.sent_s, arrived_s - link.arrived_s
        link.sent_s, link.arrived_s = sent_s, arrived_s
        if arrival_gap_s > 0 and 0 <= sent_gap_s < BUSY * arrival_gap_s:
            link.rates.append(size_bytes / arrival_gap_s)

    def bytes_per_s(self) -> dict[str, float]:
        """The median rate from each sender whose link was busy often enough to tell."""
        return {
            sender: median(link.rates) for sender, link in sorted(self._links.items()) if len(link.rates) >= MIN_SAMPLES
        }
