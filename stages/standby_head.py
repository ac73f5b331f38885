"""The standby head: it hears what the head hears, and knows what is answered, so that it can go on where that one ends.

It keeps the frames of the input subject until their results are on the output subject. When the head is lost it has
every frame that was published and is not answered, whether the head had sent it on or not.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from broker.errors import WireError
from broker.port import Message
from stages.identity import DIGEST_BYTES, digest, identify, is_named, keys_of
from stages.results import is_good

_START = b'{"id":"'


MAX_EXPECTED = 1 << 15
MAX_HEARD = 4096


class _Kept(NamedTuple):
    key: str
    named: bool
    message: Message
    came_s: float


class StandbyHead:
    """Bounded like the head's own queue: above `frames` and `bytes` the oldest frames are let go (their publishers,
    where they are ours, send them again)."""

    def __init__(
        self,
        *,
        frames: int,
        size_bytes: int,
        recent_frames: int = 4096,
        recent_bytes: int = 16 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_frames = frames
        self._limit_bytes = size_bytes
        self._recent_frames = recent_frames
        self._recent_bytes = recent_bytes
        self._clock = clock
        self._frames: OrderedDict[int, _Kept] = OrderedDict()
        self._by_key: dict[str, deque[int]] = {}
        self._size_bytes = 0
        self._sequence = 0
        self._heard: OrderedDict[bytes, None] = OrderedDict()
        self._left_to_the_other: OrderedDict[bytes, None] = OrderedDict()
        self._results: OrderedDict[str, bytes] = OrderedDict()
        self._results_bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    async def on_frame(self, message: Message) -> None:
        try:
            identity = identify(message)
        except WireError:
            return  # the head refuses it
        if identity.id is not None and (identity.id in self._by_key or identity.id in self._results):
            return  # published again: it is here, or answered
        self._sequence += 1
        self._frames[self._sequence] = _Kept(identity.key, identity.id is not None, message, self._clock())
        self._by_key.setdefault(identity.key, deque()).append(self._sequence)
        self._size_bytes += len(message.data)
        while len(self._frames) > self._limit_frames or (
            len(self._frames) > 1 and self._size_bytes > self._limit_bytes
        ):
            self._drop(next(iter(self._frames)))

    async def on_result(self, message: Message) -> None:
        """A result on the output subject."""
        data = bytes(message.data)
        frame_id = id_of(data)
        if frame_id is None:
            return  # not a result of ours
        mark = digest(frame_id)
        self._heard[mark] = None
        while len(self._heard) > MAX_HEARD:
            self._heard.popitem(last=False)
        if mark in self._left_to_the_other:
            # Its frame is gone already, but where it was published again meanwhile. Another of the same content, which
            # is not the other head's, must stay.
            del self._left_to_the_other[mark]
            self._forget([frame_id])
        else:
            self._forget(keys_of(frame_id))
        if is_good(data):
            self._remember(frame_id, data)

    def leave_to_the_other(self, entries: Sequence[bytes]) -> Counter[bytes]:
        """Another head will answer these frames (`identity.entry`): they are not ours any more. How many copies may
        still come of them, by the digests of their keys: of a frame with a name any number, which counts as one."""
        entries = self._open(entries)
        self.expect_others(entry[DIGEST_BYTES:] for entry in entries)
        remaining = Counter(entry[:DIGEST_BYTES] for entry in entries)
        for sequence, kept in list(self._frames.items()):
            if remaining[digest(kept.key)] > 0:
                remaining[digest(kept.key)] -= 1
                self._drop(sequence)
        return remaining | Counter({entry[:DIGEST_BYTES] for entry in entries if is_named(entry)})

    def catch_up(self, entries: Sequence[bytes]) -> None:
        """What the head held when this one had begun to listen, oldest first. For those that came before that there is
        no copy here, so their results must take none."""
        copies = Counter({digest(key): len(sequences) for key, sequences in self._by_key.items()})
        for entry in reversed(self._open(entries)):
            key = entry[:DIGEST_BYTES]
            if copies[key] > 0:
                copies[key] -= 1
            else:
                self.expect_others([entry[DIGEST_BYTES:]])

    def marks(self) -> list[bytes]:
        """The digests of the keys of all that is not answered, one for each copy."""
        return [digest(kept.key) for kept in self._frames.values()]

    def named(self, *, before_s: float = math.inf) -> list[bytes]:
        """Digests of the ids of frames that have one and came before then, the oldest first."""
        frames = self._frames.values()
        return [
            digest(kept.key) for kept in itertools.takewhile(lambda kept: kept.came_s < before_s, frames) if kept.named
        ]

    def answered(self, marks: Iterable[bytes]) -> int:
        """The head has answered these of `named`, and their results did not come here. How many are not kept now."""
        gone = set(marks)
        over = [sequence for sequence, kept in self._frames.items() if kept.named and digest(kept.key) in gone]
        for sequence in over:
            self._drop(sequence)
        return len(over)

    def _open(self, entries: Sequence[bytes]) -> list[bytes]:
        """Those of the entries whose results have not come yet: they may have overtaken the list."""
        return [entry for entry in entries if entry[DIGEST_BYTES:] not in self._heard]

    def expect_others(self, ids: Iterable[bytes]) -> None:
        """The results of these frames (digests of their ids) may still come, and are of none that is kept here."""
        self._left_to_the_other.update(dict.fromkeys(ids))
        while len(self._left_to_the_other) > MAX_EXPECTED:
            self._left_to_the_other.popitem(last=False)

    def _forget(self, keys: Iterable[str]) -> None:
        """The oldest frame that has one of these keys is answered."""
        for key in keys:
            if key in self._by_key:
                self._drop(self._by_key[key][0])
                return

    def frames(self) -> list[Message]:
        """What is not answered, in the order in which it came."""
        return [kept.message for kept in self._frames.values()]

    def results(self) -> Iterator[tuple[str, bytes]]:
        """The newest results by the ids of their frames, oldest first."""
        return iter(self._results.items())

    def _drop(self, sequence: int) -> None:
        kept = self._frames.pop(sequence)
        self._size_bytes -= len(kept.message.data)
        copies = self._by_key[kept.key]
        copies.remove(sequence)
        if not copies:
            del self._by_key[kept.key]

    def _remember(self, frame_id: str, result: bytes) -> None:
        self._results_bytes += len(result) - len(self._results.pop(frame_id, b""))
        self._results[frame_id] = result
        while len(self._results) > self._recent_frames or self._results_bytes > self._recent_bytes:
            _, dropped = self._results.popitem(last=False)
            self._results_bytes -= len(dropped)


def id_of(result: bytes) -> str | None:
    """The id in a result. Reading all of it as JSON would cost more than the rest of the standby head's work."""
    end = result.find(b'"', len(_START))
    if result.startswith(_START) and end > 0 and b"\\" not in result[:end]:
        return result[len(_START) : end].decode(errors="replace")
    try:
        frame_id = json.loads(result)["id"]
    except (ValueError, TypeError, KeyError):
        return None
    return frame_id if isinstance(frame_id, str) else None
