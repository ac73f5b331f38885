"""A nats-server of one's own, as `understudy broker-config` sets it up: the roles work with what they are given."""

from __future__ import annotations

import re
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import understudy
from broker.connect import connect
from broker.errors import PermissionDeniedError
from broker.server import find_binary
from tests.integration.conftest import Digits
from tests.integration.harness import POLL_S, Outcome, Shell, eventually
from understudy.discovery import statuses

START_S = 10.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as own:
        return int(own.getsockname()[1])


@pytest.fixture
def written(shell: Shell) -> tuple[Outcome, Path, int]:
    port = free_port()
    path = shell.folder / "nats.conf"
    outcome = shell.run(
        *("broker-config", "--pipeline", "digits", "--nodes", "one,two", "--port", str(port), "--out", str(path))
    )
    assert (outcome.code, outcome.err) == (0, "")
    return outcome, path, port


@pytest.fixture
def server(written: tuple[Outcome, Path, int], shell: Shell) -> Iterator[None]:
    _, path, port = written
    with (shell.folder / "server.log").open("wb") as log:
        process = subprocess.Popen([str(find_binary()), "-c", str(path)], stdout=log, stderr=log)
    with process:
        await_port(process, port)
        yield
        process.kill()


def await_port(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the server takes connections."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(POLL_S)


def variables(text: str, whose: str) -> dict[str, str]:
    """What is printed below the line of a role."""
    _, _, rest = text.partition(f"{whose}\n")
    assert rest
    found: dict[str, str] = {}
    for line in rest.splitlines():
        match = re.fullmatch(r"  (UNDERSTUDY_\w+)=(\S+)", line)
        if match is None:
            break
        found[match[1]] = match[2]
    return found


def test_the_file_is_for_its_user_alone_and_never_overwritten(written: tuple[Outcome, Path, int], shell: Shell) -> None:
    _, path, _ = written
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_text()
    again = shell.run("broker-config", "--pipeline", "digits", "--out", str(path))
    assert again.code == 2
    assert "is there already" in again.err
    assert path.read_text() == before


def test_passwords_are_fresh_each_time_and_names_are_checked(shell: Shell) -> None:
    texts = [shell.run("broker-config", "--pipeline", "digits", "--mqtt").out for _ in range(2)]
    found = [set(re.findall(r'password: "([^"]+)"', text)) for text in texts]
    assert len(found[0]) == len(found[1]) == 5
    assert not found[0] & found[1]
    assert "mqtt { port: 1883 }" in texts[0]
    assert shell.run("broker-config", "--pipeline", 'x" }').code == 2
    assert shell.run("broker-config", "--pipeline", "x", "--nodes", "a.b").code == 2


@pytest.mark.usefixtures("server")
async def test_a_pipeline_runs_with_a_user_for_each_role(
    written: tuple[Outcome, Path, int], shell: Shell, digits: Digits
) -> None:
    text, _, port = written[0].out, written[1], written[2]
    url = f"nats://127.0.0.1:{port}"
    assert f"Clients: {url}" in text
    roles = {
        name: variables(text, whose)
        for name, whose in {
            "one": "understudy node --name one --pipeline digits",
            "two": "understudy node --name two --pipeline digits",
            "controller": "understudy controller --pipeline digits",
            "operator": "understudy measure, understudy update",
        }.items()
    }
    assert set(roles["controller"]) > set(roles["one"]) == set(roles["operator"])
    client = await connect(url)

    async def status() -> str:
        return str((await statuses(client, until="digits")).get("digits", {}).get("state"))

    common = ("--pipeline", "digits")
    with (
        shell.start("controller", *common, "--expect", "2", "--stages", "2", **roles["controller"]) as controller,
        shell.start("node", "--name", "one", *common, **roles["one"]) as one,
        shell.start("node", "--name", "two", *common, **roles["two"]) as two,
    ):
        await eventually(status, lambda state: state == "running", within_s=30, what="a pipeline that runs")
        async with understudy.connect(url, "digits") as publisher:
            results = [result async for result in publisher.stream(digits.frames[:50])]
        assert sum(r.class_index == label for r, label in zip(results, digits.labels[:50], strict=True)) >= 48
        measured = shell.run("measure", "--seconds", "0.05", **roles["operator"])
        assert measured.code == 0
        folder = str(digits.bundle)
        assert shell.run("update", "digits", folder, **roles["operator"], timeout_s=60).code == 0
        # The password of one node does not open the place of another.
        thief = shell.run("node", "--name", "two", *common, **roles["one"])
        assert thief.code == 2
        assert "user 'node-digits.one" in thief.err
        with pytest.raises(PermissionDeniedError):
            await client.request("understudy._.update.digits", b"", timeout_s=5)
        for running in (controller, one, two):
            assert "broker_refused" not in running.log.read_text()
            assert "presence-unavailable" not in running.log.read_text()
    await client.close()
