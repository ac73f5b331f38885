"""What a head puts out: once, and again where nobody can know whether the broker had it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from broker import subjects
from broker.connect import connect
from broker.control import StoreSettings
from broker.port import Broker, Message
from broker.server import NatsServer
from stages.feed import Feed
from stages.fence import Fence
from stages.outlet import Answer, Outlet
from tests.contract.conftest import Inbox, eventually
from tests.contract.talker import stop

OUT = subjects.results_out("p")


@pytest.fixture
async def open_broker(server: NatsServer) -> AsyncIterator[Callable[[], asyncio.Future[Broker]]]:
    opened: list[Broker] = []

    async def open_one() -> Broker:
        opened.append(await connect(server.operator_url))
        return opened[-1]

    yield lambda: asyncio.ensure_future(open_one())
    for broker in opened:
        await broker.close()


@asynccontextmanager
async def running(outlet: Outlet, broker: Broker) -> AsyncIterator[Outlet]:
    broker.on_connection(outlet.on_connection)
    task = asyncio.create_task(outlet.run())
    try:
        yield outlet
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


OpenBroker = Callable[[], "asyncio.Future[Broker]"]


async def test_who_asked_gets_a_result_again_that_was_not_confirmed_when_the_server_died_and_nobody_else(
    server: NatsServer, open_broker: OpenBroker
) -> None:
    # The subscriber is connected again when the head is: core NATS tells nobody what came before.
    ours, inbox = await open_broker(), Inbox()
    await ours.subscribe(OUT, inbox)
    await ours.subscribe("_INBOX.me", inbox)
    async with running(Outlet(ours, "p"), ours) as outlet:
        await outlet.put([Answer(id="before", result=b"before", replies=("_INBOX.me",))])
        assert [message.subject for message in await inbox.take(2)] == [OUT, "_INBOX.me"]
        await ours.flush()
        await eventually(lambda: not outlet._unconfirmed)
        await stop(server.pid)
        # To a server that takes it, and never handles it.
        await outlet.put([Answer(id="lost", result=b"lost", replies=("_INBOX.me",))])
        await server.kill()
        await server.restart()
        again = await inbox.next()
        assert (again.subject, again.data) == ("_INBOX.me", b"lost")
        await outlet.put([Answer(id="after", result=b"after")])
        assert (await inbox.next()).data == b"after"


async def test_what_another_head_answers_now_is_not_put_out(open_broker: OpenBroker) -> None:
    ours, inbox = await open_broker(), Inbox()
    await ours.subscribe(">", inbox)

    async def no() -> bool:
        return False

    fence = Fence(no)
    fence.doubt()
    async with running(Outlet(ours, "p", fence=fence), ours) as outlet:
        await outlet.put([Answer(id="a", result=b"a", replies=("r",), dead_letter=b"dead")])
        await ours.publish("the.end", b"")
        assert (await inbox.next()).subject == "the.end"


async def stored_frame(user: Broker, feed: Inbox, payload: bytes) -> Message:
    """Publish a frame that no other one is like, and take it as a head does."""
    await user.publish(subjects.frames_in("p"), payload)
    while True:
        message = await feed.next()
        if message.data == payload:  # a server that was started again delivers others again
            return message


@pytest.fixture
async def stored(open_broker: OpenBroker) -> tuple[Broker, Inbox]:
    """A head's connection, and the stored frames that come to it."""
    ours, frames = await open_broker(), Inbox()
    await ours.subscribe(subjects.feed("p"), frames)
    feed = Feed(ours, "p", StoreSettings())
    feed.open(window=4, anew=True)
    assert feed._task is not None
    await feed._task
    return ours, frames


async def waiting_frames(broker: Broker) -> int:
    answer = await broker.request(f"$JS.API.STREAM.INFO.{subjects.input_stream('p')}", timeout_s=2)
    return int(json.loads(bytes(answer.data))["state"]["messages"])


async def stored_results(broker: Broker) -> int:
    answer = await broker.request(f"$JS.API.STREAM.INFO.{subjects.result_stream('p')}", timeout_s=2)
    return int(json.loads(bytes(answer.data))["state"]["messages"])


async def test_a_stored_frame_is_acknowledged_when_its_result_is_stored(
    stored: tuple[Broker, Inbox], open_broker: OpenBroker
) -> None:
    ours, frames = stored
    user = await open_broker()
    frame = await stored_frame(user, frames, b"frame")
    assert await waiting_frames(user) == 1
    async with running(Outlet(ours, "p", stored=True), ours) as outlet:
        await outlet.put([Answer(id="one", result=b"result", acks=(frame.reply,))])

        async def forgotten() -> bool:
            return await waiting_frames(user) == 0

        await eventually(forgotten)
        assert await stored_results(user) == 1


async def test_a_result_is_stored_once_and_survives_the_server(
    server: NatsServer, stored: tuple[Broker, Inbox], open_broker: OpenBroker
) -> None:
    ours, frames = stored
    user = await open_broker()
    frame = await stored_frame(user, frames, b"frame")
    async with running(Outlet(ours, "p", stored=True), ours) as outlet:
        await stop(server.pid)  # it takes bytes, and handles nothing
        await outlet.put([Answer(id="one", result=b"result", acks=(frame.reply,))])
        await server.kill()
        await server.restart()

        async def done() -> bool:
            return await waiting_frames(user) == 0 and await stored_results(user) == 1

        await eventually(done, within_s=10)
        # Delivered again, because its acknowledgement could have been lost: it is answered, and stays stored once.
        again = await stored_frame(user, frames, b"the frame again")
        await outlet.put_again(Answer(id="one", result=b"result", acks=(again.reply,)))
        await eventually(done, within_s=10)


@pytest.mark.parametrize("reply", ["understudy.digits.out", "understudy.digits.cut.0.node1", "understudy.other.in"])
async def test_nobody_can_have_the_head_publish_what_they_may_not_by_naming_it_as_the_place_for_the_answer(
    reply: str,
) -> None:
    broker = await connect("memory://outlet")
    heard = Inbox()
    await broker.subscribe(">", heard)
    outlet = Outlet(broker, "digits")
    await outlet.put([Answer(id="one", result=b"one", replies=(reply, "_INBOX.me.1"))])
    await outlet.answer(reply, b"again")
    await outlet.put([Answer(id="end", result=b"end")])
    arrived = [(message.subject, bytes(message.data)) for message in await heard.take(3)]
    out = subjects.results_out("digits")
    assert arrived == [(out, b"one"), ("_INBOX.me.1", b"one"), (out, b"end")]
    assert heard.waiting == 0
    await broker.close()
