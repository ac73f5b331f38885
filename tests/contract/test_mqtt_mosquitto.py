"""The MQTT back end keeps the contract on mosquitto."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.connect import connect as connect_to
from broker.port import Broker
from tests.contract.mqtt_servers import mosquitto
from tests.contract.suite import BrokerContract, Connect


class TestMosquitto(BrokerContract):
    knows_of_listeners = False
    queue_groups = False

    @pytest.fixture
    async def connect(self) -> AsyncIterator[Connect]:
        opened: list[Broker] = []
        async with mosquitto() as server:

            async def connect() -> Broker:
                opened.append(await connect_to(server.url))
                return opened[-1]

            yield connect
            for broker in opened:
                await broker.close()
