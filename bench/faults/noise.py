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

from bench.faults.stranger import Heard, Stranger, stranger

ECHO_HEADER = "X-Chaos-Echo"
ID_HEADER = "Nats-Msg-Id"
NEVER_TWICE = (".out", ".dead", ".lead", ".events", "._.status", ".journal")
"""Ends of subjects whose messages are for strangers: a second one would be the echo's doing, not the pipeline's."""

Payloads = Mapping[str, Sequence[bytes]]


@asynccontextmanager
async def echoing(urls: Sequence[str]) -> AsyncIterator[None]:
    """While it lasts, every message that is seen is published a second time, on each of the accounts."""
    async with contextlib.AsyncExitStack() as stack:
        for url in urls:
            echo = _Echo()
            echo.mouth = await stack.enter_async_context(stranger(url, "chaos-echo-speaks"))
            await stack.enter_async_context(stranger(url, "chaos-echo", hears="understudy.>", on_heard=echo.say_again))
        yield


class _Echo:
    mouth: Stranger

    async def say_again(self, message: Heard) -> None:
        if message.subject.endswith(NEVER_TWICE) or ECHO_HEADER in message.headers:
            return
        if message.subject.endswith(".in") and ID_HEADER not in message.headers:
            return  # without an id it would be a second frame
        # A request is answered to whoever asked, as the first one was.
        headers = {**message.headers, ECHO_HEADER: "1"}
        await self.mouth.publish(message.subject, message.data, reply=message.reply, headers=headers)


# ---- garbage -------------------------------------------------------------------------------------------------------


def data_subjects(pipeline: str, nodes: Sequence[str], blocks: int, held: Sequence[str]) -> list[str]:
    """Subjects of the data account. `held`: SHA-256 of blobs that somebody has."""
    cuts = [f"understudy.{pipeline}.cut.{cut}.{node}" for node in nodes for cut in (0, 1, blocks // 2, blocks, 999)]
    per_node = [f"understudy.{pipeline}.handover.{node}" for node in nodes]
    per_node += [f"understudy.{pipeline}.sent.{node}" for node in nodes]
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

    async def keep(message: Heard) -> None:
        kept = seen.setdefault(kind_of(message.subject), [])
        if len(kept) < most and message.data:
            kept.append(message.data)

    async with contextlib.AsyncExitStack() as stack:
        for url in urls:
            await stack.enter_async_context(stranger(url, "chaos-overhears", hears="understudy.>", on_heard=keep))
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
            sent += await connection.publish(subject, payload, reply=reply, headers=headers)
            due_s = max(due_s + 1 / rate_per_s, loop.time() - 0.1)
            if sent % 20 == 0:
                await asyncio.sleep(max(0.0, due_s - loop.time()))
    return sent


# ---- slow ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def deaf(url: str, subject: str, *, count: int = 2) -> AsyncIterator[None]:
    """Subscribers that take nothing from their sockets."""
    place = urlsplit(url.partition(",")[0])
    sockets = []
    try:
        for _ in range(count):
            own = socket.socket()
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            own.setblocking(False)
            sockets.append(own)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(own, (place.hostname, place.port))
            await loop.sock_sendall(own, _hello_mqtt(subject) if place.scheme == "mqtt" else _hello_nats(subject))
        yield
    finally:
        for own in sockets:
            own.close()


def _hello_nats(subject: str) -> bytes:
    return b'CONNECT {"verbose":false}\r\nSUB ' + subject.encode() + b" 1\r\n"


def _hello_mqtt(subject: str) -> bytes:
    """CONNECT (3.1.1, clean session, no keep-alive, no name), and SUBSCRIBE at QoS 1."""
    topic = subject.replace(".", "/").encode()
    subscribe = b"\x00\x01" + len(topic).to_bytes(2, "big") + topic + b"\x01"
    return b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00" + b"\x82" + bytes([len(subscribe)]) + subscribe
