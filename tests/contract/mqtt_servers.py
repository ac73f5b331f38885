"""MQTT brokers of the tests: a mosquitto process on a free port, and nats-server's own listener."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.faults.mosquitto import Mosquitto, MosquittoError, find_binary
from broker.server import NatsServer


class MqttServer:
    """One that runs. `kill` it and `start` it again on the same port.

    Attributes:
        url: of who may do everything.
        client_url: of whoever has no password.
    """

    def __init__(self, server: Mosquitto | NatsServer, url: str, client_url: str) -> None:
        self._server, self.url, self.client_url = server, url, client_url

    async def start(self) -> None:
        await self._server.restart()

    async def kill(self) -> None:
        await self._server.kill()


@asynccontextmanager
async def nats_listener() -> AsyncIterator[MqttServer]:
    """The listener of a nats-server that is used by MQTT clients alone."""
    async with await NatsServer.start(mqtt_port=0) as server:
        assert server.mqtt_operator_url is not None
        assert server.mqtt_url is not None
        yield MqttServer(server, server.mqtt_operator_url, server.mqtt_url)


@asynccontextmanager
async def mosquitto(settings: str = "") -> AsyncIterator[MqttServer]:
    """A mosquitto with these lines in its configuration. Skips the test where none is installed."""
    mosquitto_binary()
    server = await Mosquitto.start(settings)
    try:
        yield MqttServer(server, server.url, server.url)
    finally:
        await server.stop()


def mosquitto_binary() -> str:
    """Skips the test where there is none."""
    try:
        return find_binary()
    except MosquittoError as error:
        pytest.skip(str(error))
