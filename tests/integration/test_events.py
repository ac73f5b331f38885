"""`understudy events`: what happened to a pipeline, afterwards and as it happens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.harness import POLL_S, Running, Shell, Up, eventually

SOON_S = 20.0

STAGES = ["detected", "bridged", "answering", "healed"]


@pytest.fixture
def running(shell: Shell) -> Iterator[Up]:
    with shell.up("--nodes", "3") as up:
        yield up


def start_following(shell: Shell, *options: str) -> Running:
    """`understudy events --follow`, once it says that it follows."""
    follower = shell.start("events", "--follow", *options)
    deadline = time.monotonic() + SOON_S
    try:
        while "following pipeline 'digits'" not in follower.log.read_text():
            assert time.monotonic() < deadline, follower.log.read_text()
            time.sleep(POLL_S)
    except BaseException:
        follower.end()
        raise
    return follower


async def records(shell: Shell) -> list[dict[str, Any]]:
    outcome = shell.run("events", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    document = json.loads(outcome.out)
    assert document["pipeline"] == "digits"
    found: list[dict[str, Any]] = document["records"]
    return found


async def test_a_failure_is_in_the_journal_with_what_was_done_about_it(shell: Shell, running: Up) -> None:
    assert shell.run("fault", "kill", "node2").code == 0

    def is_healed(found: list[dict[str, Any]]) -> bool:
        return any(record["kind"] == "failure" and record["healed_ms"] is not None for record in found)

    found = await eventually(lambda: records(shell), is_healed, within_s=SOON_S, what="a failure that is healed")
    [failure] = [record for record in found if record["kind"] == "failure"]
    assert failure["nodes"] == ["node2"]
    assert failure["cause"] == "disconnected"
    assert failure["technique"] in ("standby", "stand-in", "skip", "exit", "repartition")
    assert [record["number"] for record in found] == sorted(record["number"] for record in found)
    shown = shell.run("events")
    assert shown.code == 0
    assert "node2" in shown.out
    assert "disconnected" in shown.out
    assert "new plan: start" in shown.out


def test_followed_changes_come_one_json_document_per_line_as_they_happen(shell: Shell, running: Up) -> None:
    with start_following(shell, "--json") as follower:
        assert shell.run("fault", "kill", "node3").code == 0
        seen = [json.loads(follower.line(SOON_S))]
        while seen[-1]["healed_ms"] is None:
            seen.append(json.loads(follower.line(SOON_S)))
        follower.interrupt()
        assert follower.wait() == 0
    assert seen[0]["stage"] == "detected"
    assert {(change["pipeline"], change["number"]) for change in seen} == {("digits", seen[0]["number"])}
    assert all(change["nodes"] == ["node3"] for change in seen)
    steps = [STAGES.index(change["stage"]) for change in seen]
    assert steps == sorted(steps)


def test_followed_changes_are_lines_that_a_person_can_read(shell: Shell, running: Up) -> None:
    with start_following(shell) as follower:
        assert shell.run("fault", "kill", "node3").code == 0
        lines = [follower.line(SOON_S)]
        while "healed in" not in lines[-1]:
            lines.append(follower.line(SOON_S))
    assert all("node3 disconnected" in line for line in lines)


def test_what_is_not_there_is_said_as_by_the_other_commands(pipeline: Up, shared_shell: Shell, shell: Shell) -> None:
    unknown = shell.run("events", "faces", "--broker", pipeline.url)
    assert (unknown.code, unknown.out) == (2, "")
    assert "pipelines there: digits" in unknown.err
    nothing = shell.run("events", "--follow")
    assert nothing.code == 2
    assert "no pipeline runs on this machine" in nothing.err
    no_broker = shell.run("events", "digits", "--broker", "nats://127.0.0.1:9")
    assert no_broker.code == 2
    assert "127.0.0.1:9" in no_broker.err
    assert "Traceback" not in unknown.err + nothing.err + no_broker.err
