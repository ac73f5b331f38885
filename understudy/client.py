"""The client library: publish frames, get results.

async with understudy.connect("nats://127.0.0.1:4222", "digits") as client:
    result = await client.infer(Path("seven.png"))
    async for result in client.stream(frames):
        ...
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from broker import subjects
from broker.connect import connect as connect_broker
from broker.errors import BrokerClosedError, BrokerError, PayloadTooLargeError, UnderstudyError
from broker.headers import ID_HEADER, PUBLISHER_HEADER, REPLY_HEADER
from broker.jetstream import JetStreamRefusedError, check_stored
from broker.port import Broker, Buffer, Message, Subscription
from broker.url import is_mqtt
from stages.patience import Patience
from understudy.discovery import find_pipeline
from understudy.frames import Frame, to_payload
from understudy.result import FrameFailure, Result, ResultError, parse_result
from understudy.shelf import ResultShelf

RETRY_S = 0.05
"""First pause before a frame is sent again that found no head, or a full one; it doubles up to a second."""

_STORED = "s"

SEND_AGAIN_S = 5.0
"""The least patience (`stages.patience`) before a frame without a result is sent again under its id, which the head
knows."""

SEND_AGAIN_MQTT_S = 1.0
"""The same where the broker does not tell that no head listens."""

MOST_DOUBLINGS = 6


class FrameRejectedError(UnderstudyError):
    """A frame was answered with an error; `result.error` has its code and reason."""

    def __init__(self, result: Result, failure: FrameFailure) -> None:
        self.result = result
        super().__init__(f"frame {result.id}: {failure.reason} ({failure.code})")


class FrameTimeoutError(UnderstudyError):
    """No result came in time."""


@dataclass(slots=True)
class _Pending:
    """A frame that waits for its result; if it is `stored`, that is looked for in place of sending it again. `sent_s`,
    `attempts`, `once`: see `stages.patience`. `retry_at_s`: nobody took it, and it is sent anew then."""

    key: str
    id: str
    payload: list[Buffer]
    future: asyncio.Future[Result]
    deadline_s: float
    sent_s: float
    attempts: int = 1
    once: bool = True
    retry_at_s: float | None = None
    retry_s: float = RETRY_S
    stored: bool = False


class Client:
    """A connection to one pipeline. Made by `connect`, opened with `async with`."""

    def __init__(self, url: str, pipeline: str, *, timeout_s: float, window: int) -> None:
        self._url = url
        self._pipeline = subjects.check_name("pipeline", pipeline)
        self._subject = subjects.frames_in(pipeline)
        self._timeout_s = timeout_s
        self._window = window
        least_s = SEND_AGAIN_MQTT_S if is_mqtt(url) else SEND_AGAIN_S
        self._patience = Patience(least_s, most_doublings=MOST_DOUBLINGS)
        self._pending: dict[str, _Pending] = {}
        self._count = 0
        self._name = secrets.token_hex(4)
        self._broker: Broker | None = None
        self._inbox = ""
        self._subscriptions: list[Subscription] = []
        self._watch: asyncio.Task[None] | None = None
        self._shelf: ResultShelf | None = None
        self._resending: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        broker = await connect_broker(self._url, name="understudy-client")
        try:
            status = await find_pipeline(broker, self._pipeline)
            self._inbox = broker.new_inbox()
            if status.get("delivery") == "durable":
                self._shelf = await ResultShelf.open(broker, self._pipeline)
            self._subscriptions = [
                await broker.subscribe(f"{self._inbox}.*", self._on_reply),
                await broker.subscribe(subjects.lead(self._pipeline), self._on_new_head),
            ]
        except BaseException:
            await broker.close()
            raise
        self._broker = broker
        broker.on_connection(self._on_connection)
        self._watch = asyncio.create_task(self._watch_pending(), name="understudy-client")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = [*self._resending, *([self._watch] if self._watch is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.cancel()
        self._pending.clear()
        if self._broker is not None:
            await self._broker.close()

    async def infer(self, content: Any, *, frame_id: str | None = None, timeout_s: float | None = None) -> Result:
        """Publish one frame and wait for its result.

        Args:
            content: see `understudy.frames.to_payload`.
            frame_id: the frame's id; one is made if it is None.

        Raises:
            FrameRejectedError: it was answered with an error.
            FrameTimeoutError: no result within `timeout_s` (default: that of `connect`).
            PayloadTooLargeError: the frame exceeds the broker's limit.
        """
        result = await (await self._publish(content, frame_id, timeout_s))
        if result.error is not None:
            raise FrameRejectedError(result, result.error)
        return result

    async def stream(
        self,
        frames: Iterable[Any] | AsyncIterable[Any],
        *,
        window: int | None = None,
        ordered: bool = True,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Result]:
        """Publish frames and yield their results; a frame that was answered with an error yields a result with `error`.

        Args:
            frames: contents (see `infer`), or `Frame`s with ids of your own.
            window: at most so many frames are published and not yielded yet (default: that of `connect`).
            ordered: yield in the order of `frames`; otherwise as results come.

        Raises:
            FrameTimeoutError: a frame has no result in time.
        """
        bound = window or self._window
        out: deque[asyncio.Future[Result]] = deque()
        try:
            async for item in _each(frames):
                frame = item if isinstance(item, Frame) else None
                content, frame_id = (item, None) if frame is None else (frame.content, frame.id)
                out.append(await self._publish(content, frame_id, timeout_s))
                while out and (len(out) >= bound or out[0].done()):
                    yield await _next(out, ordered=ordered)
            while out:
                yield await _next(out, ordered=ordered)
        finally:
            for future in out:
                future.cancel()

    async def _publish(self, content: Any, frame_id: str | None, timeout_s: float | None) -> asyncio.Future[Result]:
        if self._broker is None:
            raise BrokerClosedError("the client is not open: use `async with understudy.connect(...) as client`")
        payload = to_payload(content)
        self._count += 1
        key = str(self._count)
        now = time.monotonic()
        pending = _Pending(
            key=key,
            id=frame_id or secrets.token_hex(8),
            payload=payload,
            future=asyncio.get_running_loop().create_future(),
            deadline_s=now + (timeout_s or self._timeout_s),
            sent_s=now,
        )
        self._pending[key] = pending
        pending.future.add_done_callback(lambda _: self._pending.pop(key, None))
        try:
            await self._send(pending)
        except PayloadTooLargeError:
            pending.future.cancel()
            raise
        return pending.future

    async def _send(self, pending: _Pending) -> None:
        assert self._broker is not None  # noqa: S101 - _publish checked
        reply = f"{self._inbox}.{pending.key}"
        headers = {ID_HEADER: pending.id, PUBLISHER_HEADER: self._name}
        if self._shelf is not None:
            # The reply subject takes the broker's word that the frame is stored; the result comes to the header's.
            headers[REPLY_HEADER] = reply
            reply = f"{self._inbox}.{_STORED}{pending.key}"
        await self._broker.publish(self._subject, pending.payload, reply=reply, headers=headers)

    async def _on_reply(self, message: Message) -> None:
        key = message.subject.rpartition(".")[2]
        pending = self._pending.get(key.removeprefix(_STORED))
        if pending is None or pending.future.done():
            return
        if not message.data:
            # The broker says that nobody listens: the head is starting, or moving.
            self._retry_soon(pending)
            return
        if key.startswith(_STORED):
            self._on_stored(pending, message)
            return
        try:
            result = parse_result(message.data)
        except ResultError as error:
            pending.future.set_exception(error)
            return
        now = time.monotonic()
        if result.error is not None:
            self._patience.heard(now)  # a refusal says nothing of how long an answer takes
        else:
            self._patience.answered(pending, now)
        if result.error is not None and result.error.code == "overloaded":
            self._retry_soon(pending)
        else:
            pending.future.set_result(result)

    def _on_stored(self, pending: _Pending, message: Message) -> None:
        try:
            check_stored(message.data)
        except JetStreamRefusedError:
            self._retry_soon(pending)  # it is full: frames are taken as results go out
        except BrokerError as error:
            pending.future.set_exception(error)
        else:
            pending.stored = True

    async def _look_on_shelf(self) -> None:
        """Results that were put out while nobody could tell us."""
        assert self._shelf is not None  # noqa: S101 - asked only where results are stored
        waiting = {pending.id: pending for pending in self._pending.values()}
        async for result in self._shelf.new_results():
            pending = waiting.get(result.id)
            if pending is not None and not pending.future.done():
                self._patience.heard(time.monotonic())
                pending.future.set_result(result)

    async def _on_new_head(self, message: Message) -> None:
        """A head has begun. One that does not know what was published before gets our frames again."""
        try:
            knows = json.loads(bytes(message.data))["knows"]
        except (ValueError, TypeError, KeyError):
            return
        if not knows:
            await self._send_all()

    def _on_connection(self, up: bool) -> None:
        if up and self._pending:
            # What was on its way when the connection was lost is gone; the head knows twins by their ids.
            task = asyncio.create_task(self._send_all(), name="understudy-client-resend")
            self._resending.add(task)
            task.add_done_callback(self._resending.discard)

    async def _send_all(self) -> None:
        self._patience.restart(time.monotonic())
        for pending in list(self._pending.values()):
            if not pending.stored:
                pending.sent_s, pending.once = time.monotonic(), False
                await _try(self._send(pending))
        if any(pending.stored for pending in self._pending.values()):
            await _try(self._look_on_shelf())

    def _retry_soon(self, pending: _Pending) -> None:
        pending.retry_at_s = time.monotonic() + pending.retry_s
        pending.retry_s = min(1.0, 2 * pending.retry_s)

    async def _watch_pending(self) -> None:
        """Send again what nobody took, or what seems lost; give up at the deadline."""
        while True:
            await asyncio.sleep(RETRY_S if self._pending else 2 * RETRY_S)
            now = time.monotonic()
            waiting = [pending for pending in self._pending.values() if not pending.future.done()]
            for pending in waiting:
                if now >= pending.deadline_s:
                    pending.future.set_exception(self._timed_out(pending))
                elif pending.retry_at_s is not None and now >= pending.retry_at_s:
                    pending.retry_at_s, pending.sent_s = None, now
                    await _try(self._send(pending))
            taken = [pending for pending in waiting if pending.retry_at_s is None and not pending.future.done()]
            await self._send_lost(self._patience.lost(taken, now), now)

    async def _send_lost(self, lost: Sequence[_Pending], now: float) -> None:
        for pending in lost:
            pending.attempts += 1
            pending.sent_s, pending.once = now, False
            if not pending.stored:
                await _try(self._send(pending))
        if any(pending.stored for pending in lost):
            await _try(self._look_on_shelf())

    def _timed_out(self, pending: _Pending) -> FrameTimeoutError:
        return FrameTimeoutError(
            f"frame {pending.id}: pipeline '{self._pipeline}' gave no result in time: see `understudy status`, "
            f"or allow more with timeout_s"
        )


async def _try(sending: Awaitable[None]) -> None:
    """Not connected at the moment: the next round tries again."""
    with contextlib.suppress(BrokerError):
        await sending


def connect(url: str, pipeline: str, *, timeout_s: float = 30.0, window: int = 64) -> Client:
    """A client of a pipeline; `async with` opens and closes the connection.

    Args:
        url: the broker's, as `understudy status` prints it.
        pipeline: its name.
        timeout_s: how long a frame may take.
        window: how many frames of a stream may be under way.

    Raises (on entering):
        BrokerUnreachableError: no broker answers.
        UnknownPipelineError: no controller serves the pipeline; names those that are served.
    """
    return Client(url, pipeline, timeout_s=timeout_s, window=window)


async def _next(out: deque[asyncio.Future[Result]], *, ordered: bool) -> Result:
    if not ordered:
        await asyncio.wait(out, return_when=asyncio.FIRST_COMPLETED)
        done = next(future for future in out if future.done())
        out.remove(done)
        return done.result()
    # Not popped before it is done: a cancelled stream cancels it as well.
    result = await out[0]
    out.popleft()
    return result


async def _each(frames: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
    else:
        for frame in frames:
            yield frame
