"""Results in the order in which their frames came, restored for each publisher (`ordered` delivery)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from stages.outlet import Answer


class Ordering:
    """An answer waits until those of all frames that its publisher sent before are out.

    Bounded by its user, who takes no more frames while too many answers wait. The frame that others wait for is in
    flight, so it is answered some day.
    """

    def __init__(self) -> None:
        self._publishers: dict[str, str] = {}
        self._open: dict[str, OrderedDict[str, Answer | None]] = {}
        self.waiting = 0

    def arrived(self, frame_id: str, publisher: str) -> None:
        """A frame was taken. An id that is there already keeps its place."""
        if frame_id not in self._publishers:
            self._publishers[frame_id] = publisher
            self._open.setdefault(publisher, OrderedDict())[frame_id] = None

    def ready(self, answers: Sequence[Answer]) -> list[Answer]:
        """What may go out now that there are these answers too. One of a frame that never arrived goes at once."""
        out = []
        for answer in answers:
            publisher = self._publishers.get(answer.id)
            if publisher is None:
                out.append(answer)
                continue
            self._open[publisher][answer.id] = answer
            self.waiting += 1
            out += self._released(publisher)
        return out

    def left(self, frame_id: str) -> list[Answer]:
        """A frame's answer is given elsewhere: what may go out now."""
        publisher = self._publishers.pop(frame_id, None)
        if publisher is None:
            return []
        del self._open[publisher][frame_id]
        return self._released(publisher)

    def _released(self, publisher: str) -> list[Answer]:
        queue, out = self._open[publisher], []
        while queue and (first := next(iter(queue.values()))) is not None:
            queue.popitem(last=False)
            del self._publishers[first.id]
            self.waiting -= 1
            out.append(first)
        if not queue:
            del self._open[publisher]
        return out
