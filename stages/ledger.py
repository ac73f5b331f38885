"""Which frames the head has promised an answer to: waiting, in flight, lately answered."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from broker.control import BlobRef
from broker.port import Buffer
from broker.wire import Tensor


@dataclass(slots=True, kw_only=True)
class Arrival:
    """A frame as it was published, not decoded yet. `ack`: what takes the acknowledgement of a stored frame."""

    id: str
    payload: Buffer
    reply: str
    accepted_s: float
    ack: str = ""
    publisher: str = ""

    @property
    def replies(self) -> list[str]:
        return [self.reply] if self.reply else []

    @property
    def acks(self) -> list[str]:
        return [self.ack] if self.ack else []


@dataclass(slots=True, kw_only=True)
class Held:
    """A frame in flight, held until its result is out. `model`: which one's inputs `tensors` are; `epoch`: on whose
    route it was sent last; `sent_s`, `attempts`, `once`: see `stages.patience`."""

    id: str
    payload: Buffer
    tensors: Mapping[str, Tensor]
    model: BlobRef
    replies: list[str]
    acks: list[str]
    accepted_s: float
    sent_s: float
    attempts: int = 1
    once: bool = True
    epoch: int = 0


@dataclass(slots=True)
class Ledger:
    """Bounded: `queue_frames` and `queue_bytes` wait at most (more is refused), the window bounds what is in flight,
    and of answered frames the newest `recent_frames` results are kept, so that a frame that is published again under
    the same id is not answered twice."""

    queue_frames: int
    queue_bytes: int
    recent_frames: int = 4096
    recent_bytes: int = 16 << 20
    waiting: deque[Arrival] = field(default_factory=deque)
    held: OrderedDict[str, Held] = field(default_factory=OrderedDict)
    waiting_bytes: int = 0
    _recent: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    _recent_size: int = 0

    def offer(self, arrival: Arrival) -> bool:
        """Queue a frame; False where the queue is full."""
        size = len(arrival.payload)
        if len(self.waiting) >= self.queue_frames or (self.waiting and self.waiting_bytes + size > self.queue_bytes):
            return False
        self.waiting.append(arrival)
        self.waiting_bytes += size
        return True

    def supersede(self, arrival: Arrival) -> list[Arrival]:
        """Have this frame alone wait; those that waited so far."""
        before = self.take(len(self.waiting))
        self.offer(arrival)
        return before

    def take(self, count: int) -> list[Arrival]:
        """The oldest waiting frames, at most `count`."""
        taken = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
        self.waiting_bytes -= sum(len(arrival.payload) for arrival in taken)
        return taken

    def hold(self, frame: Held) -> None:
        self.held[frame.id] = frame

    def release(self, frame_id: str) -> Held | None:
        """Take a frame out of flight; None where it is not there: it was answered already."""
        return self.held.pop(frame_id, None)

    def answered(self, frame_id: str, result: bytes) -> None:
        self._recent_size -= len(self._recent.pop(frame_id, b""))
        self._recent[frame_id] = result
        self._recent_size += len(result)
        while len(self._recent) > self.recent_frames or self._recent_size > self.recent_bytes:
            _, dropped = self._recent.popitem(last=False)
            self._recent_size -= len(dropped)

    def forget(self) -> None:
        """Keep no results of frames that were answered."""
        self._recent.clear()
        self._recent_size = 0

    def result_of(self, frame_id: str) -> bytes | None:
        """The result of a frame that was answered lately."""
        return self._recent.get(frame_id)

    def recent_ids(self) -> list[str]:
        """Of the frames that were answered lately."""
        return list(self._recent)

    def oldest(self) -> Iterator[Held]:
        """Frames in flight, in the order in which they were first sent."""
        return iter(list(self.held.values()))
