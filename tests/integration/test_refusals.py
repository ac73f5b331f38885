"""What a user can get wrong at the command line: exit code 2, and one message that says what, where and what to do."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest

from tests.integration.conftest import Digits
from tests.integration.harness import Outcome, Shell, Up
from tests.onnx_models import resnet, single_node

LINES = 3
"""A message is one to three lines: what failed, and what the process that failed had to say."""


def assert_refused(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.err.startswith("understudy: ")
    assert 1 <= len(outcome.err.splitlines()) <= LINES, outcome.err
    for word in words:
        assert word in outcome.err, outcome.err


CONFIGS = [
    pytest.param("nodes: 2\nnodez: 3\n", ["'nodez' is not a setting", "nodes", "heartbeat"], id="wrong key"),
    pytest.param(
        "nodes:\n  - {name: a, memry: 3 MB}\n", ["nodes.0.memry", "memory, threads"], id="wrong key of a node"
    ),
    pytest.param("nodes:\n  - {name: a, memory: 3 parsecs}\n", ["nodes.0.memory", "parsecs", "MiB"], id="wrong unit"),
    pytest.param("heartbeat: 100\n", ["heartbeat", "100ms"], id="no unit"),
    pytest.param("stages: many\n", ["stages", "integer"], id="wrong type"),
    pytest.param("nodes: [1, 2\nstages: }", [":2", "not valid YAML"], id="invalid YAML"),
    pytest.param("just some words\n", ["nodes: 4"], id="no mapping"),
    pytest.param("nodes: [{name: a}, {name: a}]\n", ["twice", "a"], id="a name twice"),
    pytest.param("nodes: [{name: a.b}]\n", ["'a.b'", "letters"], id="unusable name"),
    pytest.param("pipeline: no spaces\n", ["'no spaces'", "letters"], id="unusable pipeline"),
    pytest.param("nodes: [{name: a}]\nstages: 2\n", ["stages is 2", "1 nodes"], id="more stages than nodes"),
    pytest.param("model: gone.onnx\n", ["gone.onnx"], id="a model that is not there"),
    pytest.param(
        "nodes: [{name: a, memory: 1 KB}, {name: b, memory: 1 KB}]\n", ["needs", "bytes"], id="too little memory"
    ),
    pytest.param("nodes: [{name: a, providers: [Quantum]}]\n", ["Quantum", "CPU"], id="unknown execution provider"),
]


@pytest.mark.parametrize(("text", "words"), CONFIGS)
def test_a_wrong_configuration_is_explained(shell: Shell, text: str, words: list[str]) -> None:
    (shell.folder / "cluster.yaml").write_text(text)
    outcome = shell.run("up", "--config", "cluster.yaml")
    assert_refused(outcome, *words)
    assert shell.left_behind() == []


def test_a_configuration_that_is_not_there_is_named(shell: Shell) -> None:
    assert_refused(shell.run("up", "--config", "gone.yaml"), "gone.yaml", "No such file")


def test_a_port_that_is_taken_is_named_with_the_option_that_helps(shell: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = shell.run("up", "--port", str(port))
    assert_refused(outcome, f"port {port} is taken", "--port")
    assert shell.left_behind() == []


def test_a_broker_that_is_not_there_is_named_without_its_password(shell: Shell) -> None:
    commands = [["up"], ["node", "--name", "a"], ["controller"], ["status"], ["watch"], ["publish", "digits", "-"]]
    with socket.socket() as free, ThreadPoolExecutor(len(commands)) as side_by_side:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        url = f"nats://me:secret@{address}"
        # Side by side: each tries for two seconds.
        outcomes = list(side_by_side.map(lambda command: shell.run(*command, "--broker", url), commands))
    for outcome in outcomes:
        assert_refused(outcome, f"nats://{address}", "connection refused")
        assert "secret" not in outcome.err
    assert shell.left_behind() == []


@pytest.mark.parametrize("url", ["localhost", "http://localhost:4222", "nats://:notaport"])
def test_a_broker_that_is_no_url_is_explained(shell: Shell, url: str) -> None:
    assert_refused(shell.run("up", "--broker", url), url, "not a broker URL")


def test_without_a_pipeline_on_this_machine_the_user_is_told_how_to_start_one(shell: Shell) -> None:
    for command in (["status"], ["watch"], ["publish", "digits", "-"]):
        assert_refused(shell.run(*command), "understudy up", "--broker")


@pytest.mark.parametrize("command", [["node", "--name", "a"], ["controller"]], ids=lambda command: str(command[0]))
def test_a_role_without_a_broker_is_told_how_to_name_one(shell: Shell, command: list[str]) -> None:
    assert_refused(shell.run(*command), "--broker")


def random_bytes(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def nothing_at_all(path: Path) -> None:
    path.write_bytes(b"")


def half_of_a_model(path: Path) -> None:
    data = resnet().SerializeToString()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("spoil", [random_bytes, nothing_at_all, half_of_a_model])
@pytest.mark.parametrize("command", [["up", "--model"], ["inspect"]], ids=lambda command: str(command[0]))
def test_a_corrupt_model_is_named(shell: Shell, command: list[str], spoil: Callable[[Path], None]) -> None:
    spoil(shell.folder / "broken.onnx")
    assert_refused(shell.run(*command, "broken.onnx"), "broken", "ONNX")
    assert shell.left_behind() == []


@pytest.mark.parametrize("command", [["up", "--model"], ["inspect"]], ids=lambda command: str(command[0]))
def test_a_model_that_is_not_there_is_named(shell: Shell, command: list[str]) -> None:
    assert_refused(shell.run(*command, "gone.onnx"), "gone.onnx")


def test_a_bundle_that_is_not_there_is_named_with_the_command_that_makes_one(shell: Shell) -> None:
    assert_refused(shell.run("up", "--bundle", "gone"), "gone", "understudy prepare")


def test_a_bundle_with_a_changed_byte_is_refused_with_both_hashes(shell: Shell, digits: Digits) -> None:
    copy = shell.folder / "digits"
    shutil.copytree(digits.bundle, copy)
    data = bytearray((copy / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.onnx").write_bytes(data)
    assert_refused(shell.run("up", "--bundle", "digits"), "model.onnx", "SHA-256", "copy the bundle again")


def test_more_stages_than_the_model_has_blocks_are_refused_with_the_most_that_it_can_have(shell: Shell) -> None:
    onnx.save(resnet(), shell.folder / "small.onnx")
    outcome = shell.run("up", "--model", "small.onnx", "--stages", "50", "--nodes", "50")
    assert_refused(outcome, "small", "at most", "50")


def test_a_model_without_a_cut_can_not_be_split(shell: Shell) -> None:
    onnx.save(single_node(), shell.folder / "single.onnx")
    assert_refused(shell.run("up", "--model", "single.onnx", "--stages", "2"), "single", "no cut", "one stage")


def test_an_unknown_execution_provider_is_refused_with_those_that_there_are(shell: Shell, pipeline: Up) -> None:
    outcome = shell.run("node", "--name", "a", "--broker", pipeline.url, "--provider", "Quantum")
    assert_refused(outcome, "Quantum", "CPU", "--provider")


def test_a_second_pipeline_of_the_same_name_is_refused_and_the_first_goes_on(
    shared_shell: Shell, pipeline: Up, digits: Digits
) -> None:
    outcome = shared_shell.run("up", "--nodes", "1")
    assert_refused(outcome, "'digits'", str(pipeline.pid), "--pipeline")
    answer = shared_shell.run("publish", "digits", "-", stdin=digits.frames[0])
    assert answer.code == 0


def test_a_bundle_and_a_model_together_are_refused(shell: Shell) -> None:
    assert_refused(shell.run("up", "--bundle", "a", "--model", "b"), "bundle", "model", "one of them")


@pytest.mark.parametrize("option", [["--nodes", "0"], ["--nodes", "several"], ["--nodez", "3"], ["--port", "70000"]])
def test_a_wrong_option_is_explained_with_the_usage(shell: Shell, option: list[str]) -> None:
    outcome = shell.run("up", *option)
    assert outcome.code == 2
    assert "Usage: understudy up" in outcome.err
    assert option[0] in outcome.err
    assert "Traceback" not in outcome.err


def test_a_bare_model_with_more_stages_than_the_default_of_nodes_is_served(shell: Shell) -> None:
    onnx.save(resnet(), shell.folder / "small.onnx")
    with shell.up("--model", "small.onnx", "--stages", "6") as running:
        assert sum(len(node["stages"]) for node in running.document["nodes"]) == 6
