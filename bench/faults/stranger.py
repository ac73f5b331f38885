"""A connection of somebody who does not care for errors, and comes back after an outage: nats-py or paho."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import msgpack
import nats
import paho.mqtt.client as paho
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from bench.faults.mqtt_line import MqttLine, unwrap, wrap

CLOSE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A message, as NATS has it."""

    subject: str
    data: bytes
    reply: str
    headers: Mapping[str, str]


OnHeard = Callable[[Heard], Awaitable[None]]


class Stranger(Protocol):
    """`publish` says nothing of what became of it but whether it is on its way."""

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> bool: ...

    def new_inbox(self) -> str: ...


@asynccontextmanager
async def stranger(url: str, name: str, *, hears: str = "", on_heard: OnHeard | None = None) -> AsyncIterator[Stranger]:
    """`hears`: a subject, whose messages `on_heard` is given."""
    make = _by_mqtt if url.startswith("mqtt") else _by_nats
    async with make(url, name, hears, on_heard) as found:
        yield found


# ---- NATS ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _by_nats(url: str, name: str, hears: str, on_heard: OnHeard | None) -> AsyncIterator[Stranger]:
    async def ignore(_: Exception) -> None:
        return None

    async def hear(message: Msg) -> None:
        assert on_heard is not None
        heard = Heard(
            subject=message.subject, data=message.data, reply=message.reply, headers=dict(message.headers or {})
        )
        await on_heard(heard)

    connection = await nats.connect(
        url.split(","),
        name=name,
        reconnect_time_wait=0.1,
        max_reconnect_attempts=-1,
        error_cb=ignore,
        pending_size=8 << 20,
    )
    try:
        if hears:
            await connection.subscribe(hears, cb=hear)
        yield _ByNats(connection)
    finally:
        with contextlib.suppress(NatsError, OSError):
            async with asyncio.timeout(CLOSE_S):
                await connection.close()


@dataclass(frozen=True, slots=True)
class _ByNats:
    connection: Client

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> bool:
        try:
            await self.connection.publish(subject, data, reply=reply, headers=dict(headers) if headers else None)
        except NatsError:
            return False
        return True

    def new_inbox(self) -> str:
        return self.connection.new_inbox()


# ---- MQTT ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _by_mqtt(url: str, name: str, hears: str, on_heard: OnHeard | None) -> AsyncIterator[Stranger]:
    tasks: set[asyncio.Future[None]] = set()

    def hear(message: paho.MQTTMessage) -> None:
        if message.retain or on_heard is None:
            return
        try:
            data, reply, headers = unwrap(bytes(message.payload))
        except (ValueError, KeyError, TypeError, msgpack.UnpackException):
            return  # somebody's nonsense
        heard = Heard(subject=message.topic.replace("/", "."), data=data, reply=reply, headers=headers)
        task = asyncio.ensure_future(on_heard(heard))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    topics = [hears.replace(".", "/").replace(">", "#").replace("*", "+")] if hears else []
    line = MqttLine(url, name=name, topics=topics, on_message=hear)
    await line.open()
    try:
        yield _ByMqtt(line)
    finally:
        await line.close()


@dataclass(frozen=True, slots=True)
class _ByMqtt:
    line: MqttLine

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> bool:
        payload = wrap(data, reply=reply, headers=headers or {})
        self.line.publish(subject.replace(".", "/"), payload, qos=0)
        return True

    def new_inbox(self) -> str:
        return f"_INBOX.{secrets.token_hex(8)}"
