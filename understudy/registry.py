"""What `understudy up` runs on this machine: one small file per pipeline, so that other commands find it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from broker.errors import UnderstudyError
from broker.process import process_exists


class NotRunningError(UnderstudyError):
    """No pipeline runs on this machine, or not the one that was asked for, or it is not clear which."""


class AlreadyRunningError(UnderstudyError):
    """A pipeline of that name runs on this machine already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRun:
    """A pipeline that `up` started. `pid` is the supervisor's; `broker` is a URL that a client can connect to.

    `control_broker`, `operator_broker`: the operator's URLs of the control and of the data account, with their
    credentials: never to be printed. None: the broker's. `controller_pid`, `broker_pids`: of the processes that the
    supervisor runs besides its nodes; None: not yet; empty: the broker is not the embedded one.
    """

    pipeline: str
    pid: int
    broker: str
    control_broker: str | None = field(default=None, repr=False)
    operator_broker: str | None = field(default=None, repr=False)
    controller_pid: int | None = None
    broker_pids: tuple[int, ...] = ()


class Registry:
    """Files in `folder`, readable by this user only. Those of dead supervisors are removed when met."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, run: LocalRun) -> None:
        """Raises AlreadyRunningError where a live supervisor has the name."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._is_ours():
            raise UnderstudyError(
                f"{self._folder} belongs to another user: set UNDERSTUDY_RUN_DIR to a folder of yours"
            )
        for other in self.all():
            if other.pipeline == run.pipeline and other.pid != run.pid:
                raise AlreadyRunningError(
                    f"pipeline '{run.pipeline}' runs on this machine already (pid {other.pid}): "
                    f"stop it, or choose another name with --pipeline"
                )
        path = self._path(run.pipeline)
        aside = path.with_suffix(f".{run.pid}.tmp")
        # It holds a password: for this user alone from its first byte, whatever the folder's mode and the umask.
        aside.unlink(missing_ok=True)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(run), file)
        aside.replace(path)

    def remove(self, run: LocalRun) -> None:
        self._path(run.pipeline).unlink(missing_ok=True)

    def all(self) -> list[LocalRun]:
        """The pipelines whose supervisor lives, by name."""
        runs: list[LocalRun] = []
        if not self._is_ours():
            return runs
        for path in sorted(self._folder.glob("*.json")):
            try:
                run = _read(path)
            except (OSError, ValueError, TypeError):
                continue
            if process_exists(run.pid):
                runs.append(run)
            else:
                path.unlink(missing_ok=True)
        return runs

    def find(self, pipeline: str | None) -> LocalRun:
        """The pipeline of that name, or the only one there is.

        Raises:
            NotRunningError: there is none, or several and no name was given.
        """
        runs = self.all()
        found = [run for run in runs if pipeline in (None, run.pipeline)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(run.pipeline for run in runs)
        if not runs:
            raise NotRunningError(
                "no pipeline runs on this machine: start one with `understudy up`, or name a --broker"
            )
        if not found:
            raise NotRunningError(f"pipeline '{pipeline}' does not run on this machine; what runs: {names}")
        raise NotRunningError(f"several pipelines run on this machine: name one of {names}")

    def _is_ours(self) -> bool:
        """Whether nobody else can have planted a note: in /tmp anybody can make a folder of any name."""
        try:
            return self._folder.stat().st_uid == os.getuid()
        except OSError:
            return False

    def _path(self, pipeline: str) -> Path:
        return self._folder / f"{pipeline}.json"


def _read(path: Path) -> LocalRun:
    """Raises ValueError or TypeError where the file is not a note of ours."""
    document = json.loads(path.read_text())
    if not isinstance(document, dict):
        raise TypeError("not a note of ours")
    run = LocalRun(**(document | {"broker_pids": tuple(document.get("broker_pids", ()))}))
    if not all(map(_is_pid, (run.pid, *run.broker_pids))) or not (
        run.controller_pid is None or _is_pid(run.controller_pid)
    ):
        raise ValueError("not a process id")
    if not isinstance(run.pipeline, str) or not isinstance(run.broker, str):
        raise TypeError("not a note of ours")
    if not isinstance(run.control_broker, str | None) or not isinstance(run.operator_broker, str | None):
        raise TypeError("not a note of ours")
    return run


def _is_pid(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 31
