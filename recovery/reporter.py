"""Answers requests for the status and the journal, and publishes events, on the data account."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import structlog

from broker import subjects
from broker.errors import BrokerError
from broker.port import Broker, Message
from recovery.journal import Journal, Record

log = structlog.get_logger("understudy.controller")

EVENTS_WAITING = 1024


class Reporter:
    """Use `run`; it ends when it is cancelled."""

    def __init__(
        self, broker: Broker, *, pipeline: str, journal: Journal, snapshot: Callable[[], dict[str, Any]]
    ) -> None:
        self._broker = broker
        self._pipeline = pipeline
        self._journal = journal
        self._snapshot = snapshot
        self._news: asyncio.Queue[bytes] = asyncio.Queue(maxsize=EVENTS_WAITING)

    def tell(self, record: Record) -> None:
        """A record has changed."""
        document = {"pipeline": self._pipeline, **record.document()}
        with contextlib.suppress(asyncio.QueueFull):  # nobody can follow that many; the journal has them
            self._news.put_nowait(json.dumps(document).encode())

    async def run(self) -> None:
        """Serve until cancelled."""
        async with contextlib.AsyncExitStack() as stack:
            for subject, handler in (
                (subjects.STATUS, self._on_status),
                (subjects.journal(self._pipeline), self._on_journal),
            ):
                subscription = await self._broker.subscribe(subject, handler)
                stack.push_async_callback(subscription.unsubscribe)
            while True:
                await self._publish(subjects.events(self._pipeline), await self._news.get())

    async def _on_status(self, message: Message) -> None:
        await self._answer(message, json.dumps(self._snapshot()).encode())

    async def _on_journal(self, message: Message) -> None:
        records = [record.document() for record in self._journal.records]
        await self._answer(message, json.dumps({"records": records}).encode())

    async def _answer(self, message: Message, data: bytes) -> None:
        if subjects.is_answerable(message.reply):
            await self._publish(message.reply, data)

    async def _publish(self, subject: str, data: bytes) -> None:
        try:
            await self._broker.publish(subject, data)
        except BrokerError as error:
            log.warning("publish-failed", subject=subject, reason=str(error))
