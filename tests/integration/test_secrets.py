"""No password is ever printed, logged, or to be read in a list of processes."""

from __future__ import annotations

import contextlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import Digits
from tests.integration.harness import Shell, Up

PASSWORD = re.compile(r'password: "([^"]+)"')


def passwords(shell: Shell) -> set[str]:
    """All that the embedded brokers know, and the one between them."""
    return {
        password
        for config in shell.temp.glob("understudy-nats-*/server.conf")
        for password in PASSWORD.findall(config.read_text())
    }


def command_lines(running: Up) -> str:
    found = []
    for process in running.family():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
            found.append(" ".join(process.cmdline()))
    return "\n".join(found)


def logs(shell: Shell) -> str:
    return "\n".join(path.read_text(errors="replace") for path in shell.folder.rglob("*.log"))


def test_what_up_makes_up_is_shown_nowhere(shell: Shell, digits: Digits, tmp_path: Path) -> None:
    (tmp_path / "seven.png").write_bytes(digits.frames[7])
    with shell.up("--nodes", "2", "--servers", "2", UNDERSTUDY_LOG_LEVEL="debug") as running:
        secrets = passwords(shell)
        # Two nodes, the controller, the client, the operator, the system, the routes.
        assert len(secrets) == 7
        assert all(len(secret) >= 20 for secret in secrets)
        outcomes = [
            shell.run("status", "--json"),
            shell.run("status", UNDERSTUDY_LOG_LEVEL="debug"),
            shell.run("publish", "digits", str(tmp_path / "seven.png"), "--json"),
            shell.run("events", "--json"),
            shell.run("measure", "--seconds", "0.05"),
            shell.run("measure", "--broker", running.url),
            shell.run("update", "digits", str(tmp_path / "nothing.onnx")),
            shell.run("fault", "kill", "broker2"),
            shell.run("fault", "kill", "node2"),
            shell.run("fault", "kill", "broker"),
        ]
        assert [outcome.code for outcome in outcomes] == [0, 0, 0, 0, 0, 0, 2, 0, 0, 2]
        shown = [json.dumps(running.document), command_lines(running), logs(shell)]
        shown += [outcome.out + outcome.err for outcome in outcomes]
        assert all(len(text) > 20 for text in shown)
        assert not [secret for secret in secrets for text in shown if secret in text]
        running.interrupt()
        assert running.wait() == 0
    assert not [secret for secret in secrets if secret in running.log.read_text()]
    assert shell.left_behind() == []


COMMANDS = (
    ("status",),
    ("watch",),
    ("node", "--name", "n"),
    ("controller",),
    ("up", "--nodes", "1"),
    ("measure",),
    ("publish", "digits", "-"),
)


@pytest.mark.parametrize("port", ["1", "port"])
def test_a_broker_that_is_not_there_is_named_without_its_password(shell: Shell, port: str) -> None:
    url = f"nats://me:hunter2@127.0.0.1:{port},hunter3@127.0.0.1:1"
    urls = {"UNDERSTUDY_BROKER": url, "UNDERSTUDY_CONTROL_BROKER": url}
    # Side by side: each tries for two seconds.
    with ThreadPoolExecutor(len(COMMANDS)) as side_by_side:
        outcomes = list(
            side_by_side.map(lambda arguments: shell.run(*arguments, **urls, UNDERSTUDY_LOG_LEVEL="debug"), COMMANDS)
        )
    for outcome in outcomes:
        assert outcome.code == 2, outcome
        assert "127.0.0.1" in outcome.err
        assert "hunter" not in outcome.out + outcome.err


def test_a_wrong_broker_in_a_file_is_named_without_its_password(shell: Shell) -> None:
    config = shell.folder / "up.yaml"
    for text in (
        "broker: nats://me:hunter2@h?ca=x",
        "broker: [nats://me:hunter2@h]",
        "broker: nats://me:hunter2@h\nservers: 2",
    ):
        config.write_text(f"nodes: 1\n{text}\n")
        outcome = shell.run("up", "--config", str(config))
        assert outcome.code == 2
        assert "hunter2" not in outcome.out + outcome.err
