"""The NATS back end keeps the contract in a cluster, with each connection at another server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import Any

import pytest

from broker.cluster import NatsCluster
from broker.connect import connect as connect_to
from broker.port import Broker, Handler, Subscription
from tests.contract.conftest import Inbox, eventually
from tests.contract.suite import BrokerContract, Connect

_numbers = count()


class Everywhere:
    """A connection whose `subscribe` returns when all servers know of it. NATS itself says so of its own server alone;
    the others hear of it a moment later."""

    def __init__(self, broker: Broker, watches: Sequence[Broker]) -> None:
        self._broker = broker
        self._watches = watches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        made = await self._broker.subscribe(subject, handler, queue=queue)
        # Servers tell each other in order: who knows of a later subscription knows of the one before.
        await asyncio.gather(*(self._wait_for(watch) for watch in self._watches))
        return made

    async def _wait_for(self, watch: Broker) -> None:
        heard, subject = Inbox(), f"everywhere.{next(_numbers)}"
        later = await self._broker.subscribe(subject, heard)

        async def known() -> bool:
            await watch.publish(subject, b"")
            return heard.waiting > 0

        await eventually(known)
        await later.unsubscribe()


class TestNatsCluster(BrokerContract):
    @pytest.fixture
    async def connect(self) -> AsyncIterator[Connect]:
        opened: list[Broker] = []
        numbers = count()
        async with await NatsCluster.start(3) as cluster:
            watches = [await connect_to(server.operator_url) for server in cluster.servers]

            async def connect() -> Any:
                opened.append(await connect_to(cluster.operator_url(first=next(numbers))))
                return Everywhere(opened[-1], watches)

            yield connect
            for broker in [*opened, *watches]:
                await broker.close()
