"""On a broker that somebody else runs: a plain nats-server without accounts."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import understudy
from broker.server import find_binary
from tests.integration.conftest import Digits
from tests.integration.harness import POLL_S, Shell, survivors

READY_S = 10.0


@pytest.fixture
def plain_server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """(URL, process) of `nats-server` with nothing but a free port."""
    folder = tmp_path / "server"
    folder.mkdir()
    log = (folder / "log").open("wb")
    binary = str(find_binary())
    with log, subprocess.Popen([binary, "-p", "-1", "--ports_file_dir", str(folder)], stderr=log) as process:
        try:
            yield _address(folder, process), process
        finally:
            process.kill()


def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            text = (folder / f"nats-server_{process.pid}.ports").read_text()
            return f"nats://127.0.0.1:{json.loads(text)['nats'][0].rpartition(':')[2]}"
        except (FileNotFoundError, json.JSONDecodeError):
            time.sleep(POLL_S)
    raise AssertionError(f"nats-server did not start: {(folder / 'log').read_text()}")


async def test_a_pipeline_runs_at_an_existing_broker_and_leaves_it_running(
    shell: Shell, digits: Digits, plain_server: tuple[str, subprocess.Popen[bytes]]
) -> None:
    url, server = plain_server
    with shell.up("--nodes", "2", "--broker", url) as running:
        assert running.url == url
        family = running.family()
        assert not any("nats-server" in process.name() for process in family)
        async with understudy.connect(url, "digits") as client:
            results = [result async for result in client.stream(digits.frames[:100])]
            # The limit is that broker's own.
            with pytest.raises(understudy.PayloadTooLargeError, match=str(1024 * 1024)):
                await client.infer(b"x" * (2 << 20))
        assert sum(r.class_index == label for r, label in zip(results, digits.labels[:100], strict=True)) >= 97
        status = shell.run("status", "--json")
        assert json.loads(status.out)["broker"] == url
        running.interrupt()
        assert running.wait() == 0
        assert survivors(family, 0) == []
    assert server.poll() is None
    assert shell.left_behind() == []


async def test_two_pipelines_share_a_broker_and_a_machine(
    shell: Shell, digits: Digits, plain_server: tuple[str, subprocess.Popen[bytes]]
) -> None:
    url, _ = plain_server
    with (
        shell.up("--nodes", "1", "--broker", url, "--pipeline", "one"),
        shell.up("--config", _config(shell, url)),
    ):
        for name in ("one", "other"):
            async with understudy.connect(url, name) as client:
                assert (await client.infer(digits.frames[2])).class_index == 2
        which = shell.run("status")
        assert which.code == 2
        assert "one, other" in which.err
        names = [json.loads(shell.run("status", name, "--json").out)["nodes"] for name in ("one", "other")]
        assert [[node["name"] for node in nodes] for nodes in names] == [["node1"], ["elsewhere"]]


def _config(shell: Shell, url: str) -> str:
    path = shell.folder / "other.yaml"
    path.write_text(f"pipeline: other\nbroker: {url}\nnodes: [{{name: elsewhere}}]\n")
    return str(path)
