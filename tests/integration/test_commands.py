"""The commands that look at a running pipeline and send to it, as a user types them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import psutil
import pytest

import understudy
from tests.integration.conftest import Digits
from tests.integration.harness import Running, Shell, Up, eventually

STATUS_FIELDS = {"pipeline", "broker", "epoch", "nodes", "in_flight", "frames_per_s"}
NODE_FIELDS = {"name", "pid", "alive", "stages"}


@pytest.fixture
def pictures(tmp_path: Path, digits: Digits) -> Path:
    """A folder with the digits 0 to 4 as files, one of them in a folder below."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for i in range(4):
        (folder / f"digit{i}.png").write_bytes(digits.frames[i])
    (folder / "below" / "digit4.png").write_bytes(digits.frames[4])
    (folder / "notes.txt").write_text("not a frame")
    return folder


# ---- status ------------------------------------------------------------------------------------------------------


async def test_status_as_json_names_the_fields_that_machines_may_rely_on(pipeline: Up, shared_shell: Shell) -> None:
    async def look() -> dict[str, Any]:
        outcome = await asyncio.to_thread(shared_shell.run, "status", "--json")
        assert (outcome.code, outcome.err) == (0, "")
        found: dict[str, Any] = json.loads(outcome.out)
        return found

    # Heartbeats bring what the nodes count: the newest may be of a moment before the last frame was answered.
    document = await eventually(look, lambda found: found["in_flight"] == 0, within_s=15, what="no frame in flight")
    assert document.keys() >= STATUS_FIELDS
    assert (document["pipeline"], document["broker"]) == ("digits", pipeline.url)
    assert document["epoch"] >= 1
    assert isinstance(document["frames_per_s"], float)
    assert [node["name"] for node in document["nodes"]] == ["node1", "node2", "node3", "node4"]
    for node in document["nodes"]:
        assert node.keys() >= NODE_FIELDS
        assert node["alive"] is True
        assert len(node["stages"]) == 1


def test_the_pids_of_the_status_are_those_of_one_process_per_node(pipeline: Up, shared_shell: Shell) -> None:
    nodes = json.loads(shared_shell.run("status", "--json").out)["nodes"]
    family = {process.pid for process in pipeline.family()}
    assert len({node["pid"] for node in nodes}) == 4
    for node in nodes:
        assert node["pid"] in family
        command = psutil.Process(node["pid"]).cmdline()
        assert command[command.index("--name") + 1] == node["name"]


def test_status_for_people_shows_every_node_in_a_table(pipeline: Up, shared_shell: Shell) -> None:
    outcome = shared_shell.run("status")
    assert outcome.code == 0
    assert all(f"node{i}" in outcome.out for i in range(1, 5))
    assert "running" in outcome.out


def test_a_client_can_connect_to_the_broker_that_the_status_names(
    pipeline: Up, shared_shell: Shell, digits: Digits
) -> None:
    url = json.loads(shared_shell.run("status", "digits", "--json").out)["broker"]

    async def ask() -> int | None:
        async with understudy.connect(url, "digits") as client:
            return (await client.infer(digits.frames[3])).class_index

    assert asyncio.run(ask()) == 3


async def test_frames_per_second_follow_what_is_streamed(pipeline: Up, shared_shell: Shell, digits: Digits) -> None:
    async def look() -> float:
        outcome = await asyncio.to_thread(shared_shell.run, "status", "--json")
        return float(json.loads(outcome.out)["frames_per_s"])

    async with understudy.connect(pipeline.url, "digits") as client:

        async def stream() -> None:
            while True:
                async for _ in client.stream(digits.frames):
                    pass

        task = asyncio.create_task(stream())
        try:
            await eventually(look, lambda rate: rate > 20, within_s=15, what="a rate of some frames per second")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    await eventually(look, lambda rate: rate < 1, within_s=30, what="a rate of zero")


# ---- publish -----------------------------------------------------------------------------------------------------


def test_publish_takes_files_folders_and_stdin_and_prints_a_result_for_each(
    pipeline: Up, shared_shell: Shell, pictures: Path, digits: Digits
) -> None:
    single = pictures / "digit2.png"
    outcome = shared_shell.run(
        "publish", "digits", str(single), str(pictures), "-", "--json", stdin=digits.frames[9], timeout_s=30
    )
    assert (outcome.code, outcome.err) == (0, "")
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    below = pictures / "below" / "digit4.png"
    files = [single, below, *(pictures / f"digit{i}.png" for i in range(4)), "-"]
    assert [line["file"] for line in lines] == [str(file) for file in files]
    assert [line["class_index"] for line in lines] == [2, 4, 0, 1, 2, 3, 9]
    assert all(line["technique"] == "none" for line in lines)


def test_publish_prints_a_line_per_frame_for_people(pipeline: Up, shared_shell: Shell, pictures: Path) -> None:
    outcome = shared_shell.run("publish", "digits", str(pictures))
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == 5
    assert "digit3.png" in outcome.out
    assert "node1 > node2 > node3 > node4" in outcome.out


def test_publish_ends_with_code_1_when_a_frame_is_bad_and_still_sends_the_others(
    pipeline: Up, shared_shell: Shell, pictures: Path
) -> None:
    (pictures / "digit1.png").write_bytes(b"no image at all")
    outcome = shared_shell.run("publish", "digits", str(pictures), "--json")
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert outcome.code == 1
    assert [line["error"] and line["error"]["code"] for line in lines] == [None, None, "not-an-image", None, None]
    assert "Traceback" not in outcome.err


def test_publish_to_an_unknown_pipeline_names_those_that_run(pipeline: Up, shared_shell: Shell, pictures: Path) -> None:
    for broker in ([], ["--broker", pipeline.url]):
        outcome = shared_shell.run("publish", "digitz", str(pictures), *broker)
        assert outcome.code == 2
        assert outcome.out == ""
        assert "'digitz'" in outcome.err
        assert "digits" in outcome.err
        assert "Traceback" not in outcome.err


@pytest.mark.parametrize(("what", "words"), [("nothing.png", "nothing.png"), ("empty", "no frame")])
def test_publish_says_which_file_is_not_there(
    pipeline: Up, shared_shell: Shell, tmp_path: Path, what: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    outcome = shared_shell.run("publish", "digits", str(tmp_path / what))
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.err
    assert "Traceback" not in outcome.err


# ---- watch -------------------------------------------------------------------------------------------------------


async def first_line(watching: Running, url: str, frame: bytes) -> dict[str, object]:
    """The first result that a watcher prints. It may start to listen late: frames are published until it does."""

    async def publish() -> None:
        async with understudy.connect(url, "digits") as client:
            while True:
                await client.infer(frame)
                await asyncio.sleep(0.1)

    task = asyncio.create_task(publish())
    try:
        document: dict[str, object] = json.loads(await asyncio.to_thread(watching.line, 20))
        return document
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_watch_as_json_prints_results_and_nothing_else_until_ctrl_c(
    pipeline: Up, shared_shell: Shell, digits: Digits
) -> None:
    with shared_shell.start("watch", "--json") as watching:
        document = await first_line(watching, pipeline.url, digits.frames[6])
        watching.interrupt()
        assert watching.wait() == 0
        assert watching.log.read_text() == ""
    assert document["class_index"] == 6
    assert document["technique"] == "none"


# ---- inspect -----------------------------------------------------------------------------------------------------


def test_inspect_as_json_describes_the_blocks_and_cuts_of_the_digits_network(shell: Shell, digits: Digits) -> None:
    outcome = shell.run("inspect", str(digits.bundle / "model.onnx"), "--json")
    assert (outcome.code, outcome.err) == (0, "")
    document = json.loads(outcome.out)
    assert len(document["blocks"]) >= 10
    assert len(document["cuts"]) == len(document["blocks"]) + 1
    assert document["cuts"][0]["bytes"] == 8 * 8 * 4
    assert document["cuts"][-1]["bytes"] == 10 * 4
    assert any(block["skippable"] for block in document["blocks"])
    assert document["totals"]["parameters"] == sum(block["parameters"] for block in document["blocks"]) > 10_000
    assert all(block["flops"] >= 0 and block["memory_bytes"] >= 0 for block in document["blocks"])


@pytest.mark.parametrize(
    "command", ["demo", "up", "publish", "watch", "status", "inspect", "prepare", "node", "controller"]
)
def test_the_help_of_every_command_has_an_example(shell: Shell, command: str) -> None:
    outcome = shell.run(command, "--help")
    assert outcome.code == 0
    assert f"Example: understudy {command}" in outcome.out or "| understudy " + command in outcome.out
