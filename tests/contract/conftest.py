"""Fixtures that the back ends' suites share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from broker.port import Message
from broker.process import spawn, terminate
from broker.server import find_binary

WAIT_S = 5.0
START_S = 8.0


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


async def eventually(condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = WAIT_S) -> None:
    """Poll until the condition holds; TimeoutError after `within_s`."""
    async with asyncio.timeout(within_s):
        while True:
            outcome = condition()
            if outcome is True or (not isinstance(outcome, bool) and await outcome):
                return
            await asyncio.sleep(0.005)


@pytest.fixture
async def without_jetstream(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a nats-server that keeps nothing."""
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = await spawn(
            [str(find_binary()), "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(tmp_path)],
            stdout=output,
            stderr=output,
        )
    try:
        ports = tmp_path / f"{find_binary().name}_{process.pid}.ports"
        await eventually(lambda: ports.exists() and '"nats"' in ports.read_text(), within_s=START_S)
        yield f"nats://127.0.0.1:{ports.read_text().split('127.0.0.1:')[1].split(chr(34))[0]}"
    finally:
        await terminate(process, 2.0)
