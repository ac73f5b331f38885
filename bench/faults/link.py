"""The network between one process and the broker's servers: a TCP relay that can be cut, half cut, delayed and slowed.

A cut passes no byte and sends no RST or FIN, as a pulled cable does; what was sent meanwhile arrives when it is
restored, as TCP would send it again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import cast

HOLD_BYTES = 1 << 20
"""A direction that holds more than so much reads no more until some of it is delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a link does to bytes. `up`: from the process to the broker.

    Attributes:
        up, down: whether anything passes in this direction.
        delay_s: that every byte takes longer, in each direction.
        bytes_per_s: of each connection and direction; 0: no limit.
    """

    up: bool = True
    down: bool = True
    delay_s: float = 0.0
    bytes_per_s: float = 0.0

    def __str__(self) -> str:
        if not (self.up or self.down):
            return "nothing passes"
        said = ["" if self.up else "nothing goes up", "" if self.down else "nothing comes down"]
        said += [f"{self.delay_s * 1e3:.0f} ms late"] if self.delay_s else []
        said += [f"{self.bytes_per_s / 1e3:.0f} kB/s"] if self.bytes_per_s else []
        return ", ".join(filter(None, said)) or "good"


GOOD = Shape()


class Link:
    """One process's way to all servers: `start` listens on a free port of the loopback for each of these ports, and
    passes all connections on to it."""

    def __init__(self, *target_ports: int) -> None:
        self._target_ports = target_ports
        self._servers: list[asyncio.Server] = []
        self._pairs: set[_Pair] = set()
        self._shapes: list[Shape] = []
        self.shape = GOOD

    @property
    def ports(self) -> list[int]:
        """In the order of the targets."""
        return [int(server.sockets[0].getsockname()[1]) for server in self._servers]

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for target in self._target_ports:
            self._servers.append(await loop.create_server(partial(self._accept, target), "127.0.0.1", 0))

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for pair in list(self._pairs):
            pair.abort()

    def add(self, shape: Shape) -> None:
        """One more thing that is wrong with the link; connections that are open have it too."""
        self._shapes.append(shape)
        self._reshape()

    def remove(self, shape: Shape) -> None:
        self._shapes.remove(shape)
        self._reshape()

    def _reshape(self) -> None:
        limits = [shape.bytes_per_s for shape in self._shapes if shape.bytes_per_s]
        self.shape = Shape(
            up=all(shape.up for shape in self._shapes),
            down=all(shape.down for shape in self._shapes),
            delay_s=sum(shape.delay_s for shape in self._shapes),
            bytes_per_s=min(limits, default=0.0),
        )
        for pair in list(self._pairs):
            pair.reshape()

    def _accept(self, target_port: int) -> asyncio.Protocol:
        pair = _Pair(self, target_port)
        self._pairs.add(pair)
        return pair.near


class _Pair:
    """One connection: the process's side (`near`), and ours to the broker (`far`)."""

    def __init__(self, link: Link, target_port: int) -> None:
        self._link, self._target_port = link, target_port
        self._connecting: asyncio.Task[None] | None = None
        self.near = _Side(self, up=True)
        self.far = _Side(self, up=False)
        self.near.other, self.far.other = self.far, self.near

    @property
    def shape(self) -> Shape:
        return self._link.shape

    def opened(self, side: _Side) -> None:
        if side is self.near:
            self.reshape()

    def reshape(self) -> None:
        # Through a link that is cut nobody can connect; through one that is half cut neither.
        can_connect = self.shape.up and self.shape.down and self.far.transport is None and not self.near.ended
        if can_connect and self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(), name="link-connect")
        self.near.go_on()
        self.far.go_on()

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.far, "127.0.0.1", self._target_port)
        except OSError:
            self.abort()
            return
        self.near.go_on()

    def abort(self) -> None:
        if self._connecting is not None and self._connecting is not asyncio.current_task():
            self._connecting.cancel()
        for side in (self.near, self.far):
            side.ended = True
            if side.transport is not None:
                side.transport.abort()
        self._link._pairs.discard(self)

    def closed(self) -> None:
        if self.near.gone and (self.far.gone or self.far.transport is None):
            self._link._pairs.discard(self)


class _Side(asyncio.Protocol):
    """Reads from one side, and delivers to the other what is due."""

    def __init__(self, pair: _Pair, *, up: bool) -> None:
        self._pair, self._up = pair, up
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._free_at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._target_full = False
        self.other: _Side = self
        self.transport: asyncio.Transport | None = None
        self.ended = False  # nothing more is read from it
        self.gone = False

    # ---- what asyncio calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._pair.opened(self)
        self.go_on()

    def data_received(self, data: bytes) -> None:
        shape, now_s = self._pair.shape, asyncio.get_running_loop().time()
        due_s = now_s + shape.delay_s
        if shape.bytes_per_s:
            self._free_at_s = max(self._free_at_s, now_s) + len(data) / shape.bytes_per_s
            due_s = max(due_s, self._free_at_s)
        self._held.append((due_s, bytes(data)))
        self._held_bytes += len(data)
        self.go_on()

    def eof_received(self) -> bool:
        self.ended = True
        self.go_on()
        return True  # closed when what is held is delivered

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self.ended = self.gone = True
        self.go_on()
        self._pair.closed()

    def pause_writing(self) -> None:
        self.other._target_full = True
        self.other.go_on()

    def resume_writing(self) -> None:
        self.other._target_full = False
        self.other.go_on()

    # ---- delivering --------------------------------------------------------------------------------------------

    @property
    def _open(self) -> bool:
        return self._pair.shape.up if self._up else self._pair.shape.down

    def go_on(self) -> None:
        """Deliver what is due, read on or not, pass the end on."""
        loop = asyncio.get_running_loop()
        target = self.other.transport
        if self._open and target is not None:
            while self._held and not self._target_full and self._held[0][0] <= loop.time():
                _, data = self._held.popleft()
                self._held_bytes -= len(data)
                if not target.is_closing():
                    target.write(data)
            if self.ended and not self._held:
                target.close()
            elif self._held and self._timer is None and not self._target_full:
                self._timer = loop.call_at(self._held[0][0], self._on_timer)
        self._read(self._open and target is not None and self._held_bytes < HOLD_BYTES and not self._target_full)

    def _on_timer(self) -> None:
        self._timer = None
        self.go_on()

    def _read(self, wanted: bool) -> None:
        if self.transport is None or self.ended or self.transport.is_closing():
            return
        if wanted and not self.transport.is_reading():
            self.transport.resume_reading()
        elif not wanted and self.transport.is_reading():
            self.transport.pause_reading()
