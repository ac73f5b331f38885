"""Fixtures that the back ends' suites share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from broker.connect import connect as connect_to
from broker.port import Broker, Message

Connect = Callable[[], Awaitable[Broker]]

WAIT_S = 15.0
"""What is waited for comes within milliseconds; this is when a test gives up."""


class Inbox:
    """A handler that keeps what it gets, and a bounded way to wait for it."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue()

    async def __call__(self, message: Message) -> None:
        self._messages.put_nowait(message)

    async def next(self) -> Message:
        async with asyncio.timeout(WAIT_S):
            return await self._messages.get()

    async def take(self, count: int) -> list[Message]:
        return [await self.next() for _ in range(count)]

    @property
    def waiting(self) -> int:
        return self._messages.qsize()


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.stem.endswith("_uvloop"):
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@asynccontextmanager
async def connections(url: str | Callable[[], str]) -> AsyncIterator[Connect]:
    """Opens connections to one broker, at the end closes them all. `url` may differ from one to the next."""
    opened: list[Broker] = []

    async def connect() -> Broker:
        opened.append(await connect_to(url if isinstance(url, str) else url()))
        return opened[-1]

    yield connect
    for broker in opened:
        await broker.close()


async def eventually(condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = WAIT_S) -> None:
    """Poll until the condition holds; TimeoutError after `within_s`."""
    async with asyncio.timeout(within_s):
        while True:
            outcome = condition()
            if outcome is True or (not isinstance(outcome, bool) and await outcome):
                return
            await asyncio.sleep(0.005)
