"""A client written from the protocol alone: plain paho, images as they are, JSON, and nothing of ours.

MQTT 3.1.1 has no headers, and an image has no id. The head makes one of the payload's hash; that is how a result is
matched to what was published, so each payload must be published once, or be its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.integration.stranger import ANSWER_S


@dataclass(slots=True)
class MqttStranger:
    """Hears `out` and `dead` of one pipeline from the start, and publishes to `in`. Like `Stranger`."""

    connection: paho.Client
    pipeline: str
    results: list[dict[str, Any]] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def publish(self, payload: bytes, frame_id: str | None = None) -> None:
        own = marked(payload, frame_id or secrets.token_hex(8))
        self.names[_digest(own)] = frame_id or ""
        self.connection.publish(f"understudy/{self.pipeline}/in", own, qos=1)

    async def answer(self, payload: bytes, frame_id: str | None = None) -> dict[str, Any]:
        name = frame_id or secrets.token_hex(8)
        await self.publish(payload, name)
        return await self.result(name)

    async def result(self, frame_id: str) -> dict[str, Any]:
        """Also of a frame that somebody else has published."""
        async with asyncio.timeout(ANSWER_S), self._news:
            await self._news.wait_for(lambda: any(item["id"] == frame_id for item in self.results))
        return next(item for item in self.results if item["id"] == frame_id)

    def _hear(self, topic: str, payload: bytes) -> None:
        task = asyncio.ensure_future(self._keep(topic, json.loads(payload)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, topic: str, document: dict[str, Any]) -> None:
        async with self._news:
            known = self.names.get(document["id"].partition("-")[0])
            (self.letters if topic.endswith("/dead") else self.results).append(
                document if known is None else document | {"id": known}
            )
            self._news.notify_all()


def _digest(payload: bytes) -> str:
    return hashlib.blake2b(payload, digest_size=8).hexdigest()


def marked(image: bytes, text: str, kind: str = "PNG") -> bytes:
    """The same picture as a file of its own: another text in it."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(image)) as picture:
        if kind == "PNG":
            info = PngInfo()
            info.add_text("frame", text)
            picture.save(buffer, "PNG", pnginfo=info)
        else:
            picture.save(buffer, "JPEG", quality=95, comment=text.encode())
    return buffer.getvalue()


@asynccontextmanager
async def mqtt_stranger(url: str, pipeline: str) -> AsyncIterator[MqttStranger]:
    loop, address = asyncio.get_running_loop(), urlsplit(url)
    connection = paho.Client(paho.CallbackAPIVersion.VERSION2)
    if address.username:
        connection.username_pw_set(address.username, address.password)
    own, ready = MqttStranger(connection, pipeline), asyncio.Event()
    connection.on_message = lambda _c, _u, message: loop.call_soon_threadsafe(own._hear, message.topic, message.payload)
    connection.on_subscribe = lambda *_: loop.call_soon_threadsafe(ready.set)
    connection.connect(address.hostname or "", address.port or 1883)
    connection.loop_start()
    try:
        connection.subscribe([(f"understudy/{pipeline}/out", 1), (f"understudy/{pipeline}/dead", 1)])
        async with asyncio.timeout(ANSWER_S):
            await ready.wait()
        yield own
    finally:
        connection.disconnect()
        connection.loop_stop()
