"""What the client library publishes again, and what it does not."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator

import pytest

from broker import subjects
from broker.activation import FrameTag
from broker.connect import connect as connect_broker
from broker.headers import ID_HEADER
from broker.port import Broker, Message
from stages.results import Provenance, result_json
from tests.contract.conftest import eventually
from understudy import client
from understudy.client import Client, connect

NUMBERS = itertools.count()


class Pipeline:
    """Takes frames in place of a head, and answers those that it is told to."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.frames: list[Message] = []

    async def start(self) -> None:
        await self._broker.subscribe(subjects.STATUS, self._on_status)
        await self._broker.subscribe(subjects.frames_in("p"), self._on_frame)

    @property
    def ids(self) -> list[str]:
        return [frame.headers[ID_HEADER] for frame in self.frames]

    async def answer(self, frame_id: str) -> None:
        frame = next(frame for frame in self.frames if frame.headers[ID_HEADER] == frame_id)
        await self._broker.publish(frame.reply, result_json(FrameTag(frame_id), {}, Provenance(epoch=1), 1.0, None))

    async def _on_status(self, message: Message) -> None:
        await self._broker.publish(message.reply, json.dumps({"pipeline": "p", "state": "running"}).encode())

    async def _on_frame(self, message: Message) -> None:
        self.frames.append(message)


@pytest.fixture
async def pair(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Client, Pipeline]]:
    monkeypatch.setattr(client, "SEND_AGAIN_S", 0.1)
    url = f"memory://client-{next(NUMBERS)}"
    broker = await connect_broker(url)
    pipeline = Pipeline(broker)
    await pipeline.start()
    async with connect(url, "p") as opened:
        yield opened, pipeline
    await broker.close()


async def test_while_nothing_is_answered_the_oldest_frame_alone_is_published_again(
    pair: tuple[Client, Pipeline],
) -> None:
    opened, pipeline = pair
    waiting = [asyncio.create_task(opened.infer(b"x", frame_id=name)) for name in ("one", "two", "three")]
    await eventually(lambda: len(pipeline.ids) >= 5)
    assert pipeline.ids[:5] == ["one", "two", "three", "one", "one"]
    for name in ("one", "two", "three"):
        await pipeline.answer(name)
    assert [(await task).id for task in waiting] == ["one", "two", "three"]


async def test_all_that_was_lost_is_published_again_when_the_oldest_is_answered_and_nothing_follows(
    pair: tuple[Client, Pipeline],
) -> None:
    opened, pipeline = pair
    waiting = [asyncio.create_task(opened.infer(b"x", frame_id=name)) for name in ("one", "two", "three")]
    await eventually(lambda: pipeline.ids[3:4] == ["one"])
    await pipeline.answer("one")
    await eventually(lambda: pipeline.ids[-2:] == ["two", "three"] and len(pipeline.ids) >= 6)
    for name in ("two", "three"):
        await pipeline.answer(name)
    assert [(await task).id for task in waiting] == ["one", "two", "three"]


async def test_a_frame_that_a_later_one_overtook_is_published_again(pair: tuple[Client, Pipeline]) -> None:
    opened, pipeline = pair
    lost = asyncio.create_task(opened.infer(b"x", frame_id="lost"))
    await eventually(lambda: pipeline.ids == ["lost"])
    later = asyncio.create_task(opened.infer(b"x", frame_id="later"))
    await eventually(lambda: "later" in pipeline.ids)
    await pipeline.answer("later")
    assert (await later).id == "later"
    await eventually(lambda: pipeline.ids.count("lost") >= 2)
    await pipeline.answer("lost")
    assert (await lost).id == "lost"
