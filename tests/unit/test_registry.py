"""What runs on this machine: notes of live supervisors are found, those of dead ones removed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.registry import AlreadyRunningError, LocalRun, NotRunningError, Registry


def run(pipeline: str, pid: int | None = None) -> LocalRun:
    return LocalRun(pipeline=pipeline, pid=os.getpid() if pid is None else pid, broker="nats://127.0.0.1:4222")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "understudy"


@pytest.fixture
def registry(folder: Path) -> Registry:
    return Registry(folder)


@pytest.fixture(scope="module")
def dead_pid() -> int:
    """Of a process that has ended a moment ago."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_only_pipeline_is_found_without_its_name(registry: Registry) -> None:
    registry.add(run("digits"))
    assert registry.find(None) == registry.find("digits") == run("digits")


def test_nothing_runs_before_anything_was_started(registry: Registry) -> None:
    assert registry.all() == []
    with pytest.raises(NotRunningError, match="start one with `understudy up`"):
        registry.find(None)


def test_a_name_that_does_not_run_is_answered_with_those_that_do(registry: Registry) -> None:
    registry.add(run("digits"))
    with pytest.raises(NotRunningError, match="pipeline 'faces' does not run on this machine; what runs: digits"):
        registry.find("faces")


def test_of_several_one_must_be_named(registry: Registry) -> None:
    registry.add(run("faces"))
    registry.add(run("digits"))
    with pytest.raises(NotRunningError, match="name one of digits, faces"):
        registry.find(None)
    assert registry.find("faces") == run("faces")


def test_a_pipeline_that_stopped_is_not_found(registry: Registry) -> None:
    registry.add(run("digits"))
    registry.remove(run("digits"))
    registry.remove(run("digits"))
    assert registry.all() == []


def test_a_supervisor_that_was_killed_leaves_nothing_behind(registry: Registry, folder: Path, dead_pid: int) -> None:
    registry.add(run("digits", dead_pid))
    assert registry.all() == []
    assert list(folder.iterdir()) == []
    registry.add(run("digits"))


def test_a_name_that_is_taken_by_a_live_supervisor_is_refused(registry: Registry) -> None:
    registry.add(run("digits", os.getppid()))
    with pytest.raises(AlreadyRunningError, match=rf"runs on this machine already \(pid {os.getppid()}\)"):
        registry.add(run("digits"))
    assert registry.find("digits").pid == os.getppid()


def test_a_supervisor_may_note_itself_again(registry: Registry) -> None:
    registry.add(run("digits"))
    moved = LocalRun(pipeline="digits", pid=os.getpid(), broker="nats://127.0.0.1:5000")
    registry.add(moved)
    assert registry.all() == [moved]


def test_the_notes_are_for_this_user_alone(registry: Registry, folder: Path) -> None:
    registry.add(run("digits"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"5", b'{"pipeline": "x"}', b'{"pipeline": "x", "pid": 1, "broker": "", "more": 1}', b"\xff"],
)
def test_a_damaged_note_hides_nothing_else(registry: Registry, folder: Path, content: bytes) -> None:
    registry.add(run("digits"))
    (folder / "damaged.json").write_bytes(content)
    assert registry.all() == [run("digits")]


@pytest.mark.parametrize("pid", ['"1"', "1.5", str(1 << 70), "null"])
def test_a_note_whose_pid_is_no_pid_hides_nothing_else(registry: Registry, folder: Path, pid: str) -> None:
    registry.add(run("digits"))
    (folder / "damaged.json").write_text(f'{{"pipeline": "x", "pid": {pid}, "broker": ""}}')
    assert registry.all() == [run("digits")]


@pytest.mark.parametrize("pid", [0, -1])
def test_a_note_that_names_a_group_of_processes_is_not_taken_for_a_live_supervisor(
    registry: Registry, pid: int
) -> None:
    registry.add(run("digits", pid))
    assert registry.all() == []
