"""Nothing outlives the pipeline: no process, no run file, no temporary folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from typing import Any

import psutil
import pytest

import understudy
from tests.integration.conftest import Digits
from tests.integration.harness import Shell, Up, eventually, is_called, survivors


def family_of(running: Up) -> list[psutil.Process]:
    """Supervisor, broker, controller and the two nodes."""
    family = running.family()
    pids = {process.pid for process in family}
    assert {node["pid"] for node in running.document["nodes"]} <= pids
    assert any(is_called(process, "nats-server") for process in family)
    assert len(family) == 5
    return family


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_stop_ends_every_process_and_leaves_nothing(shell: Shell, number: signal.Signals) -> None:
    with shell.up("--nodes", "2") as running:
        family = family_of(running)
        assert shell.left_behind()
        running.interrupt(number)
        assert running.wait() == 0
        assert survivors(family, 0) == []
        assert shell.left_behind() == []
        assert "Traceback" not in running.log.read_text()


def test_a_killed_supervisor_takes_every_child_with_it_and_the_next_one_cleans_up(shell: Shell, digits: Digits) -> None:
    with shell.up("--nodes", "2") as running:
        family = family_of(running)
        running.interrupt(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert survivors(family, 20) == []
    # What the dead one left is not taken for a running pipeline, and removed.
    assert shell.run("status").code == 2
    with shell.up("--nodes", "1") as running:
        assert shell.run("publish", "digits", "-", stdin=digits.frames[0]).code == 0
        running.interrupt()
        assert running.wait() == 0
    assert shell.left_behind() == []


def test_a_stop_while_it_is_starting_leaves_nothing(shell: Shell) -> None:
    with shell.start("up", "--nodes", "2", "--json") as running:
        seen: dict[int, psutil.Process] = {}
        while not any(is_called(process, "nats-server") for process in seen.values()):
            assert running.process.poll() is None
            seen |= {process.pid: process for process in running.family()}
        running.interrupt()
        assert running.wait() == 0
        assert survivors(list(seen.values()), 0) == []
        assert shell.left_behind() == []
        assert "Traceback" not in running.log.read_text()


def test_a_ctrl_c_while_frames_are_under_way_is_clean(shell: Shell, digits: Digits) -> None:
    folder = shell.folder / "many"
    folder.mkdir()
    for i, frame in enumerate(digits.frames):
        (folder / f"{i:03}.png").write_bytes(frame)
    with shell.up("--nodes", "2") as running:
        family = family_of(running)
        with shell.start("publish", "digits", *["many"] * 50, "--json") as publishing:
            assert json.loads(publishing.line(20))["error"] is None
            running.interrupt()
            assert running.wait() == 0
        assert survivors(family, 0) == []
        assert shell.left_behind() == []
        assert "Traceback" not in running.log.read_text()


async def status_of(shell: Shell) -> dict[str, Any]:
    """Empty while no controller answers."""
    outcome = await asyncio.to_thread(shell.run, "status", "--json")
    return dict(json.loads(outcome.out)) if outcome.code == 0 else {}


def controllers(running: Up) -> list[psutil.Process]:
    found = []
    for process in running.family():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "controller" in process.cmdline():
                found.append(process)
    return found


async def another_controller(running: Up, first: psutil.Process) -> psutil.Process:
    async def look() -> list[psutil.Process]:
        return [process for process in controllers(running) if process.pid != first.pid]

    return (await eventually(look, bool, within_s=20, what="another controller"))[0]


async def test_a_killed_controller_is_started_again_while_frames_flow_on(shell: Shell, digits: Digits) -> None:
    with shell.up("--nodes", "2") as running:
        (first,) = controllers(running)
        results: list[understudy.Result] = []
        async with understudy.connect(running.url, "digits") as client:
            async for result in client.stream(digits.frames, window=16):
                results.append(result)
                if len(results) == 100:
                    first.kill()
        assert [result.error for result in results] == [None] * 400
        await another_controller(running, first)

        def serves(found: dict[str, Any]) -> bool:
            return found.get("state") == "running" and found["epoch"] > 1

        await eventually(lambda: status_of(shell), serves, within_s=30, what="a plan of the new controller")
        running.interrupt()
        assert running.wait() == 0


async def test_the_pipeline_ends_with_a_message_when_its_controller_ends_again_and_again(shell: Shell) -> None:
    with shell.up("--nodes", "2") as running:
        family = family_of(running)
        (first,) = controllers(running)
        first.kill()
        second = await another_controller(running, first)
        second.kill()
        assert running.wait() == 1
        assert survivors([*family, second], 0) == []
        assert shell.left_behind() == []
        assert "controller ended" in running.log.read_text()
        assert "Traceback" not in running.log.read_text()


async def test_a_killed_broker_is_started_again_and_a_stream_that_was_under_way_is_answered_completely(
    shell: Shell, digits: Digits
) -> None:
    with shell.up("--nodes", "2") as running:
        results: list[understudy.Result] = []
        async with understudy.connect(running.url, "digits") as client:
            async for result in client.stream(digits.frames, window=16):
                results.append(result)
                if len(results) == 100:
                    broker_of(running).kill()
        # The controller may be the last to be connected again.
        status = await eventually(lambda: status_of(shell), bool, within_s=20, what="the status")
        assert status["broker"] == running.url
        assert broker_of(running).is_running()
        running.interrupt()
        assert running.wait() == 0
        assert "Traceback" not in running.log.read_text()
    assert [result.error for result in results] == [None] * 400
    right = sum(result.class_index == label for result, label in zip(results, digits.labels, strict=True))
    assert right / 400 >= 0.98
    assert shell.left_behind() == []


def broker_of(running: Up) -> psutil.Process:
    return next(process for process in running.family() if is_called(process, "nats-server"))
