"""The in-memory back end keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.connect import connect as connect_to
from tests.contract.conftest import Connect, Inbox, connections
from tests.contract.suite import BrokerContract


class TestMemory(BrokerContract):
    @pytest.fixture
    async def connect(self) -> AsyncIterator[Connect]:
        async with connections("memory://contract") as connect:
            yield connect


async def test_brokers_of_different_names_are_apart() -> None:
    one, other = await connect_to("memory://one"), await connect_to("memory://other")
    inbox = Inbox()
    await other.subscribe(">", inbox)
    await one.publish("a", b"")
    await one.flush()
    assert inbox.waiting == 0
    await one.close()
    await other.close()


async def test_a_broker_is_gone_when_its_last_connection_closes() -> None:
    first = await connect_to("memory://brief")
    inbox = Inbox()
    await first.subscribe("a", inbox)
    await first.close()
    second = await connect_to("memory://brief")
    await second.publish("a", b"")
    await second.flush()
    assert inbox.waiting == 0
    await second.close()


async def test_a_flooded_subscription_drops_and_the_publisher_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.memory.QUEUE_MESSAGES", 10)
    import asyncio

    broker = await connect_to("memory://flood")
    gate, inbox = asyncio.Event(), Inbox()

    async def blocked(message: object) -> None:
        await gate.wait()
        await inbox(message)  # type: ignore[arg-type]

    await broker.subscribe("a", blocked)
    for _ in range(50):
        await broker.publish("a", b"")
    gate.set()
    await inbox.take(11)
    assert inbox.waiting == 0
    await broker.close()
