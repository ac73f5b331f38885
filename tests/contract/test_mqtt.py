"""The MQTT back end keeps the contract: on mosquitto, and on nats-server's own MQTT listener."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

import pytest

from tests.contract.conftest import Connect, connections
from tests.contract.mqtt_servers import MqttServer, mosquitto, nats_listener
from tests.contract.suite import BrokerContract


class MqttContract(BrokerContract):
    """`start`: a broker of the test's own."""

    knows_of_listeners = False
    start: ClassVar[Callable[[], AbstractAsyncContextManager[MqttServer]]]

    @pytest.fixture
    async def connect(self) -> AsyncIterator[Connect]:
        async with type(self).start() as server, connections(server.url) as connect:
            yield connect


class TestMosquitto(MqttContract):
    start = mosquitto


class TestNatsServersMqtt(MqttContract):
    start = nats_listener
