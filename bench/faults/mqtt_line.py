"""A plain paho client whose callbacks come on the event loop, and which comes back after every outage; and the envelope
of a message that has a reply subject or headers, as the protocol has it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import msgpack
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from broker.errors import UnderstudyError

MAGIC = b"\x00ustd\x01\r\n"
KEEPALIVE_S = 3
AGAIN_S = 0.05
CONNECT_S = 5.0
IN_FLIGHT = 1000

Callback = Callable[[], None]
OnMessage = Callable[[paho.MQTTMessage], None]


class LineError(UnderstudyError):
    """The broker does not answer."""


class MqttLine:
    """`open` connects and subscribes, and returns when the broker has confirmed that; `close` ends it.

    Args:
        topics: filters, each at QoS 1; subscribed to anew whenever the connection is there again.
        on_lost, on_back: the connection is gone; it is there again, with its subscriptions.
        on_confirmed: the broker has the message with this number, which `publish` returned.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        topics: Sequence[str] = (),
        on_message: OnMessage = lambda _: None,
        on_lost: Callback = lambda: None,
        on_back: Callback = lambda: None,
        on_confirmed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._address, self._topics = urlsplit(url), topics
        self._loop = asyncio.get_running_loop()
        self._there = asyncio.Event()
        self._on_back = on_back
        client = self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"{name}-{secrets.token_hex(4)}")
        if self._address.username:
            client.username_pw_set(unquote(self._address.username), unquote(self._address.password or ""))
        client.reconnect_delay_set(AGAIN_S, AGAIN_S)  # type: ignore[arg-type]  # it sleeps for so many seconds
        client.max_inflight_messages_set(IN_FLIGHT)
        client.on_connect = self._on_connect
        client.on_subscribe = lambda *_: self._call(self._subscribed)
        client.on_disconnect = lambda *_: self._call(on_lost)
        client.on_message = lambda _c, _u, message: self._call(on_message, message)
        client.on_publish = lambda _c, _u, number, *_: self._call(on_confirmed, number)

    async def open(self) -> None:
        self._client.connect_async(self._address.hostname or "", self._address.port or 1883, keepalive=KEEPALIVE_S)
        self._client.loop_start()
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._there.wait()
        except TimeoutError as error:
            await self.close()
            raise LineError(f"no MQTT broker answers at {self._address.hostname}:{self._address.port}") from error

    async def close(self) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> int:
        """What is published while there is no connection goes out when it is there again, unless `qos` is 0; and again
        what the broker had not confirmed."""
        return self._client.publish(topic, payload, qos=qos).mid

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        if self._topics:
            client.subscribe([(topic, 1) for topic in self._topics])
        else:
            self._call(self._subscribed)

    def _subscribed(self) -> None:
        if self._there.is_set():
            self._on_back()
        self._there.set()

    def _call(self, callback: Callable[..., None], *arguments: Any) -> None:
        """From paho's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *arguments)


def wrap(payload: bytes, *, reply: str, headers: Mapping[str, str]) -> bytes:
    if not reply and not headers:
        return payload
    return MAGIC + bytes(msgpack.packb({"reply": reply, "headers": dict(headers)})) + payload


def unwrap(data: bytes) -> tuple[bytes, str, dict[str, str]]:
    """Payload, reply subject, headers."""
    if not data.startswith(MAGIC):
        return data, "", {}
    unpacker = msgpack.Unpacker()
    unpacker.feed(data[len(MAGIC) :])
    envelope = unpacker.unpack()
    return data[len(MAGIC) + unpacker.tell() :], envelope["reply"], envelope["headers"]
