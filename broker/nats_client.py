"""nats-py's client with what it gets wrong put right. It and the fast path use its private names; nothing else does.

What is put right (nats-py 2.16):
- It closes for good on most errors that a server sends; here the server decides, and a closed connection is made again.
- A PING overtakes what is still in the outbound buffer, so `flush` may return too early.
- A PONG that comes after its `flush` has timed out ends the read loop.
- A publisher that waits for room in the outbound buffer swallows its cancellation, and hangs while not connected.
- On a link that was cut, the reconnect waits until what was buffered is sent, which is never.
- A PING counts as unanswered while a large payload keeps the link busy.
- Told to use TLS it goes on without it where the server does not ask for it, and sends the password.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import structlog
from nats import errors as nats_errors
from nats.aio.client import Client

from broker.errors import PayloadTooLargeError, PermissionDeniedError
from broker.headers import clean_headers, encode_headers
from broker.nats_auth import check_encryption
from broker.nats_errors import OutboundBufferFullError
from broker.nats_fastpath import FastParser, FastTransport, supported
from broker.port import Buffer, Message
from broker.tasks import drop

# Above this, `publish` waits: enough to keep a link busy, little enough that a frame is not old when it leaves.
BACKPRESSURE_BYTES = 4 * 1024 * 1024
# Below this a copy is cheaper than the writes it saves (measured on asyncio; uvloop is indifferent at 64 KB).
_IN_PLACE_BYTES = 128 * 1024
_SPACE = re.compile(r"\s")

_log = structlog.get_logger(__name__)


@cache
def _fast() -> bool:
    if supported():
        return True
    _log.warning("nats_fast_path_unavailable")
    return False


class NatsClient(Client):
    """Use `publish_parts`, `confirm` and `stop` in place of `publish`, `flush` and `close`."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: set[asyncio.Future[None]] = set()
        self._requests: dict[str, set[asyncio.Future[None]]] = {}
        self._tls_wanted = False
        self.fast: FastTransport | None = None
        if _fast():
            self.fast = self._transport = FastTransport()
            self._ps = cast(Any, FastParser(self))

    def use(self, *, tls: bool, nkey: str | None, signs: bool) -> None:
        """Before `connect`: whether the server must speak TLS; the public key of an NKey; whether a key signs.

        nats-py sends none of this where the server does not say that it must be, as one with a default user does not.
        """
        self._tls_wanted = tls
        self._public_nkey = nkey
        self._auth_configured = signs

    @property
    def clustered(self) -> bool:
        """Whether the server says that it is one of a cluster."""
        return bool(self._server_info.get("cluster"))

    async def publish_parts(
        self, subject: str, parts: Sequence[Buffer], *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Put one message in the outbound buffer; waits while that is full and the connection is up.

        Raises:
            PayloadTooLargeError, OutboundBufferFullError, nats.errors.Error
        """
        header = encode_headers(clean_headers(headers)) if headers else b""
        size = _size(parts[0]) if len(parts) == 1 else sum(map(_size, parts))
        self._check(subject, reply, len(header) + size)  # the server counts headers too
        if self.fast is None:
            await self.publish(subject, b"".join(parts), reply=reply, headers=dict(headers) if headers else None)
            return
        # Before the first wait: the caller may write to its buffers afterwards.
        command = _command(subject, reply, header, parts, size)
        while self.is_connected and self._pending_data_size > BACKPRESSURE_BYTES:
            await self._written()
        if self.is_closed:
            raise nats_errors.ConnectionClosedError
        if not self.is_connected and self._pending_data_size + size > self._max_pending_size:
            raise OutboundBufferFullError
        # The list goes to `FastTransport.writelines` as it is, so it may hold views.
        cast(list[Buffer], self._pending).extend(command)
        # With the line, also for an empty payload: nats-py's flusher writes nothing while this is 0.
        self._pending_data_size += sum(map(len, command))
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += size
        if self._flushes.empty():
            await self._flush_pending()

    async def publish_now(self, messages: Sequence[Message], condition: Callable[[], bool]) -> bool:
        """Write to the socket at once: see `broker.port.Broker.publish_now`."""
        command: list[Buffer] = []
        for message in messages:
            header = encode_headers(clean_headers(message.headers)) if message.headers else b""
            size = _size(message.data)
            self._check(message.subject, message.reply, len(header) + size)
            command += _command(message.subject, message.reply, header, (message.data,), size)
        while self.is_connected and self._pending_data_size > BACKPRESSURE_BYTES:
            await self._written()
        if not self.is_connected or not condition():
            return False
        if self.fast is None:
            for message in messages:
                headers = dict(message.headers) or None
                await self.publish(message.subject, bytes(message.data), reply=message.reply, headers=headers)
            await self._written()
            return bool(self.is_connected)
        # What was published before goes first, as nats-py's flusher would send it.
        before, self._pending, self._pending_data_size = self._pending, [], 0
        self.fast.writelines([*before, *command])
        self.stats["out_msgs"] += len(messages)
        self.stats["out_bytes"] += sum(_size(message.data) for message in messages)
        return True

    async def request_parts(
        self, subject: str, parts: Sequence[Buffer], *, timeout_s: float, headers: Mapping[str, str] | None
    ) -> Any:
        """nats-py's request. Its `publish` is not given the parts, so they are joined."""
        payload = b"".join(parts)
        header = clean_headers(headers)
        size = len(encode_headers(header)) + len(payload)
        if size > self.max_payload:
            raise PayloadTooLargeError(subject, size, self.max_payload)
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asking = asyncio.ensure_future(self.request(subject, payload, timeout=timeout_s, headers=header or None))
        waiting = self._requests.setdefault(subject, set())
        waiting.add(refused)
        try:
            await asyncio.wait((asking, refused), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise PermissionDeniedError("publish", subject)
            return asking.result()
        finally:
            drop(asking)
            waiting.discard(refused)
            if not waiting:
                self._requests.pop(subject, None)

    def refuse_requests(self, subject: str) -> bool:
        """The server does not let us publish there: who waits for an answer need not. Whether anybody did."""
        waiting = self._requests.get(subject, set())
        for refused in waiting:
            if not refused.done():
                refused.set_result(None)
        return bool(waiting)

    async def confirm(self) -> bool:
        """Whether the server has taken everything so far; False if the connection was lost meanwhile."""
        if self.fast is None:
            # The first PING overtakes what is buffered; when its PONG is back, that has been written.
            await self.flush(5)
            await self.flush(5)
            return True
        await self._written()
        if not self.is_connected:
            return False
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(pong)
        try:
            await self._send_ping(pong)
            await pong
        finally:
            self._waiting.discard(pong)
        return bool(self.is_connected)

    async def stop(self) -> None:
        """Close. What cannot be sent is dropped."""
        if not self.is_connected:
            self._pending.clear()
            self._pending_data_size = 0
        try:
            await self.close()
        finally:
            self.release_waiting()
            if self.fast is not None:
                self.fast.abort()

    def handler_tasks(self) -> list[asyncio.Task[None]]:
        """The tasks that run the subscriptions' handlers, without the one that asks."""
        tasks: list[Any] = [subscription._wait_for_msgs_task for subscription in self._subs.values()]
        return [task for task in tasks if task is not None and task is not asyncio.current_task()]

    def release_waiting(self) -> None:
        """The connection is lost: nobody waits for it any longer."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def _check(self, subject: str, reply: str, size: int) -> None:
        if not subject or _SPACE.search(subject) or (reply and _SPACE.search(reply)):
            raise nats_errors.BadSubjectError
        if size > self.max_payload:
            raise PayloadTooLargeError(subject, size, self.max_payload)

    @property
    def _flushes(self) -> asyncio.Queue[asyncio.Future[Any]]:
        if self._flush_queue is None:
            raise nats_errors.ConnectionClosedError
        return self._flush_queue

    async def _written(self) -> None:
        """Wait until what is in the outbound buffer went to the socket, or the connection is lost."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(written)
        try:
            await self._flushes.put(written)
            await written
        finally:
            self._waiting.discard(written)

    async def _process_line(self, line: bytes) -> None:
        """A line of the protocol other than a message."""
        operation = line.partition(b" ")[0].strip().upper()
        match operation:
            case b"PING":
                await self._process_ping()
            case b"PONG":
                await self._process_pong()
            case b"-ERR":
                await self._process_err(line[len(operation) :].decode(errors="replace").strip())
            case b"INFO":
                await self._process_info(json.loads(line[len(operation) :]))
            case b"+OK" | b"":
                pass
            case _:
                raise nats_errors.ProtocolError

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection:
            check_encryption(self._tls_wanted, info)
        await super()._process_info(info, initial_connection)

    async def _process_err(self, err_msg: str) -> None:
        await self._error_cb(nats_errors.Error(f"nats: {err_msg.strip(chr(39))}"))

    async def _process_op_err(self, e: Exception) -> None:
        if self.fast is not None and not self.is_closed and not self.is_reconnecting:
            self.fast.abort()
        await super()._process_op_err(e)

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pongs_received += 1
            self._pings_outstanding = 0
            return
        await super()._process_pong()

    async def _ping_interval(self) -> None:
        if self.fast is None:
            await super()._ping_interval()
            return
        progress = self.fast.progress
        while True:
            await asyncio.sleep(self.options["ping_interval"])
            if not self.is_connected:
                continue
            (received, taken), progress = progress, self.fast.progress
            moved = progress[0] > received or progress[1] > taken
            self._pings_outstanding = 1 if moved else self._pings_outstanding + 1
            if self._pings_outstanding > self.options["max_outstanding_pings"]:
                await self._process_op_err(nats_errors.StaleConnectionError())
                return
            await self._send_ping()


def _size(part: Buffer) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)


def _command(subject: str, reply: str, header: bytes, parts: Sequence[Buffer], size: int) -> list[Buffer]:
    """PUB or HPUB as a list of buffers: one for a small message, the payload's own for a large one."""
    if header:
        line = f"HPUB {subject} {reply} {len(header)} {len(header) + size}\r\n".encode() + header
    else:
        line = f"PUB {subject} {reply} {size}\r\n".encode()
    if size < _IN_PLACE_BYTES:
        return [b"".join((line, *parts, b"\r\n"))]
    return [line, *(_frozen(part) for part in parts), b"\r\n"]


def _frozen(part: Buffer) -> Buffer:
    """The part itself if nobody may write to it, else a copy, which costs much less than a wrong frame."""
    if isinstance(part, bytes):
        return part
    if isinstance(part, memoryview) and part.readonly and part.c_contiguous:
        return part.cast("B") if part.nbytes else b""  # a cast of a shape with a 0 in it is an error
    return bytes(part)
