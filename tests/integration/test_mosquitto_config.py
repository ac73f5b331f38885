"""A mosquitto of one's own, as `understudy broker-config --for mosquitto` sets it up: the roles work with what they are
given, also when nodes are lost, and may do no more."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import understudy
from broker import subjects
from broker.connect import connect
from tests.contract.conftest import Inbox
from tests.contract.mqtt_servers import mosquitto_binary
from tests.integration.conftest import Digits
from tests.integration.flow import streaming
from tests.integration.harness import Outcome, Shell, eventually
from tests.integration.mqtt_stranger import mqtt_stranger
from tests.integration.test_broker_config import await_port, free_port, variables
from understudy.discovery import statuses

NODES = ("one", "two", "three", "four")
READY_S = 30.0


@pytest.fixture
def written(shell: Shell) -> tuple[Outcome, Path, int]:
    port, path = free_port(), shell.folder / "own.conf"
    options = ("--pipeline", "digits", "--nodes", ",".join(NODES), "--port", str(port), "--out", str(path))
    outcome = shell.run("broker-config", "--for", "mosquitto", *options)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome, path, port


@pytest.fixture
def server(written: tuple[Outcome, Path, int], shell: Shell) -> Iterator[None]:
    _, path, port = written
    if os.geteuid() == 0:
        # It would go on as a user of its own, who may not read the files.
        path.write_text(f"user root\n{path.read_text()}")
    with (shell.folder / "server.log").open("wb") as log:
        process = subprocess.Popen([mosquitto_binary(), "-c", str(path)], stdout=log, stderr=log)
    with process:
        await_port(process, port)
        yield
        process.kill()


def url_of(text: str, whose: str) -> str:
    given = variables(text, whose)
    assert list(given) == ["UNDERSTUDY_BROKER"]
    return given["UNDERSTUDY_BROKER"]


def of_node(name: str) -> str:
    return f"understudy node --name {name} --pipeline digits"


def test_the_files_hold_no_password_and_are_for_their_user_alone(
    written: tuple[Outcome, Path, int], shell: Shell
) -> None:
    outcome, path, _ = written
    files = [path, path.with_name("own.conf.passwords"), path.with_name("own.conf.acl")]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3
    passwords = set(re.findall(r"mqtt://[^:]+:([^@]+)@", outcome.out))
    assert len(passwords) == 3 + len(NODES)
    before = [file.read_text() for file in files]
    assert not [password for password in passwords for text in before if password in text]
    path.unlink()
    again = shell.run("broker-config", "--for", "mosquitto", "--pipeline", "digits", "--out", str(path))
    assert again.code == 2
    assert "own.conf.passwords is there already" in again.err
    assert not path.exists()


@pytest.mark.parametrize(("options", "why"), [((), "add --out FILE"), (("--mqtt",), "--mqtt is for a nats-server")])
def test_what_mosquitto_does_not_take_is_said(shell: Shell, options: tuple[str, ...], why: str) -> None:
    refused = shell.run("broker-config", "--for", "mosquitto", "--pipeline", "digits", *options)
    assert refused.code == 2
    assert why in refused.err


@pytest.mark.usefixtures("server")
async def test_a_pipeline_runs_with_a_user_for_each_role_and_survives_its_nodes(
    written: tuple[Outcome, Path, int], shell: Shell, digits: Digits
) -> None:
    text = written[0].out
    client_url = url_of(text, "Clients")
    controller_url = url_of(text, "understudy controller --pipeline digits")
    operator = variables(text, "understudy measure, understudy update")
    client = await connect(client_url)

    async def status() -> str:
        return str((await statuses(client, until="digits")).get("digits", {}).get("state"))

    async def head() -> str:
        document = (await statuses(client, until="digits")).get("digits", {})
        return next((node["name"] for node in document.get("nodes", ()) if node["alive"] and node["head"]), "")

    with ExitStack() as stack:
        expected = ("--expect", str(len(NODES)), "--stages", "3")
        controller = stack.enter_context(
            shell.start(
                "controller",
                "--pipeline",
                "digits",
                *expected,
                UNDERSTUDY_BROKER=controller_url,
                UNDERSTUDY_LOG_LEVEL="debug",
            )
        )
        running = {
            name: stack.enter_context(
                shell.start("node", "--name", name, "--pipeline", "digits", **variables(text, of_node(name)))
            )
            for name in NODES
        }
        await eventually(status, lambda state: state == "running", within_s=READY_S, what="a pipeline that runs")
        measured = shell.run("measure", "--seconds", "0.05", **operator)
        assert measured.code == 0, measured.err
        updated = shell.run("update", "digits", str(digits.bundle), **operator, timeout_s=60)
        assert updated.code == 0, updated.err
        async with understudy.connect(client_url, "digits") as publisher:
            results = [result async for result in publisher.stream(digits.frames[:50])]
        assert sum(r.class_index == label for r, label in zip(results, digits.labels[:50], strict=True)) >= 48

        async with streaming(client_url, digits, meet=mqtt_stranger) as stream:
            killed = await eventually(head, bool, within_s=READY_S, what="a head")
            before = stream.own.results[-1]["epoch"]
            running[killed].process.kill()
            await stream.healthy_after(before)
            # Its connections' last wills told of it.
            assert "node-disconnected" in controller.log.read_text()

            stopped = await eventually(head, lambda name: name not in ("", killed), within_s=READY_S, what="a head")
            before = stream.own.results[-1]["epoch"]
            running[stopped].interrupt(signal.SIGSTOP)
            try:
                await stream.healthy_after(before)
            finally:
                running[stopped].interrupt(signal.SIGCONT)
            await stream.answers(50)
        said = controller.log.read_text()
        assert "node-not-cut-off" not in said
        assert "presence-unavailable" not in said
    secrets = re.findall(r"mqtt://[^:]+:([^@]+)@", text)
    logs = "\n".join(path.read_text(errors="replace") for path in shell.folder.glob("*.log"))
    assert not [secret for secret in secrets if secret in logs]
    await client.close()


@pytest.mark.usefixtures("server")
async def test_each_may_do_what_its_role_needs_and_no_more(written: tuple[Outcome, Path, int], shell: Shell) -> None:
    text = written[0].out
    roles = {"client": "Clients", "node": of_node("one"), "operator": "understudy measure, understudy update"}
    client, node, operator = [await connect(url_of(text, whose)) for whose in roles.values()]
    heard, curious = Inbox(), Inbox()
    await operator.subscribe("understudy.>", heard)
    await client.subscribe("understudy._.>", curious)
    # A publisher writes no route, and a stage no result of another pipeline.
    await client.publish(subjects.activate("digits"), b"forged")
    await client.publish(subjects.frames_in("digits"), b"frame")
    await client.flush()
    await node.publish(subjects.results_out("other"), b"forged")
    await node.publish(subjects.results_out("digits"), b"result")
    await node.flush()
    assert sorted([(one.subject, bytes(one.data)) for one in await heard.take(2)]) == [
        (subjects.frames_in("digits"), b"frame"),
        (subjects.results_out("digits"), b"result"),
    ]
    # A client hears nothing of control, though the broker grants the subscription.
    for subject in (subjects.activate("digits"), subjects.assign("one"), subjects.beat("one"), subjects.gone("x")):
        await operator.publish(subject, b"")
    await operator.flush()
    await client.flush()
    assert curious.waiting == 0
    for one in (client, node, operator):
        await one.close()
    # Who has a wrong password, or none, is not let in.
    url = url_of(text, "Clients")
    password = url.partition("client:")[2].partition("@")[0]
    for other in (url.replace(password, "hunter2"), url.replace(f"client:{password}@", "")):
        refused = shell.run("status", UNDERSTUDY_BROKER=other, UNDERSTUDY_LOG_LEVEL="debug")
        assert refused.code == 2
        assert "authorization failed" in refused.err
        assert "hunter2" not in refused.out + refused.err
