"""On a broker that somebody else runs: a plain nats-server without accounts."""

from __future__ import annotations

import json
import subprocess

import pytest

import understudy
from tests.integration.conftest import Digits
from tests.integration.harness import Shell, is_called, survivors


async def test_a_pipeline_runs_at_an_existing_broker_and_leaves_it_running(
    shell: Shell, digits: Digits, plain_server: tuple[str, subprocess.Popen[bytes]]
) -> None:
    url, server = plain_server
    with shell.up("--nodes", "2", "--broker", url) as running:
        assert running.url == url
        family = running.family()
        assert not any(is_called(process, "nats-server") for process in family)
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
