"""What a connection was given to publish and the broker does not have yet. It outlives the connection that is lost."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

MAX_SENDS = 3
"""A message with which the connection was lost so often may be the reason for it: it is given up."""


@dataclass(slots=True, kw_only=True)
class Outgoing:
    """One message. `again`: if it is not confirmed when the connection is lost, it is sent once more on the next."""

    topic: str
    payload: bytes
    qos: int
    retain: bool = False
    again: bool = True
    sends: int = 0

    @property
    def size_bytes(self) -> int:
        return len(self.topic) + len(self.payload)


class Outbox:
    """`waiting` are not sent yet; the others wait for the broker's confirmation, or for the socket to take them."""

    def __init__(self) -> None:
        self.waiting: deque[Outgoing] = deque()
        self._sent: dict[int, Outgoing] = {}
        self.size_bytes = 0

    @property
    def sent(self) -> int:
        """How many are sent and not confirmed."""
        return len(self._sent)

    def __len__(self) -> int:
        return len(self.waiting) + len(self._sent)

    def put(self, outgoing: Outgoing) -> None:
        self.waiting.append(outgoing)
        self.size_bytes += outgoing.size_bytes

    def note_sent(self, number: int, outgoing: Outgoing) -> None:
        """The first of `waiting`, which has been taken out, is sent under this number."""
        outgoing.sends += 1
        if (before := self._sent.pop(number, None)) is not None:
            # Numbers come round after 65,535: that one is confirmed, or will never be.
            self.size_bytes -= before.size_bytes
        self._sent[number] = outgoing

    def confirm(self, number: int) -> None:
        outgoing = self._sent.pop(number, None)
        if outgoing is not None:
            self.size_bytes -= outgoing.size_bytes

    def lose(self) -> list[Outgoing]:
        """The connection is lost: what must be sent again waits again, before the others. Returns what is given up."""
        unconfirmed, self._sent = list(self._sent.values()), {}
        again = [one for one in unconfirmed if one.again and one.qos > 0 and one.sends < MAX_SENDS]
        given_up = [one for one in unconfirmed if one.again and one.qos > 0 and one.sends >= MAX_SENDS]
        self.size_bytes -= sum(one.size_bytes for one in unconfirmed) - sum(one.size_bytes for one in again)
        self.waiting.extendleft(reversed(again))
        return given_up
