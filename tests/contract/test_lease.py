"""Leases in a real nats-server: of all who want one, one has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from broker.connect import connect
from broker.errors import BrokerError
from broker.lease import BUCKET, TTL_S, Lease, NoLeaseError
from broker.port import Broker
from broker.server import NatsServer
from tests.contract.conftest import eventually
from understudy.term import AFTER_SILENCE_S, Term

ABOVE_TTL_S = 8 * TTL_S
RESTART_S = 15.0


@pytest.fixture(params=["data", "control"])
async def url(server: NatsServer, request: pytest.FixtureRequest) -> str:
    """Either account keeps leases: where control has none of its own, both roles share one."""
    return server.operator_url if request.param == "data" else server.control_url


@pytest.fixture
async def one(url: str) -> AsyncIterator[Broker]:
    broker = await connect(url, name="one")
    yield broker
    await broker.close()


@pytest.fixture
async def other(url: str) -> AsyncIterator[Broker]:
    broker = await connect(url, name="other")
    yield broker
    await broker.close()


async def lease(broker: Broker, owner: str, name: str = "digits") -> Lease:
    made = Lease(broker, name, owner)
    await made.prepare()
    return made


async def test_of_two_owners_one_has_it_as_long_as_it_renews_and_the_other_after_its_release(
    one: Broker, other: Broker
) -> None:
    mine, theirs = await lease(one, "one"), await lease(other, "other")
    assert await mine.try_acquire()
    began = time.monotonic()
    while time.monotonic() - began < 1.5 * TTL_S:
        assert not await theirs.try_acquire()
        assert await mine.renew()
        await asyncio.sleep(TTL_S / 10)
    await mine.release()
    assert await theirs.try_acquire()
    assert not await mine.renew()
    assert not await mine.try_acquire()


async def test_who_does_not_renew_loses_it(one: Broker, other: Broker) -> None:
    mine, theirs = await lease(one, "one"), await lease(other, "other")
    assert await mine.try_acquire()
    assert not await theirs.renew()  # it never had it
    began = time.monotonic()
    await eventually(theirs.try_acquire, within_s=ABOVE_TTL_S)
    assert time.monotonic() - began > TTL_S / 2
    assert not await mine.renew()
    assert await theirs.renew()


async def test_who_lost_it_gives_nothing_back(one: Broker, other: Broker) -> None:
    mine, theirs, third = await lease(one, "one"), await lease(other, "other"), await lease(other, "third")
    assert await mine.try_acquire()
    await eventually(theirs.try_acquire, within_s=ABOVE_TTL_S)
    assert not await mine.renew()
    await mine.release()
    assert not await third.try_acquire()
    assert await theirs.renew()


async def test_leases_of_two_pipelines_have_nothing_to_do_with_each_other(one: Broker) -> None:
    digits, letters = await lease(one, "one", "digits"), await lease(one, "one", "letters")
    assert await digits.try_acquire()
    assert await letters.try_acquire()
    await digits.release()
    assert await letters.renew()


async def test_what_was_never_had_can_be_released(one: Broker) -> None:
    await (await lease(one, "one")).release()


# ---- brokers that keep none -----------------------------------------------------------------------------------------


async def test_a_server_without_jetstream_keeps_no_leases_and_the_message_says_what_to_do(
    without_jetstream: str,
) -> None:
    broker = await connect(without_jetstream, name="one")
    try:
        with pytest.raises(NoLeaseError, match=r"has no JetStream: start nats-server with -js"):
            await lease(broker, "one")
        with pytest.raises(NoLeaseError):
            await Term.open(broker, "digits", needed=True)
        term = await Term.open(broker, "digits", needed=False)
        assert not await term.try_begin()
        async with asyncio.timeout(15):
            await term.begin()
    finally:
        await broker.close()


# ---- a term of office -----------------------------------------------------------------------------------------------


async def serve(term: Term, served: list[str], name: str) -> None:
    async def service() -> None:
        served.append(name)
        await asyncio.Event().wait()

    await term.begin()
    await term.serve(service())


async def end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_term_that_ends_is_followed_by_that_of_who_stands_by(one: Broker, other: Broker) -> None:
    served: list[str] = []
    first = asyncio.create_task(serve(await Term.open(one, "digits", needed=True), served, "first"))
    await eventually(lambda: served == ["first"])
    second = asyncio.create_task(serve(await Term.open(other, "digits", needed=True), served, "second"))
    try:
        await asyncio.sleep(1.2 * TTL_S)  # the claim is that nothing happens meanwhile
        assert served == ["first"]
        await end(first)
        await eventually(lambda: served == ["first", "second"], within_s=ABOVE_TTL_S)
    finally:
        await end(first, second)


async def test_a_server_that_was_restarted_lets_the_same_controller_go_on(server: NatsServer) -> None:
    broker = await connect(server.operator_url, name="one")
    served: list[str] = []
    term = await Term.open(broker, "digits", needed=True)
    task = asyncio.create_task(serve(term, served, "one"))
    try:
        await eventually(lambda: served == ["one"])
        await server.restart()
        other = await connect(server.operator_url, name="other")

        async def is_kept() -> bool:
            subject = f"$JS.API.DIRECT.GET.KV_{BUCKET}.$KV.{BUCKET}.digits"
            try:
                return b'"pid"' in bytes((await other.request(subject, b"", timeout_s=1.0)).data)
            except BrokerError:
                return False

        try:
            await eventually(is_kept, within_s=RESTART_S)
        finally:
            await other.close()
        assert served == ["one"]
        assert not task.done()
    finally:
        await end(task)
        await broker.close()


async def test_who_stands_by_takes_over_also_where_the_server_was_restarted_and_the_first_died_with_it(
    server: NatsServer,
) -> None:
    """A machine that runs the broker and a controller is rebooted: the bucket was in memory, and is gone."""
    one, other = await connect(server.operator_url, name="one"), await connect(server.operator_url, name="other")
    served: list[str] = []
    first = asyncio.create_task(serve(await Term.open(one, "digits", needed=True), served, "first"))
    await eventually(lambda: served == ["first"])
    second = asyncio.create_task(serve(await Term.open(other, "digits", needed=True), served, "second"))
    try:
        await server.kill()
        await end(first)
        await one.close()
        await server.restart()
        await eventually(lambda: served == ["first", "second"], within_s=RESTART_S)
    finally:
        await end(first, second)
        await other.close()


async def test_who_stands_by_lets_who_served_have_a_lease_that_was_lost_with_the_server(server: NatsServer) -> None:
    """The server is back before the first renews, and before the other has missed it."""
    one, other = await connect(server.operator_url, name="one"), await connect(server.operator_url, name="other")
    served: list[str] = []
    first = asyncio.create_task(serve(await Term.open(one, "digits", needed=True), served, "first"))
    await eventually(lambda: served == ["first"])
    second = asyncio.create_task(serve(await Term.open(other, "digits", needed=True), served, "second"))
    try:
        for _ in range(3):
            await server.restart()
            done, _ = await asyncio.wait([first, second], timeout=1.5 * AFTER_SILENCE_S)
            assert done == set()
            assert served == ["first"]
    finally:
        await end(first, second)
        for broker in (one, other):
            await broker.close()
