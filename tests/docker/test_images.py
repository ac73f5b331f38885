"""The back ends keep the contract on the brokers that people run: the images nats:2 and eclipse-mosquitto:2."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.connect import connect as connect_to
from broker.errors import BrokerError
from broker.port import Broker
from tests.contract.conftest import eventually
from tests.contract.suite import BrokerContract, Connect

START_S = 30.0

NATS = "port: 4222\nmax_payload: 8MB\nmax_pending: 128MB\n"
MOSQUITTO = "listener 1883\nallow_anonymous true\n"


def container(image: str, config: Path, path: str, port: int, command: str) -> Any:
    """Not started. Skips the test where there is no testcontainers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they have deprecated of their own
        core = pytest.importorskip("testcontainers.core.container", reason="pip install testcontainers")
    own = core.DockerContainer(image).with_exposed_ports(port).with_volume_mapping(str(config), path, "ro")
    return own.with_command(command) if command else own


def address(running: Any, port: int) -> str:
    return f"{running.get_container_host_ip()}:{running.get_exposed_port(port)}"


class OnImage(BrokerContract):
    """One container for all tests of a class; each test has connections of its own."""

    @pytest.fixture
    async def connect(self, url: str) -> AsyncIterator[Connect]:
        opened: list[Broker] = []

        async def answers() -> bool:
            try:
                opened.append(await connect_to(url))
            except BrokerError:
                return False
            return True

        await eventually(answers, within_s=START_S)

        async def connect() -> Broker:
            opened.append(await connect_to(url))
            return opened[-1]

        yield connect
        for broker in opened:
            await broker.close()


class TestNatsImage(OnImage):
    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        config = tmp_path_factory.mktemp("nats") / "nats.conf"
        config.write_text(NATS)
        with container("nats:2", config, "/understudy.conf", 4222, "-c /understudy.conf") as running:
            yield f"nats://{address(running, 4222)}"


class TestMosquittoImage(OnImage):
    knows_of_listeners = False

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        config = tmp_path_factory.mktemp("mosquitto") / "mosquitto.conf"
        config.write_text(MOSQUITTO)
        config.chmod(0o644)
        with container("eclipse-mosquitto:2", config, "/mosquitto/config/mosquitto.conf", 1883, "") as running:
            yield f"mqtt://{address(running, 1883)}"
