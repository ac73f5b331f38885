"""A publisher and a subscriber who know the protocol and nothing of the code: what is the same over NATS and MQTT."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from bench.faults.promise import Promise
from bench.faults.tally import Debt, Frame, Outage, Tally
from broker.errors import UnderstudyError

PATIENCE_S = 3.0
"""A frame of which nothing came for so long is published again, under its id."""

LOOK_S = 0.1
HEALTHY_S = 30.0
SETTLE_S = 2.0
"""How long after the last answer a second one is waited for."""

SETTLED_S = 60.0
"""What was answered as promised so long ago is only counted from then on."""

SILENT_S = 0.5
"""How long before the checker noticed that its connection was lost something may have been lost already."""

BURSTS, BURST = 10, 50
"""Of frames for a pipeline that answers the newest."""

ID_HEADER = "Nats-Msg-Id"


class CheckerError(UnderstudyError):
    """The pipeline does not answer as a healthy one does, so there is nothing to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How frames are published: `burst` at once, evenly, `rate_per_s` in all, and never more than `window` that are
    neither answered nor given up."""

    rate_per_s: float
    window: int = 64
    burst: int = 1


class Checker(ABC):
    """`async with` connects straight to the server and learns the right answers; `publish` and `finish` do the rest.

    A subclass speaks to a broker: it sends frames, and hands over what it hears, with `_hear_result` and `_hear_reply`,
    and when its connection is gone (`_lost`) and there again (`_note_outage`).
    """

    def __init__(
        self, url: str, *, pipeline: str, images: Sequence[bytes], promise: Promise, patience_s: float = PATIENCE_S
    ) -> None:
        self._url, self._pipeline, self._images = url, pipeline, images
        self._patience_s = patience_s
        self._token = f"chaos-{secrets.token_hex(4)}"
        self._inbox = f"_INBOX.{secrets.token_hex(8)}"
        self._stack = contextlib.AsyncExitStack()
        self._away_since_s: float | None = None
        self._progress = asyncio.Event()
        self.tally = Tally(promise=promise, healthy=[])

    async def __aenter__(self) -> Self:
        await self._connect()
        try:
            await self._learn()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @abstractmethod
    async def _connect(self) -> None:
        """Until it hears what is published; what ends it goes on the stack."""

    @abstractmethod
    async def _send(self, frame: Frame) -> None:
        """Publish it, for the first time or again. Raises nothing: what did not arrive is published again later."""

    # ---- publishing --------------------------------------------------------------------------------------------

    async def publish(
        self, frames: int, pace: Pace, *, until: asyncio.Event | None = None, owed: Debt | None = None
    ) -> None:
        """Publish frames until there are `frames` and `until` is set. Each is published again where nothing comes of
        it, or given up, as it is promised."""
        async with self._again():
            due_s, first = time.monotonic(), self.tally.published
            while self.tally.published < first + frames or not (until is None or until.is_set()):
                await self._room(pace.window)
                due_s = max(due_s + pace.burst / pace.rate_per_s, time.monotonic() - 0.1)
                if (pause_s := due_s - time.monotonic()) > 0:
                    await asyncio.sleep(pause_s)
                for _ in range(pace.burst):
                    await self._publish_new(owed)

    async def newest(self) -> None:
        """Where nothing is wrong: of many frames at once the newest is answered, and the publisher hears what became of
        the others. Nothing is published again."""
        for _ in range(BURSTS):
            for _ in range(BURST - 1):
                await self._publish_new("word")
            await self._publish_new("answer")
            deadline_s = time.monotonic() + HEALTHY_S
            while self.tally.lost:
                if time.monotonic() > deadline_s:
                    return
                await self._news(LOOK_S)

    async def finish(self, *, within_s: float) -> None:
        """Wait until everything is answered, or for `within_s`; then a little longer for what comes twice."""
        deadline_s = time.monotonic() + within_s
        async with self._again():
            while self.tally.outstanding and time.monotonic() < deadline_s:
                await self._news(LOOK_S)
        await asyncio.sleep(SETTLE_S)
        self._note_outage()

    async def capacity_per_s(self, *, seconds: float, window: int = 64) -> float:
        """Frames that the pipeline answers per second, where as many are always under way."""
        began_s, ends_s = time.monotonic(), time.monotonic() + seconds
        before = self.tally.answered
        async with self._again():
            while time.monotonic() < ends_s:
                await self._room(window)
                await self._publish_new()
        found = (self.tally.answered - before) / (time.monotonic() - began_s)
        await self.finish(within_s=HEALTHY_S)
        return found

    async def _learn(self) -> None:
        """What the healthy pipeline says of each image."""
        pace = Pace(rate_per_s=10_000.0, window=64 if self.tally.promise.answered else 1)
        self.tally.healthy = [-1] * len(self._images)
        await self.publish(len(self._images), pace, owed="answer")
        await self.finish(within_s=HEALTHY_S)
        answers: list[int] = []
        for frame in self.tally.frames.values():
            answer = frame.answer
            if answer is None or answer.get("error") or answer["technique"] != "none":
                raise CheckerError(f"frame {frame.number} is answered {answer} by what should be a healthy pipeline")
            answers.append(int(answer["class_index"]))
        self.tally = Tally(promise=self.tally.promise, healthy=answers)
        self._token = f"chaos-{secrets.token_hex(4)}"

    @contextlib.asynccontextmanager
    async def _again(self) -> Any:
        task = asyncio.create_task(self._publish_again_for_ever(), name="chaos-publish-again")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _publish_again_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            now_s = time.monotonic()
            self.tally.settle(now_s - SETTLED_S)
            for frame in list(self.tally.outstanding.values()):
                if now_s - frame.sent_s[-1] <= self._patience_s:
                    continue
                if frame.owed == "nothing":
                    self.tally.give_up(frame)
                elif self.tally.promise.answered:
                    await self._send(frame)

    async def _publish_new(self, owed: Debt | None = None) -> None:
        await self._send(self.tally.add(image=self.tally.published % len(self._images), owed=owed))

    async def _room(self, window: int) -> None:
        while len(self.tally.outstanding) >= window:
            await self._news(LOOK_S)

    async def _news(self, timeout_s: float) -> None:
        """Until an answer comes, or for so long."""
        self._progress.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._progress.wait()

    # ---- listening ---------------------------------------------------------------------------------------------

    def _hear_result(self, data: bytes, *, repeated: bool = False) -> None:
        """`repeated`: the broker says that it may have delivered it before."""
        document = read_json(data)
        number = None if document is None else self._number_of(str(document.get("id", "")))
        if document is None or number is None:
            self.tally.strange += 1
        elif not (repeated and self.tally.knows(number, document)):
            self._heard(number, document, on_out=True)

    def _number_of(self, frame_id: str) -> int | None:
        """Of a frame of ours."""
        token, _, number = frame_id.rpartition("-")
        return int(number) if token == self._token and number.isdigit() else None

    def _hear_reply(self, token: str, number: str, data: bytes) -> None:
        document = read_json(data)
        if token == self._token and document is not None:
            self._heard(int(number), document, on_out=False)

    def _heard(self, number: int, document: dict[str, Any], *, on_out: bool) -> None:
        self.tally.heard(number, document, time.monotonic(), on_out=on_out)
        self._progress.set()

    def _lost(self) -> None:
        self._away_since_s = self._away_since_s or time.monotonic()

    def _note_outage(self) -> None:
        if self._away_since_s is not None:
            # What was sent to a connection that was dying is lost too.
            self.tally.outages.append(Outage(began_s=self._away_since_s - SILENT_S, ended_s=time.monotonic()))
            self._away_since_s = None


def read_json(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
