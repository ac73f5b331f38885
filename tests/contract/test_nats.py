"""The NATS back end keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.server import NatsServer
from tests.contract.conftest import Connect, connections
from tests.contract.suite import BrokerContract


class TestNats(BrokerContract):
    @pytest.fixture
    async def connect(self) -> AsyncIterator[Connect]:
        async with await NatsServer.start() as server, connections(server.operator_url) as connect:
            yield connect
