"""MQTT brokers of the tests: a mosquitto process on a free port, and nats-server's own listener."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.process import spawn, terminate
from broker.server import NatsServer
from tests.contract.conftest import eventually

START_S = 10.0


class Mosquitto:
    """A running mosquitto. `kill` it and `start` it again on the same port."""

    def __init__(self, folder: Path, port: int, settings: str) -> None:
        self.port = port
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        access = "" if "allow_anonymous" in settings else "allow_anonymous true\n"
        (folder / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\n{access}{settings}")

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = await spawn(
                [mosquitto_binary(), "-c", str(self._folder / "mosquitto.conf")], stdout=log, stderr=log
            )
        await eventually(self._answers, within_s=START_S)

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        if self._process is not None:
            await terminate(self._process, 3)

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, (self._folder / "log").read_text()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True


class NatsListener:
    """A nats-server that is used by MQTT clients alone. As `Mosquitto`."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server

    @property
    def url(self) -> str:
        assert self._server.mqtt_operator_url is not None
        return self._server.mqtt_operator_url

    @property
    def client_url(self) -> str:
        """Of whoever has no password."""
        assert self._server.mqtt_url is not None
        return self._server.mqtt_url

    async def start(self) -> None:
        await self._server.restart()

    async def kill(self) -> None:
        await self._server.kill()


MqttServer = Mosquitto | NatsListener


@asynccontextmanager
async def nats_listener() -> AsyncIterator[NatsListener]:
    async with await NatsServer.start(mqtt_port=0) as server:
        yield NatsListener(server)


@asynccontextmanager
async def mosquitto(settings: str = "") -> AsyncIterator[Mosquitto]:
    """A mosquitto with these lines in its configuration. Skips the test where none is installed."""
    mosquitto_binary()
    with tempfile.TemporaryDirectory(prefix="understudy-mosquitto-") as name:
        if os.geteuid() == 0:
            # Started by root, mosquitto goes on as a user of its own.
            settings = f"user root\n{settings}"
        server = Mosquitto(Path(name), _free_port(), settings)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()


def mosquitto_binary() -> str:
    """Skips the test where there is none."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("there is no mosquitto here: `apt-get install mosquitto`")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
