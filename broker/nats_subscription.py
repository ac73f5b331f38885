"""A subscription of the NATS back end."""

from __future__ import annotations

import asyncio
import contextlib

from nats import errors as nats_errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsPySubscription

from broker.dispatch import run_handler
from broker.port import Handler, Message


class NatsSubscription:
    """One subscription; its handler runs in one task, one message after the other."""

    def __init__(self, subject: str, handler: Handler) -> None:
        self._subject = subject
        self._handler = handler
        self.inner: NatsPySubscription | None = None  # known only after `handle` was given to it
        self._closed = False
        self._background: set[asyncio.Task[None]] = set()

    async def handle(self, received: Msg) -> None:
        if self._closed:
            return
        await run_handler(self._handler, message_of(received), subscription=self._subject)

    async def unsubscribe(self) -> None:
        if self._closed or self.inner is None:
            return
        self._closed = True
        if self.inner._wait_for_msgs_task is asyncio.current_task():
            # From inside its own handler: nats-py would cancel the task that is asking.
            task = asyncio.create_task(self._unsubscribe(self.inner), name=f"unsubscribe {self._subject}")
            self._background.add(task)
            task.add_done_callback(self._background.discard)
            return
        await self._unsubscribe(self.inner)

    @staticmethod
    async def _unsubscribe(inner: NatsPySubscription) -> None:
        with contextlib.suppress(nats_errors.Error):  # closed in the meantime: then it is unsubscribed
            await inner.unsubscribe()


def message_of(received: Msg) -> Message:
    """What nats-py received, as the port's message."""
    return Message(subject=received.subject, data=received.data, reply=received.reply, headers=received.headers or {})
