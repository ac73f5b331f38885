"""A publisher and a subscriber who know the protocol and nothing of the code: nats-py and JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from bench.faults.promise import Promise
from bench.faults.tally import Frame, Outage, Tally
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

ID_HEADER = "Nats-Msg-Id"


class CheckerError(UnderstudyError):
    """The pipeline does not answer as a healthy one does, so there is nothing to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How frames are published: evenly, `rate_per_s`, and never more than `window` that are not answered."""

    rate_per_s: float
    window: int = 64


class Checker:
    """`async with` connects straight to the server and learns the right answers; `publish` and `finish` do the rest."""

    def __init__(
        self, url: str, *, pipeline: str, images: Sequence[bytes], promise: Promise, patience_s: float = PATIENCE_S
    ) -> None:
        self._url, self._pipeline, self._images = url, pipeline, images
        self._patience_s = patience_s
        self._token = f"chaos-{secrets.token_hex(4)}"
        self._inbox = f"_INBOX.{secrets.token_hex(8)}"
        self._connection = Client()
        self._stack = contextlib.AsyncExitStack()
        self._away_since_s: float | None = None
        self._progress = asyncio.Event()
        self.tally = Tally(promise=promise, healthy=[])

    async def __aenter__(self) -> Self:
        async def lost() -> None:
            self._away_since_s = self._away_since_s or time.monotonic()

        async def back() -> None:
            self._note_outage()

        async def ignore(_: Exception) -> None:
            return None

        self._connection = await nats.connect(
            self._url,
            name="chaos-checker",
            reconnect_time_wait=0.02,
            max_reconnect_attempts=-1,
            connect_timeout=1,
            ping_interval=1,
            max_outstanding_pings=2,
            disconnected_cb=lost,
            reconnected_cb=back,
            error_cb=ignore,
        )
        self._stack.push_async_callback(self._close)
        try:
            await self._listen()
            await self._connection.flush()
            await self._learn()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _close(self) -> None:
        await self._connection.close()

    # ---- publishing --------------------------------------------------------------------------------------------

    async def publish(self, frames: int, pace: Pace, *, until: asyncio.Event | None = None) -> None:
        """Publish frames, each of which is published again where nothing comes of it, until there are `frames` and
        `until` is set."""
        async with self._again():
            due_s, first = time.monotonic(), self.tally.published
            while self.tally.published < first + frames or not (until is None or until.is_set()):
                await self._room(pace.window)
                due_s = max(due_s + 1 / pace.rate_per_s, time.monotonic() - 0.1)
                if (pause_s := due_s - time.monotonic()) > 0:
                    await asyncio.sleep(pause_s)
                await self._publish_new()

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
        pace = Pace(rate_per_s=10_000.0)
        self.tally.healthy = [-1] * len(self._images)
        await self.publish(len(self._images), pace)
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
                if now_s - frame.sent_s[-1] > self._patience_s:
                    await self._send(frame)

    async def _publish_new(self) -> None:
        await self._send(self.tally.add(image=self.tally.published % len(self._images)))

    async def _send(self, frame: Frame) -> None:
        frame.sent_s.append(time.monotonic())
        with contextlib.suppress(NatsError):  # the frame is published again later
            await self._connection.publish(
                f"understudy.{self._pipeline}.in",
                self._images[frame.image],
                reply=f"{self._inbox}.{self._token}.{frame.number}",
                headers={ID_HEADER: f"{self._token}-{frame.number}"},
            )

    async def _room(self, window: int) -> None:
        while self._pending() >= window:
            await self._news(LOOK_S)

    def _pending(self) -> int:
        return self.tally.published - self.tally.answered

    async def _news(self, timeout_s: float) -> None:
        """Until an answer comes, or for so long."""
        self._progress.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._progress.wait()

    # ---- listening ---------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        await self._connection.subscribe(f"understudy.{self._pipeline}.out", cb=self._on_out)
        await self._connection.subscribe(f"{self._inbox}.*.*", cb=self._on_reply)

    async def _on_out(self, message: Msg) -> None:
        self._hear_result(message.data)

    def _hear_result(self, data: bytes) -> None:
        document = read_json(data)
        own = "" if document is None else str(document.get("id", ""))
        token, _, number = own.rpartition("-")
        if document is None or token != self._token or not number.isdigit():
            self.tally.strange += 1
            return
        self._heard(int(number), document, on_out=True)

    async def _on_reply(self, message: Msg) -> None:
        _, token, number = message.subject.rsplit(".", 2)
        document = read_json(message.data)
        if token == self._token and document is not None:
            self._heard(int(number), document, on_out=False)

    def _heard(self, number: int, document: dict[str, Any], *, on_out: bool) -> None:
        self.tally.heard(number, document, time.monotonic(), on_out=on_out)
        self._progress.set()

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
