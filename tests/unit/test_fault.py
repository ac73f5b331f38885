"""Faults on purpose: which process is meant, and that no other is ever touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from understudy.fault import FaultError, Target, check_target, find_node, find_role, inflict, is_role
from understudy.registry import LocalRun, Registry

SUPERVISOR = 4242


def status(**changes: Any) -> dict[str, Any]:
    nodes = [
        {"name": "node1", "pid": 11, "host": "here", "alive": True, "head": True},
        {"name": "node2", "pid": 12, "host": "here", "alive": True, "head": False} | changes,
        {"name": "node3", "pid": 13, "host": "there", "alive": True, "head": False},
    ]
    return {"pipeline": "digits", "nodes": nodes}


RUN = LocalRun(pipeline="digits", pid=SUPERVISOR, broker="nats://127.0.0.1:4222", controller_pid=21, broker_pids=(22,))


def test_a_node_is_found_by_its_name_with_its_process() -> None:
    target = find_node(status(), "node2", RUN, host="here")
    assert (target.name, target.pid, target.supervisor_pid) == ("node2", 12, SUPERVISOR)


def test_the_head_is_the_node_that_hosts_it_now() -> None:
    assert find_node(status(), "head", RUN, host="here").name == "node1"
    moved = status(head=True)
    moved["nodes"][0]["alive"] = False  # which still says that it is the head
    assert find_node(moved, "head", RUN, host="here").name == "node2"


def test_without_a_head_there_is_none_to_kill() -> None:
    document = status()
    document["nodes"][0]["alive"] = False
    with pytest.raises(FaultError, match="hosts the head at the moment"):
        find_node(document, "head", RUN, host="here")


def test_an_unknown_name_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(
        FaultError, match="has no node 'node9'; there are node1, node2, node3, head, controller, broker"
    ):
        find_node(status(), "node9", RUN, host="here")


def test_a_node_of_another_machine_is_refused() -> None:
    with pytest.raises(FaultError, match="node 'node3' runs on there, and this is here"):
        find_node(status(), "node3", RUN, host="here")


def test_the_controller_and_the_broker_are_those_that_the_supervisor_noted() -> None:
    assert find_role(RUN, "digits", "controller").pid == 21
    assert find_role(RUN, "digits", "broker").pid == 22


def test_a_broker_that_is_not_the_embedded_one_is_refused() -> None:
    with pytest.raises(FaultError, match="the broker of pipeline 'digits' is not on this machine"):
        find_role(LocalRun(pipeline="digits", pid=1, broker="nats://far:4222"), "digits", "broker")
    with pytest.raises(FaultError, match="no `understudy up` runs it here"):
        find_role(None, "digits", "controller")


# ---- real processes --------------------------------------------------------------------------------------------------


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits; this one is its parent, as a supervisor would be."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def named_node() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose command line is that of a node named `kitchen`."""
    arguments = ["understudy", "node", "--name", "kitchen"]
    with subprocess.Popen([sys.executable, "-c", "input()", *arguments], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def target(pid: int, *, name: str = "kitchen", role: Any = "node", supervisor: int | None = SUPERVISOR) -> Target:
    return Target(pipeline="digits", role=role, name=name, pid=pid, supervisor_pid=supervisor)


def test_a_node_is_paused_resumed_and_killed(named_node: subprocess.Popen[bytes]) -> None:
    found = target(named_node.pid)
    inflict(found, "pause")
    _, how = os.waitpid(named_node.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(how)
    inflict(found, "resume")
    _, how = os.waitpid(named_node.pid, os.WCONTINUED)
    assert os.WIFCONTINUED(how)
    inflict(found, "kill")
    assert named_node.wait(10) == -signal.SIGKILL


def test_a_process_that_is_something_else_is_left_alone(child: subprocess.Popen[bytes]) -> None:
    with pytest.raises(FaultError, match=f"process {child.pid} on this machine is not node 'kitchen'"):
        inflict(target(child.pid), "kill")
    with pytest.raises(FaultError, match="is not controller"):
        inflict(target(child.pid, name="controller", role="controller"), "kill")
    assert child.poll() is None


def test_a_node_of_another_name_is_left_alone(named_node: subprocess.Popen[bytes]) -> None:
    with pytest.raises(FaultError, match="is not node 'hall'"):
        inflict(target(named_node.pid, name="hall"), "kill")
    assert named_node.poll() is None


def test_a_process_of_the_supervisor_is_one_of_the_pipeline(tmp_path: Path) -> None:
    folder = tmp_path / "77"
    folder.mkdir()
    (folder / "stat").write_text(f"77 (a (b) c) S {SUPERVISOR} 1 1")
    (folder / "cmdline").write_bytes(b"nats-server\0-c\0x\0")
    check_target(target(77, name="broker", role="broker"), processes=tmp_path)
    with pytest.raises(FaultError, match="is not broker"):
        check_target(target(77, name="broker", role="broker", supervisor=1), processes=tmp_path)


def test_a_process_that_has_ended_is_said_to_be_gone(child: subprocess.Popen[bytes], tmp_path: Path) -> None:
    child.kill()
    child.wait()
    with pytest.raises(FaultError, match=r"node 'kitchen' has ended already \(pid"):
        inflict(target(child.pid), "resume")
    folder = tmp_path / "78"
    folder.mkdir()
    (folder / "stat").write_text(f"78 (zombie) Z {SUPERVISOR} 1 1")
    (folder / "cmdline").write_bytes(b"")
    with pytest.raises(FaultError, match="has ended already"):
        check_target(target(78), processes=tmp_path)


@pytest.mark.parametrize("pid", [os.getpid(), os.getppid(), SUPERVISOR], ids=["itself", "its parent", "supervisor"])
def test_neither_the_supervisor_nor_the_command_itself_is_a_target(pid: int) -> None:
    with pytest.raises(FaultError, match="this command, or what supervises the pipeline"):
        inflict(target(pid), "pause")


@pytest.mark.parametrize("pid", ["0", "-1", '"21"', "1.5", str(1 << 70)])
def test_a_note_with_a_process_id_that_is_none_is_not_read(tmp_path: Path, pid: str) -> None:
    note = f'{{"pipeline": "digits", "pid": {os.getpid()}, "broker": "", "controller_pid": {pid}}}'
    (tmp_path / "digits.json").write_text(note)
    assert Registry(tmp_path).all() == []


def test_a_note_keeps_the_process_ids_of_the_controller_and_the_broker(tmp_path: Path) -> None:
    run = LocalRun(pipeline="digits", pid=os.getpid(), broker="nats://h:1", controller_pid=21, broker_pids=(22,))
    Registry(tmp_path).add(run)
    assert Registry(tmp_path).find("digits") == run


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("controller", True),
        ("broker", True),
        ("broker2", True),
        ("broker12", True),
        ("brokers", False),
        ("broker-a", False),
        ("head", False),
        ("node1", False),
    ],
)
def test_the_controller_and_the_brokers_are_known_by_their_names(name: str, is_one: bool) -> None:
    assert is_role(name) is is_one


def test_of_several_brokers_each_has_its_number() -> None:
    run = LocalRun(pipeline="digits", pid=SUPERVISOR, broker="nats://h:1", controller_pid=21, broker_pids=(22, 23, 24))
    assert [find_role(run, "digits", f"broker{number}").pid for number in (1, 2, 3)] == [22, 23, 24]
    for name in ("broker", "broker0", "broker4"):
        with pytest.raises(FaultError, match="has 3 brokers: name one of broker1 to broker3"):
            find_role(run, "digits", name)


def test_a_single_broker_needs_no_number_and_one_that_is_somebody_elses_is_not_here() -> None:
    assert find_role(RUN, "digits", "broker").pid == find_role(RUN, "digits", "broker1").pid == 22
    without = LocalRun(pipeline="digits", pid=SUPERVISOR, broker="nats://h:1", controller_pid=21)
    with pytest.raises(FaultError, match="has not started one here"):
        find_role(without, "digits", "broker")
