"""A client written from the protocol alone: nats-py, msgpack, JSON, and nothing of ours."""

from __future__ import annotations

import asyncio
import io
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgpack
import nats
import numpy as np
from nats.aio.client import Client
from nats.aio.msg import Msg
from numpy.typing import NDArray
from PIL import Image

ANSWER_S = 15.0


@dataclass(slots=True)
class Stranger:
    """Hears `out` and `dead` of one pipeline from the start, and publishes to `in`."""

    connection: Client
    pipeline: str
    results: list[dict[str, Any]] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def publish(self, payload: bytes, frame_id: str | None = None, *, reply: str = "") -> None:
        headers = None if frame_id is None else {"Nats-Msg-Id": frame_id}
        await self.connection.publish(f"understudy.{self.pipeline}.in", payload, reply=reply, headers=headers)

    async def answer(self, payload: bytes, frame_id: str | None = None) -> dict[str, Any]:
        """Publish under an id (one of its own if none is given) and wait for the result on `out`."""
        own = frame_id or secrets.token_hex(8)
        await self.publish(payload, own)
        return await self.result(own)

    async def result(self, frame_id: str) -> dict[str, Any]:
        return (await self._first(self.results, frame_id))[0]

    async def letter(self, frame_id: str) -> dict[str, Any]:
        return (await self._first(self.letters, frame_id))[0]

    async def _first(self, seen: list[dict[str, Any]], frame_id: str) -> list[dict[str, Any]]:
        async with asyncio.timeout(ANSWER_S), self._news:
            await self._news.wait_for(lambda: any(item["id"] == frame_id for item in seen))
            return [item for item in seen if item["id"] == frame_id]

    async def count(self, frame_id: str, *, good_frame: bytes) -> int:
        """How many results of a frame are out, once a frame that was published after it is answered."""
        await self.answer(good_frame)
        return sum(result["id"] == frame_id for result in self.results)

    async def _hear(self, message: Msg) -> None:
        async with self._news:
            (self.letters if message.subject.endswith(".dead") else self.results).append(json.loads(message.data))
            self._news.notify_all()


@asynccontextmanager
async def stranger(url: str, pipeline: str) -> AsyncIterator[Stranger]:
    connection = await nats.connect(url)
    try:
        own = Stranger(connection, pipeline)
        await connection.subscribe(f"understudy.{pipeline}.out", cb=own._hear)
        await connection.subscribe(f"understudy.{pipeline}.dead", cb=own._hear)
        await connection.flush()
        yield own
    finally:
        await connection.close()


def tensor_message(tensors: Mapping[str, NDArray[Any]], **header: Any) -> bytes:
    """[header, bin, bin, ...] as the protocol describes it."""
    specs = [[name, array.dtype.name, list(array.shape)] for name, array in tensors.items()]
    document = [{"v": 1, "tensors": specs, **header}, *(array.tobytes() for array in tensors.values())]
    return bytes(msgpack.packb(document, use_bin_type=True))


def npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def image_file(kind: str, image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)
