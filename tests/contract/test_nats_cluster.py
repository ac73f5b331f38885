"""The NATS back end keeps the contract in a cluster, with each connection at another server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import count, cycle
from typing import Any

import pytest

from broker.cluster import NatsCluster
from broker.port import Broker, Handler, Subscription
from tests.contract.conftest import Connect, Inbox, connections, eventually
from tests.contract.suite import BrokerContract

_numbers = count()


class Everywhere:
    """A connection whose `subscribe` returns when all servers know of it. NATS itself says so of its own server alone;
    the others hear of it a moment later."""

    def __init__(self, broker: Broker, watches: Sequence[Broker]) -> None:
        self._broker = broker
        self._watches = watches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def subscribe(self, subject: str, handler: Handler) -> Subscription:
        made = await self._broker.subscribe(subject, handler)
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
    clustered = True

    @pytest.fixture
    async def connect(self) -> AsyncIterator[Connect]:
        numbers = cycle(range(3))
        async with (
            await NatsCluster.start(3) as cluster,
            connections(lambda: cluster.operator_url(first=next(numbers))) as connect_to,
        ):
            watches = [await connect_to() for _ in cluster.servers]

            async def connect() -> Any:
                return Everywhere(await connect_to(), watches)

            yield connect
