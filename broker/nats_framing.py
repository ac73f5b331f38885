"""The NATS client protocol, received without copying: a payload is read from the socket into its own bytearray.

nats-py's parser copies a payload about five times, in steps of 32 KB. Here the bytes of a large payload go from the
kernel straight to where they stay; only what came in one read with the control line before it is copied, once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, cast

from nats.errors import ProtocolError

SCRATCH_BYTES = 32 * 1024
MAX_LINE_BYTES = 1024 * 1024
# What is read and not yet dispatched. nats-py's read loop takes it at once; this only bounds a stalled event loop.
READ_AHEAD_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class Frame:
    """A MSG or HMSG: `data` becomes complete while it is received; it is followed by CRLF until `finish`."""

    sid: int
    subject: bytes
    reply: bytes
    header: bytes | None
    size_bytes: int
    data: bytes | bytearray = b""

    def finish(self) -> None:
        """Cut the CRLF off, in place. Only possible when the event loop has let go of its view of `data`."""
        if isinstance(self.data, bytearray):
            del self.data[self.size_bytes :]


Item = Frame | bytes
"""A message, or another line of the protocol without its CRLF."""


class Framing(asyncio.BufferedProtocol):
    """Cuts what the socket delivers into frames and lines, and tells the writer when to wait."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._scratch = bytearray(SCRATCH_BYTES)
        self._start = 0  # of what is in the scratch and not yet used
        self._end = 0
        self._frame: Frame | None = None  # being filled
        self._filled = 0
        self._view: memoryview | None = None  # handed to the event loop
        self._items: deque[Item] = deque()
        self._waiting_bytes = 0
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._error: Exception | None = None
        self._reason: OSError | None = None  # for which the connection was lost
        self._reading_paused = False
        self.received_bytes = 0
        self.lost = asyncio.Event()

    # --- what the transport asks ---

    async def items(self) -> list[Item]:
        """Everything that has arrived, at least one item; empty at the end.

        Raises:
            ProtocolError: what arrived is not the NATS protocol.
        """
        await self._readable.wait()
        items = list(self._items)
        self._clear()
        if not items and self._error is not None:
            raise self._error
        return items

    async def line(self) -> bytes:
        """The next line with its CRLF, for the handshake, where no messages come; empty at the end.

        Raises:
            OSError: the connection was lost for a reason: a TLS server refuses our certificate only now.
        """
        while not self._items and not self.lost.is_set():
            await self._readable.wait()
        if not self._items:
            if self._reason is not None:
                raise self._reason
            return b""
        item = self._items.popleft()
        if isinstance(item, Frame):
            raise ProtocolError
        if not self._items and not self.lost.is_set():
            self._readable.clear()
        return item + b"\r\n"

    async def drain(self) -> None:
        """Wait until the socket takes more.

        Raises:
            OSError: the connection is lost.
        """
        await self._writable.wait()
        if self.lost.is_set():
            raise self._reason or ConnectionResetError("connection lost")

    @property
    def at_end(self) -> bool:
        return self.lost.is_set() and not self._items and self._error is None

    def _clear(self) -> None:
        self._items.clear()
        self._waiting_bytes = 0
        if not self.lost.is_set():
            self._readable.clear()
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()

    # --- what the event loop tells ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport, not the class.
        self.use(cast(asyncio.Transport, transport))

    def use(self, transport: asyncio.Transport) -> None:
        """Read from this transport (after TLS was started, another than before)."""
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        if self._frame is not None and isinstance(self._frame.data, bytearray):
            self._view = memoryview(self._frame.data)[self._filled :]
        else:
            self._make_room()
            self._view = memoryview(self._scratch)[self._end :]
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._view = None
        self.received_bytes += nbytes
        if self._frame is not None:
            self._filled += nbytes
            if self._filled == self._frame.size_bytes + 2:
                self._complete(self._frame)
                self._frame = None
        else:
            self._end += nbytes
            try:
                self._parse()
            except (ValueError, ProtocolError):
                self._fail(ProtocolError())
                return
        if self._items:
            self._readable.set()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._reason = exc if isinstance(exc, OSError) else None
        self.lost.set()
        self._readable.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # --- the protocol ---

    def _make_room(self) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        if self._end < len(self._scratch):
            return
        # Full of a line that has not ended. A new one: the event loop may still hold a view of the old.
        rest = self._scratch[self._start : self._end]
        size = len(self._scratch) if self._start else 2 * len(self._scratch)
        self._scratch = rest + bytes(size - len(rest))
        self._start, self._end = 0, len(rest)

    def _parse(self) -> None:
        while self._frame is None and self._start < self._end:
            line_end = self._scratch.find(b"\r\n", self._start, self._end)
            if line_end < 0:
                if self._end - self._start > MAX_LINE_BYTES:
                    raise ProtocolError
                return
            line = bytes(self._scratch[self._start : line_end])
            if line.startswith(b"MSG "):
                self._begin(_frame(line, header_size=0), line_end + 2)
            elif line.startswith(b"HMSG "):
                header_size = int(line.split()[-2])
                body = line_end + 2 + header_size
                if body > self._end:
                    if header_size > MAX_LINE_BYTES:
                        raise ProtocolError
                    return
                frame = _frame(line, header_size=header_size)
                frame.header = bytes(self._scratch[line_end + 2 : body])
                self._begin(frame, body)
            else:
                self._items.append(line)
                self._start = line_end + 2

    def _begin(self, frame: Frame, body: int) -> None:
        """A message whose payload begins at `body` in the scratch: take it, or what is there of it."""
        if frame.size_bytes < 0:
            raise ProtocolError
        end = body + frame.size_bytes
        if end + 2 <= self._end:
            frame.data = bytes(memoryview(self._scratch)[body:end])
            self._start = end + 2
            self._complete(frame)
            return
        frame.data = bytearray(frame.size_bytes + 2)
        self._filled = self._end - body
        frame.data[: self._filled] = memoryview(self._scratch)[body : self._end]
        self._start = self._end
        self._frame = frame

    def _complete(self, frame: Frame) -> None:
        self._items.append(frame)
        self._waiting_bytes += frame.size_bytes
        if self._waiting_bytes > READ_AHEAD_BYTES and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._readable.set()
        if self._transport is not None:
            self._transport.abort()


def _frame(line: bytes, *, header_size: int) -> Frame:
    """`MSG <subject> <sid> [reply] <size>` or `HMSG <subject> <sid> [reply] <header size> <total size>`."""
    _, subject, sid, *rest = line.split()
    reply = rest[0] if len(rest) > (2 if line.startswith(b"H") else 1) else b""
    return Frame(int(sid), subject, reply, None, int(rest[-1]) - header_size)


async def dispatch(client: Any, items: list[Item]) -> None:
    """Give what arrived to nats-py's client, as its own parser would."""
    for item in items:
        if isinstance(item, Frame):
            item.finish()
            await client._process_msg(item.sid, item.subject, item.reply, item.data, item.header)
            continue
        await client._process_line(item)
