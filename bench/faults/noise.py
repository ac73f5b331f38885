"""Strangers who disturb: one who says everything twice, one who says nonsense everywhere, one who does not listen."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgpack
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

ECHO_HEADER = "X-Chaos-Echo"
NEVER_TWICE = (".out", ".dead", ".lead", ".events", "._.status", ".journal")
"""Ends of subjects whose messages are for strangers: a second one would be the echo's doing, not the pipeline's."""

Payloads = Mapping[str, Sequence[bytes]]


@asynccontextmanager
async def stranger(url: str, name: str) -> AsyncIterator[Client]:
    """A connection of somebody who does not care for errors, and comes back after an outage."""

    async def ignore(_: Exception) -> None:
        return None

    connection = await nats.connect(
        url, name=name, reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=ignore, pending_size=8 << 20
    )
    try:
        yield connection
    finally:
        with contextlib.suppress(NatsError, OSError):
            async with asyncio.timeout(2):
                await connection.close()


@asynccontextmanager
async def echoing(urls: Sequence[str]) -> AsyncIterator[None]:
    """While it lasts, every message that is seen is published a second time, on each of the accounts."""
    async with contextlib.AsyncExitStack() as stack:
        for url in urls:
            connection = await stack.enter_async_context(stranger(url, "chaos-echo"))
            await connection.subscribe("understudy.>", cb=_Echo(connection).publish)
        yield


class _Echo:
    def __init__(self, connection: Client) -> None:
        self._connection = connection

    async def publish(self, message: Msg) -> None:
        if message.subject.endswith(NEVER_TWICE) or ECHO_HEADER in (message.headers or {}):
            return
        # A request is answered to whoever asked, as the first one was.
        headers = {**(message.headers or {}), ECHO_HEADER: "1"}
        with contextlib.suppress(NatsError):
            await self._connection.publish(message.subject, message.data, reply=message.reply, headers=headers)


# ---- garbage -------------------------------------------------------------------------------------------------------


def data_subjects(pipeline: str, nodes: Sequence[str], blocks: int, held: Sequence[str]) -> list[str]:
    """Subjects of the data account. `held`: SHA-256 of blobs that somebody has."""
    cuts = [f"understudy.{pipeline}.cut.{cut}.{node}" for node in nodes for cut in (0, 1, blocks // 2, blocks, 999)]
    per_node = [f"understudy.{pipeline}.handover.{node}" for node in nodes]
    per_node += [f"understudy._.probe-data.{node}" for node in nodes]
    shared = [f"understudy.{pipeline}.{end}" for end in ("in", "in", "out", "dead", "lead", "events", "journal")]
    blobs = [f"understudy._.blob.{sha256}" for sha256 in (*held, secrets.token_hex(32), "nonsense")]
    return [*cuts, *per_node, *shared, *blobs, "understudy._.status"]


def control_subjects(pipeline: str, nodes: Sequence[str]) -> list[str]:
    """Subjects of the control account."""
    kinds = ("beat", "pulse", "assign", "spares", "probe")
    per_node = [f"understudy._.{kind}.{node}" for node in [*nodes, "nobody"] for kind in kinds]
    return [
        *per_node,
        "understudy._.bye",
        *(f"understudy._.{kind}.{pipeline}" for kind in ("activate", "confirm", "update")),
    ]


class Nonsense:
    """Messages that nobody should understand, of every sort: random bytes, the beginnings of messages that were valid,
    msgpack of the wrong form, deep or large."""

    def __init__(self, chance: random.Random, seen: Payloads) -> None:
        self._chance, self._seen = chance, seen

    def message(self, subject: str) -> tuple[bytes, dict[str, str] | None]:
        """A payload, and headers or none."""
        chance = self._chance
        make = chance.choice((self._noise, self._truncated, self._truncated, self._wrong_form, self._deep, self._empty))
        return make(subject), self._headers() if chance.random() < 0.2 else None

    def _noise(self, _: str) -> bytes:
        return self._chance.randbytes(self._chance.choice((1, 7, 64, 1500, 20_000)))

    def _truncated(self, subject: str) -> bytes:
        known = self._seen.get(kind_of(subject)) or [b"\xff\xd8\xff\xe0 no image", b'{"id":"x"}']
        payload = self._chance.choice(known)
        return payload[: self._chance.randrange(max(1, len(payload)))]

    def _wrong_form(self, _: str) -> bytes:
        forms: tuple[Any, ...] = (
            [],
            {},
            [{}],
            [{"v": 1}],
            {"node": 7},
            "text",
            2**63,
            [{"v": 99}, b"x"],
            {"epoch": -1},
        )
        return bytes(msgpack.packb(self._chance.choice(forms)))

    def _deep(self, _: str) -> bytes:
        return b"\x91" * self._chance.choice((100, 5000)) + b"\xc0"

    def _empty(self, subject: str) -> bytes:
        # An empty frame is answered with an error; an empty status request is a good one.
        return b"\x00" if subject.endswith(("status", "journal")) else b""

    def _headers(self) -> dict[str, str]:
        chance = self._chance
        if chance.random() < 0.5:
            return {"Nats-Msg-Id": "x" * chance.choice((257, 3000))}
        return {f"X-{i}": "y" * 400 for i in range(chance.choice((1, 40)))}


def kind_of(subject: str) -> str:
    """What sort of message a subject carries."""
    words = subject.split(".")
    return words[2] if len(words) > 2 else subject


async def overhear(urls: Sequence[str], *, seconds: float, most: int = 20) -> Payloads:
    """Valid messages of each kind, as they come by."""
    seen: dict[str, list[bytes]] = {}

    async def keep(message: Msg) -> None:
        kept = seen.setdefault(kind_of(message.subject), [])
        if len(kept) < most and message.data:
            kept.append(message.data)

    async with contextlib.AsyncExitStack() as stack:
        for url in urls:
            connection = await stack.enter_async_context(stranger(url, "chaos-overhears"))
            await connection.subscribe("understudy.>", cb=keep)
        await asyncio.sleep(seconds)
    return seen


async def babble(
    url: str,
    subjects: Sequence[str],
    nonsense: Nonsense,
    chance: random.Random,
    *,
    rate_per_s: float,
    messages: int = 0,
) -> int:
    """Publish nonsense on these subjects, at this rate, until cancelled or so many `messages` are out; returns how
    many."""
    loop, sent = asyncio.get_running_loop(), 0
    async with stranger(url, "chaos-babbles") as connection:
        due_s = loop.time()
        while not messages or sent < messages:
            subject = chance.choice(subjects)
            payload, headers = nonsense.message(subject)
            reply = connection.new_inbox() if chance.random() < 0.5 else ""
            with contextlib.suppress(NatsError):
                await connection.publish(subject, payload, reply=reply, headers=headers)
                sent += 1
            due_s = max(due_s + 1 / rate_per_s, loop.time() - 0.1)
            if sent % 20 == 0:
                await asyncio.sleep(max(0.0, due_s - loop.time()))
        with contextlib.suppress(NatsError):
            await connection.flush()
    return sent


# ---- slow ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def deaf(url: str, subject: str, *, count: int = 2) -> AsyncIterator[None]:
    """Subscribers that take nothing from their sockets."""
    place = urlsplit(url)
    sockets = []
    try:
        for _ in range(count):
            own = socket.socket()
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            own.setblocking(False)
            sockets.append(own)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(own, (place.hostname, place.port))
            await loop.sock_sendall(own, b'CONNECT {"verbose":false}\r\nSUB ' + subject.encode() + b" 1\r\n")
        yield
    finally:
        for own in sockets:
            own.close()
