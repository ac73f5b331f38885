"""A transport and a parser for nats-py that do not copy large payloads, on its own seam `nats.aio.transport.Transport`.

`supported` looks whether the nats-py that is installed still has the private names that this rests on; if not, our
client uses nats-py as it is, slower and as correct.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import ParseResult

from nats.aio.client import Client
from nats.aio.transport import Transport

from broker.nats_framing import Framing, Item, dispatch
from broker.port import Buffer

LINGER_S = 1.0
WRITE_HIGH_WATER_BYTES = 256 * 1024
_JOIN_BELOW_BYTES = 8 * 1024


class FastTransport(Transport):
    """TCP and TLS. Large buffers are written as they are, not joined with others first."""

    def __init__(self) -> None:
        self._framing = Framing()
        self._transport: asyncio.Transport | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._written_bytes = 0

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:  # noqa: ARG002
        loop = asyncio.get_running_loop()
        if uri.hostname is None or uri.port is None:
            raise ConnectionError("the URL names no host")
        async with asyncio.timeout(connect_timeout):
            transport, self._framing = await loop.create_connection(Framing, uri.hostname, uri.port)
        self._use(transport)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002 - nats-py's signature
        connect_timeout: float,
    ) -> None:
        if self._transport is None:
            raise ConnectionError("connect must be called first")
        hostname = uri if isinstance(uri, str) else uri.hostname
        async with asyncio.timeout(connect_timeout):
            transport = await asyncio.get_running_loop().start_tls(
                self._transport, self._framing, ssl_context, server_hostname=hostname
            )
        if transport is None:
            raise ConnectionError("the connection was lost during the TLS handshake")
        self._use(transport)

    def _use(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._written_bytes = 0
        self._framing.use(transport)
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes that the socket gave and took; what we write does not move it until the socket takes it."""
        buffered = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._framing.received_bytes, self._written_bytes - buffered

    def write(self, payload: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._written_bytes += len(payload)
            self._transport.write(payload)

    def writelines(self, payload: Sequence[Buffer]) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        # One by one: asyncio's own writelines joins everything (before Python 3.12).
        for buffer in _join_small(payload):
            self._written_bytes += len(buffer)
            self._transport.write(buffer)

    async def read(self, buffer_size: int) -> list[Item]:  # type: ignore[override]  # noqa: ARG002
        """What `FastParser.parse` takes, where nats-py's own pair passes bytes."""
        return await self._framing.items()

    async def readline(self) -> bytes:
        return await self._framing.line()

    async def drain(self) -> None:
        await self._framing.drain()

    async def wait_closed(self) -> None:
        if self._transport is None:
            return
        await self._framing.lost.wait()
        if self._linger is not None:
            self._linger.cancel()

    def close(self) -> None:
        """Close when what is buffered is sent, or after `LINGER_S`: a peer that takes nothing must not hold us up."""
        if self._transport is None:
            return
        if not self._transport.is_closing():  # a TLS transport of Python 3.11.2 that is closed twice cannot be aborted
            self._transport.close()
        if self._linger is not None:
            self._linger.cancel()
        self._linger = asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)

    def abort(self) -> None:
        """Close at once; what is buffered is lost."""
        if self._transport is not None:
            self._transport.abort()

    def at_eof(self) -> bool:
        return self._framing.at_end

    def __bool__(self) -> bool:
        return True  # there, connected or not: nats-py makes its own where this is False


class FastParser:
    """Stands where nats-py's parser does. The framing was done in the transport; this hands it on."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def reset(self) -> None:
        """Every connection has a framing of its own: nothing to reset."""

    async def parse(self, items: list[Item] | bytes = b"") -> None:
        if isinstance(items, list):
            await dispatch(self._client, items)


def supported() -> bool:
    """Whether the installed nats-py has everything that this replaces, in the shape that this expects."""
    abstract: frozenset[str] = getattr(Transport, "__abstractmethods__", frozenset())
    if not abstract or not all(name in vars(FastTransport) for name in abstract):
        return False
    expected = {
        "_process_msg": ["self", "sid", "subject", "reply", "data", "headers"],
        "_process_ping": ["self"],
        "_process_pong": ["self"],
        "_process_err": ["self", "err_msg"],
        "_process_op_err": ["self", "e"],
        "_flush_pending": ["self", "force_flush"],
        "_read_loop": ["self"],
        "_ping_interval": ["self"],
    }
    for name, parameters in expected.items():
        method = getattr(Client, name, None)
        if not inspect.iscoroutinefunction(method) or list(inspect.signature(method).parameters) != parameters:
            return False
    attributes = vars(Client())
    needed = {"_transport", "_ps", "_pending", "_pending_data_size", "_max_pending_size", "_flush_queue", "_pongs"}
    return needed | {"_pings_outstanding", "_current_server"} <= attributes.keys()


def _join_small(buffers: Iterable[Buffer]) -> list[Buffer]:
    """Runs of small buffers as one, so that they are one write."""
    joined: list[Buffer] = []
    small: list[Buffer] = []
    for buffer in buffers:
        if len(buffer) < _JOIN_BELOW_BYTES:
            small.append(buffer)
            continue
        if small:
            joined.append(b"".join(small))
            small = []
        joined.append(buffer)
    if small:
        joined.append(b"".join(small))
    return joined
