"""Faults on purpose: end, stop or continue one process of a pipeline that runs on this machine.

Processes are found by what the pipeline's controller and its supervisor say of them, and signalled by their id. Ids are
used again, and an answer on the broker may come from anybody: before a signal is sent, the process itself must look
like what it is taken for (its parent is the supervisor, or its command line is that of the node).
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from broker.errors import UnderstudyError
from understudy.registry import LocalRun

Action = Literal["kill", "pause", "resume"]
Role = Literal["node", "controller", "broker"]

SIGNALS: Mapping[Action, signal.Signals] = {
    "kill": signal.SIGKILL,
    "pause": signal.SIGSTOP,
    "resume": signal.SIGCONT,
}

HEAD, CONTROLLER, BROKER = "head", "controller", "broker"
_BROKER = re.compile(rf"{BROKER}\d{{0,3}}")


class FaultError(UnderstudyError):
    """The fault cannot be made: no such process, or not one of ours, or not here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One process of a pipeline. `name`: a node's, else the role. `supervisor_pid`: of the `understudy up` here."""

    pipeline: str
    role: Role
    name: str
    pid: int
    supervisor_pid: int | None = None

    def __str__(self) -> str:
        return self.role if self.role == self.name else f"{self.role} '{self.name}'"


def is_role(name: str) -> bool:
    """Whether it names the controller or a broker, and no node: `controller`, `broker`, `broker2`."""
    return name == CONTROLLER or _BROKER.fullmatch(name) is not None


def find_role(run: LocalRun | None, pipeline: str, name: str) -> Target:
    """The controller, the embedded broker, or one of several brokers, that `understudy up` runs here.

    Raises:
        FaultError: it runs none, or several brokers and no number was given.
    """
    role: Role = "controller" if name == CONTROLLER else "broker"
    if run is None:
        raise FaultError(f"the {role} of pipeline '{pipeline}' is not on this machine: no `understudy up` runs it here")
    pid = run.controller_pid if role == CONTROLLER else _broker_pid(run, name)
    if pid is None:
        raise FaultError(
            f"the {role} of pipeline '{run.pipeline}' is not on this machine: `understudy up` has not started one here"
        )
    return Target(pipeline=run.pipeline, role=role, name=name, pid=pid, supervisor_pid=run.pid)


def _broker_pid(run: LocalRun, name: str) -> int | None:
    pids = run.broker_pids
    if not pids or (name == BROKER and len(pids) == 1):
        return pids[0] if pids else None
    number = name.removeprefix(BROKER)
    if not number or not 1 <= int(number) <= len(pids):
        raise FaultError(
            f"pipeline '{run.pipeline}' has {len(pids)} brokers: name one of {BROKER}1 to {BROKER}{len(pids)}"
        )
    return pids[int(number) - 1]


def find_node(document: Mapping[str, Any], name: str, run: LocalRun | None, *, host: str | None = None) -> Target:
    """A node of the status document, by its name or as the `head`.

    Args:
        document: what the controller answers.
        run: what `understudy up` noted of the pipeline, if it runs here.
        host: this machine's name; None: asked of the system.

    Raises:
        FaultError: there is no such node (names those there are), or it runs on another machine.
    """
    pipeline, nodes = document["pipeline"], document["nodes"]
    wanted = _head(pipeline, nodes) if name == HEAD else name
    node = next((node for node in nodes if node["name"] == wanted), None)
    if node is None:
        names = ", ".join([*(node["name"] for node in nodes), HEAD, CONTROLLER, BROKER])
        raise FaultError(f"pipeline '{pipeline}' has no node '{name}'; there are {names}")
    here = host or socket.gethostname()
    if node["host"] != here:
        raise FaultError(f"node '{wanted}' runs on {node['host']}, and this is {here}: run `understudy fault` there")
    supervisor = None if run is None else run.pid
    return Target(pipeline=pipeline, role="node", name=wanted, pid=int(node["pid"]), supervisor_pid=supervisor)


def _head(pipeline: str, nodes: Sequence[Mapping[str, Any]]) -> str:
    for node in nodes:
        if node["head"] and node["alive"]:
            return str(node["name"])
    raise FaultError(f"no living node of pipeline '{pipeline}' hosts the head at the moment: try again, or name a node")


def inflict(target: Target, action: Action, *, processes: Path = Path("/proc")) -> None:
    """Send the signal.

    Raises:
        FaultError: the process is gone already, belongs to somebody else, or is not what it is taken for.
    """
    check_target(target, processes=processes)
    try:
        os.kill(target.pid, SIGNALS[action])
    except ProcessLookupError:
        raise _gone(target) from None
    except PermissionError:
        raise FaultError(f"{target} (pid {target.pid}) belongs to another user") from None


def check_target(target: Target, *, processes: Path = Path("/proc")) -> None:
    """Whether the process is what it is taken for.

    Raises:
        FaultError: it is not, or it has ended.
    """
    if target.pid in (os.getpid(), os.getppid(), target.supervisor_pid):
        raise FaultError(f"pid {target.pid} is not {target}: it is this command, or what supervises the pipeline")
    if not processes.is_dir():
        raise FaultError(f"there is no {processes} here, by which {target} could be told from other processes")
    folder = processes / str(target.pid)
    try:
        # The command's name, in parentheses, may hold anything: what follows it is split.
        state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except (OSError, ValueError):
        raise _gone(target) from None
    if state in "ZX":
        raise _gone(target)
    if int(parent) == target.supervisor_pid:
        return
    if target.role != "node" or not _is_node(command, target.name):
        raise FaultError(f"process {target.pid} on this machine is not {target} of pipeline '{target.pipeline}'")


def _is_node(command: Sequence[str], name: str) -> bool:
    """Whether it is `understudy node --name NAME`, however it was started."""
    if not any("understudy" in Path(word).name for word in command) or "node" not in command:
        return False
    options = command[command.index("node") :]
    return f"--name={name}" in options or ("--name", name) in set(pairwise(options))


def _gone(target: Target) -> FaultError:
    return FaultError(f"{target} has ended already (pid {target.pid})")
