"""A node that was disconnected for a moment tells the head: what was on its way to it is lost.

Core NATS delivers at most once. When a server dies, nodes that were there are connected elsewhere within milliseconds;
what was on its way to them is gone, and nobody but they knows when. Without a word of theirs the head would find out
when its patience is over, seconds later. It sends again what is in flight, at most once in `CALM_S`; of a frame that
was not lost after all the first outcome counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from broker import subjects
from broker.errors import BrokerError
from broker.port import Broker, Message, Subscription

log = structlog.get_logger("understudy.node")

CALM_S = 0.05
"""Nodes that were at the same server come back one after the other: their words are taken together."""


class Gap:
    """Made with the connection for data; `listen` as soon as the pipeline is known; `stop` at the end."""

    def __init__(
        self, broker: Broker, *, concerned: Callable[[], bool], send_again: Callable[[], Awaitable[None]]
    ) -> None:
        """`concerned`: whether this node has a part in the pipeline. `send_again`: has its head, if any, do so."""
        self._broker = broker
        self._concerned = concerned
        self._send_again = send_again
        self._subject = ""
        self._subscription: Subscription | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard = asyncio.Event()
        broker.on_connection(self._on_connection)

    async def listen(self, pipeline: str) -> None:
        """Idempotent."""
        if self._subscription is None:
            self._subject = subjects.gap(pipeline)
            self._subscription = await self._broker.subscribe(self._subject, self._on_notice)
            self._begin(self._answer(), "gap-answer")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    def check(self) -> None:
        """Raise the error of a task that ended with one: a defect of ours."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    def _on_connection(self, up: bool) -> None:
        if up and self._subject and self._concerned():
            self._begin(self._tell(), "gap-tell")

    async def _tell(self) -> None:
        try:
            # First our subscriptions, which were sent again: then what is sent again finds us.
            await self._broker.flush()
            await self._broker.publish(self._subject, b"")
        except BrokerError as error:
            log.debug("gap-not-told", reason=str(error))

    async def _on_notice(self, message: Message) -> None:  # noqa: ARG002 - there is nothing in it
        self._heard.set()

    async def _answer(self) -> None:
        while True:
            await self._heard.wait()
            self._heard.clear()
            await self._send_again()
            await asyncio.sleep(CALM_S)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks = {old for old in self._tasks if not old.done() or (not old.cancelled() and old.exception())}
        self._tasks.add(task)
