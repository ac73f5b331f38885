"""The NATS back end keeps the contract in a cluster, with each connection at another server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count

import pytest

from broker.cluster import NatsCluster
from broker.connect import connect as connect_to
from broker.port import Broker
from tests.contract.suite import BrokerContract, Connect


class TestNatsCluster(BrokerContract):
    @pytest.fixture
    async def connect(self) -> AsyncIterator[Connect]:
        opened: list[Broker] = []
        numbers = count()
        async with await NatsCluster.start(3) as cluster:

            async def connect() -> Broker:
                opened.append(await connect_to(cluster.operator_url(first=next(numbers))))
                return opened[-1]

            yield connect
            for broker in opened:
                await broker.close()
