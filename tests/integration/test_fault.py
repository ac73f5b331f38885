"""`understudy fault`: a user breaks a pipeline on purpose, and it is what was named that breaks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

import understudy
from tests.integration.conftest import Digits
from tests.integration.harness import Shell, Up, eventually, survivors
from tests.integration.test_servers import brokers

SOON_S = 20.0


@pytest.fixture
def running(shell: Shell) -> Iterator[Up]:
    with shell.up("--nodes", "3") as up:
        yield up


def fault(shell: Shell, *arguments: str) -> dict[str, Any]:
    outcome = shell.run("fault", *arguments, "--json")
    assert outcome.code == 0, outcome.err
    document: dict[str, Any] = json.loads(outcome.out)
    return document


async def status_where(shell: Shell, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
    async def look() -> dict[str, Any]:
        outcome = shell.run("status", "--json")
        document: dict[str, Any] = json.loads(outcome.out) if outcome.code == 0 else {"nodes": []}
        return document

    seen: dict[str, Any] = await eventually(look, wanted, within_s=SOON_S, what=what)
    return seen


def alive(document: dict[str, Any]) -> set[str]:
    return {node["name"] for node in document["nodes"] if node["alive"]}


async def paused(pid: int) -> None:
    """The command has sent the signal; a busy process takes a moment to stop."""

    async def state() -> str:
        return str(psutil.Process(pid).status())

    await eventually(state, lambda seen: seen == psutil.STATUS_STOPPED, within_s=SOON_S, what="a paused process")


async def test_a_node_that_is_killed_is_gone_and_frames_are_answered_without_it(
    shell: Shell, running: Up, digits: Digits
) -> None:
    before = [psutil.Process(node["pid"]) for node in running.document["nodes"] if node["name"] == "node2"]
    done = fault(shell, "kill", "node2")
    assert [process.pid for process in before] == [done["pid"]]
    assert (done["pipeline"], done["action"], done["role"], done["name"]) == ("digits", "kill", "node", "node2")
    assert survivors(before, SOON_S) == []
    await status_where(
        shell, lambda seen: alive(seen) == {"node1", "node3"} and seen["state"] == "running", "a plan without the node"
    )
    async with understudy.connect(running.url, "digits") as client:
        assert (await client.infer(digits.frames[4])).class_index == 4
    again = shell.run("fault", "kill", "node2")
    assert again.code == 2
    assert "has ended already" in again.err


async def test_a_node_that_is_paused_is_taken_for_gone_and_comes_back_when_it_is_resumed(
    shell: Shell, running: Up
) -> None:
    done = fault(shell, "pause", "node3")
    await paused(done["pid"])
    await status_where(shell, lambda seen: "node3" not in alive(seen), "a node that is silent")
    assert fault(shell, "resume", "node3")["pid"] == done["pid"]
    await status_where(shell, lambda seen: "node3" in alive(seen), "the node")


async def test_the_head_can_be_named_without_knowing_where_it_is(shell: Shell, running: Up) -> None:
    document = await status_where(shell, lambda seen: any(node["head"] for node in seen["nodes"]), "a head")
    head = next(node for node in document["nodes"] if node["head"])
    outcome = shell.run("fault", "kill", "head")
    assert outcome.out == f"killed node '{head['name']}' of pipeline 'digits' (pid {head['pid']})\n"
    await status_where(
        shell,
        lambda seen: any(node["head"] and node["alive"] and node["name"] != head["name"] for node in seen["nodes"]),
        "a new head",
    )


async def test_a_paused_controller_does_not_keep_frames_from_being_answered_and_can_be_resumed(
    shell: Shell, running: Up, digits: Digits
) -> None:
    async with understudy.connect(running.url, "digits") as client:
        done = fault(shell, "pause", "controller")
        assert done["role"] == "controller"
        await paused(done["pid"])
        assert (await client.infer(digits.frames[2])).class_index == 2
        refused = shell.run("fault", "kill", "node1")
        assert refused.code == 2
        assert "understudy fault resume controller" in refused.err
        fault(shell, "resume", "controller")
    await status_where(shell, lambda seen: seen.get("state") == "running", "the controller")


async def test_a_killed_broker_is_started_again_and_can_be_killed_again(
    shell: Shell, running: Up, digits: Digits
) -> None:
    first = fault(shell, "kill", "broker")
    assert first["role"] == "broker"
    await eventually(
        lambda: brokers(shell), lambda pids: pids != (first["pid"],), within_s=SOON_S, what="a note of the new broker"
    )
    await status_where(shell, lambda seen: len(alive(seen)) == 3 and seen["state"] == "running", "the pipeline")
    second = fault(shell, "kill", "broker")
    assert second["pid"] != first["pid"]
    await status_where(shell, lambda seen: len(alive(seen)) == 3 and seen["state"] == "running", "the pipeline again")
    async with understudy.connect(running.url, "digits") as client:
        assert (await client.infer(digits.frames[6])).class_index == 6


def test_a_pipeline_whose_parts_are_paused_is_stopped_at_once(shell: Shell, running: Up) -> None:
    fault(shell, "pause", "node2")
    fault(shell, "pause", "controller")
    running.interrupt()
    assert running.wait(4.0) == 0
    assert shell.left_behind() == []


def test_wrong_names_are_answered_with_what_there_is(pipeline: Up, shared_shell: Shell, shell: Shell) -> None:
    unknown = shared_shell.run("fault", "pause", "node9")
    assert (unknown.code, unknown.out) == (2, "")
    assert "there are node1, node2, node3, node4, head, controller, broker" in unknown.err
    elsewhere = shared_shell.run("fault", "kill", "node1", "--pipeline", "faces")
    assert elsewhere.code == 2
    assert "pipeline 'faces' does not run on this machine; what runs: digits" in elsewhere.err
    nothing = shell.run("fault", "kill", "node1")
    assert nothing.code == 2
    assert "no pipeline runs on this machine" in nothing.err
    # Reached over the broker alone, its controller and broker are somebody else's.
    foreign = shell.run("fault", "kill", "controller", "--broker", pipeline.url, "--pipeline", "digits")
    assert foreign.code == 2
    assert "is not on this machine" in foreign.err
    assert "Traceback" not in unknown.err + elsewhere.err + nothing.err + foreign.err
