"""Servers for tests of all kinds."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from broker.server import NatsServer, find_binary

START_S = 10.0
POLL_S = 0.01


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    """The embedded one, of this test's own."""
    async with await NatsServer.start() as running:
        yield running


@pytest.fixture
def plain_server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """(URL, process) of `nats-server` as somebody else would start it, without accounts and JetStream."""
    folder = tmp_path / "server"
    folder.mkdir()
    argv = [str(find_binary()), "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(folder)]
    with (folder / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            yield _address(folder, process), process
        finally:
            process.kill()


@pytest.fixture
def without_jetstream(plain_server: tuple[str, subprocess.Popen[bytes]]) -> str:
    """The URL of a nats-server that keeps nothing."""
    return plain_server[0]


def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    file = folder / f"{find_binary().name}_{process.pid}.ports"
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return str(json.loads(file.read_text())["nats"][0])
        except (FileNotFoundError, json.JSONDecodeError):
            time.sleep(POLL_S)
    raise AssertionError(f"nats-server did not start: {(folder / 'log').read_text()}")
