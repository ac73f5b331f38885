"""The NATS back end keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.connect import connect as connect_to
from broker.port import Broker
from broker.server import NatsServer
from tests.contract.suite import BrokerContract, Connect


class TestNats(BrokerContract):
    @pytest.fixture
    async def connect(self) -> AsyncIterator[Connect]:
        opened: list[Broker] = []
        async with await NatsServer.start() as server:

            async def connect() -> Broker:
                opened.append(await connect_to(server.operator_url))
                return opened[-1]

            yield connect
            for broker in opened:
                await broker.close()
