"""What the back ends share: running a subscription's handler so that its failure harms nobody else, telling listeners
of the connection, and a subscription of those back ends that find by themselves whom a message is for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

import structlog

from broker.port import ConnectionListener, Handler, Message

# isinstance with a tuple is several times as fast as with the union in the port.
BUFFER_TYPES = (bytes, bytearray, memoryview)

CLOSE_TIMEOUT_S = 2.0

_log = structlog.get_logger(__name__)


async def run_handler(handler: Handler, message: Message, *, subscription: str) -> None:
    """Call the handler; log what it raises. Only the cancellation of the running task itself goes through."""
    try:
        await handler(message)
    except asyncio.CancelledError:
        # Of this task: it must end. Of something that the handler awaited: that is an error of the handler.
        task = asyncio.current_task()
        if task is not None and task.cancelling() > 0:
            raise
        _log.exception("handler_failed", subject=message.subject, subscription=subscription)
    except Exception:
        _log.exception("handler_failed", subject=message.subject, subscription=subscription)


def tell(listeners: Iterable[ConnectionListener], connected: bool, *, url: str) -> None:
    """Tell all of them; log what one raises."""
    for listener in listeners:
        try:
            listener(connected)
        except Exception:
            _log.exception("connection_listener_failed", url=url)


def pattern(subject: str) -> re.Pattern[str]:
    """What matches the subjects of a subscription to this one, which may have wildcards."""
    wild = {"*": r"[^.]+", ">": r".+"}
    return re.compile(r"\.".join(wild.get(word, re.escape(word)) for word in subject.split(".")))


class QueuedSubscription:
    """Messages that `put` was given go to the handler in a task, one after the other. What comes while `queue_messages`
    wait is dropped, with a warning in the log, as a broker drops what a slow consumer does not take."""

    def __init__(self, subject: str, handler: Handler, *, kind: str, queue_messages: int) -> None:
        """`kind`: of back end, for the task's name."""
        self.subject = subject
        self._pattern = pattern(subject)
        self._handler = handler
        self._ended = False
        self._messages: asyncio.Queue[Message] = asyncio.Queue(queue_messages)
        self.task = asyncio.create_task(self._run(), name=f"{kind} subscription {subject}")

    def matches(self, subject: str) -> bool:
        return self._pattern.fullmatch(subject) is not None

    def put(self, message: Message) -> None:
        try:
            self._messages.put_nowait(message)
        except asyncio.QueueFull:
            _log.warning("slow_consumer", subject=message.subject, subscription=self.subject)

    async def stop(self) -> None:
        """No further message reaches the handler. Idempotent."""
        self._ended = True
        # Asked from inside its own handler, the task ends after it: see `_run`.
        if self.task is not asyncio.current_task():
            self.task.cancel()
            await asyncio.wait([self.task], timeout=CLOSE_TIMEOUT_S)

    async def _run(self) -> None:
        while not self._ended:
            message = await self._messages.get()
            await run_handler(self._handler, message, subscription=self.subject)
