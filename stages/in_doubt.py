"""Frames in doubt: those that a head which was lost may have answered, though nobody has heard so.

Where each node has a broker of its own, the head's may have taken a result and not passed it on when its node was cut
off. The result waits there, and comes out when the network is back, seconds later. The new head answers who asked for
such a frame at once (who asks takes the first answer); on the output subject it withholds its answer until the result
of the lost head is there, or cannot come any more.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Iterable

from broker.port import Buffer, Message
from stages.identity import DIGEST_BYTES, mark_of
from stages.results import is_good


class InDoubt:
    """`marks`: of the frames, the digests of their keys; one of each for every copy. `epoch`: the first of the new
    head's route."""

    def __init__(self, marks: Iterable[bytes], *, epoch: int) -> None:
        self._epoch = epoch
        self._open = Counter(marks)
        """Copies of which neither the lost head's result is there nor ours."""
        self._withheld: OrderedDict[str, Message] = OrderedDict()
        self._over: Counter[bytes] = Counter()
        """Copies that the lost head has answered, and this one has not yet."""
        self.late = 0
        """Results of the lost head that were heard."""

    @property
    def ids(self) -> list[str]:
        """Of the frames whose answers are withheld."""
        return list(self._withheld)

    def takes(self, frame_id: str, message: Message) -> bool:
        """Whether this answer must not go to the output subject now: it is kept, or not needed any more."""
        if not (self._open or self._over):
            return False
        mark = mark_of(frame_id)
        if self._over[mark] > 0:
            self._over -= Counter([mark])  # without those that are 0 now
            return True
        if self._open[mark] > 0:
            self._open[mark] -= 1
            self._withheld[frame_id] = message
            return True
        return False

    def heard(self, result: Buffer) -> None:
        """A result on the output subject. One of an older epoch is the lost head's."""
        try:
            document = json.loads(bytes(result))
            frame_id, is_ours = str(document["id"]), document["epoch"] >= self._epoch
        except (ValueError, TypeError, KeyError):
            return  # not a result of ours
        if is_ours:
            return
        mark = mark_of(frame_id)
        ours = next((own for own in self._withheld if mark_of(own) == mark), None)
        if ours is not None:
            del self._withheld[ours]
            self.late += 1
        elif self._open[mark] > 0:
            self._open[mark] -= 1
            self._over[mark] += 1
            self.late += 1

    def narrow(self, entries: Iterable[bytes]) -> dict[str, Message]:
        """Only these (`stages.identity.entry`) came back to the lost head: the answers to others that were withheld, by
        the ids of their frames. Not where that is an error, which a head says by itself."""
        possible = Counter(entry[:DIGEST_BYTES] for entry in entries)
        self._open &= possible
        released = {}
        for frame_id, message in list(self._withheld.items()):
            mark = mark_of(frame_id)
            if possible[mark] > 0:
                possible[mark] -= 1
            elif is_good(message.data):
                released[frame_id] = self._withheld.pop(frame_id)
        return released

    def settle(self) -> dict[str, Message]:
        """Nothing of the lost head can come any more: the answers that were withheld, by the ids of their frames, in
        their order. Frames that it has answered, and this head has not yet, stay known."""
        released = dict(self._withheld)
        self._withheld.clear()
        self._open.clear()
        return released
