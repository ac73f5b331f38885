"""A slow link: a TCP relay that lets so many bytes per second through in each direction."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

READ_BYTES = 16 << 10
BURST_S = 0.001


@asynccontextmanager
async def relay(port: int, bytes_per_s: float) -> AsyncIterator[int]:
    """Its own port on the loopback, in front of `port`. Each connection and direction has a link of its own."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        for source, target in ((reader, back), (there, writer)):
            task = asyncio.create_task(_pass_on(source, target, bytes_per_s))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        running = list(tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter, bytes_per_s: float) -> None:
    free_at = time.monotonic()
    try:
        while data := await source.read(READ_BYTES):
            free_at = max(free_at, time.monotonic() - BURST_S) + len(data) / bytes_per_s
            await asyncio.sleep(max(0.0, free_at - time.monotonic()))
            target.write(data)
            await target.drain()
    except OSError:
        pass
    finally:
        target.close()
        with contextlib.suppress(OSError):
            await target.wait_closed()
