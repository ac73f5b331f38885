"""What a user has: the `understudy` command in a shell of its own, and processes that it starts there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sysconfig
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

START_S = 60.0
STOP_S = 20.0
COMMAND_S = 60.0
POLL_S = 0.02

COMMAND = str(Path(sysconfig.get_path("scripts")) / "understudy")


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs `understudy` with its run files, temporary files and caches below `folder`, and nowhere else."""

    folder: Path

    def __post_init__(self) -> None:
        for path in (self.run_dir, self.temp, self.cache):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def temp(self) -> Path:
        return self.folder / "tmp"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("UNDERSTUDY_")}
        own = {"UNDERSTUDY_RUN_DIR": str(self.run_dir), "TMPDIR": str(self.temp), "XDG_CACHE_HOME": str(self.cache)}
        return kept | own

    def left_behind(self) -> list[str]:
        """Run files and temporary files of ours that are still there."""
        found = [*self.run_dir.iterdir(), *self.temp.glob("understudy-*")]
        return sorted(str(path.relative_to(self.folder)) for path in found)

    def run(self, *arguments: str, stdin: bytes = b"", timeout_s: float = COMMAND_S, **variables: str) -> Outcome:
        """Run a command to its end."""
        done = subprocess.run(
            [COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            cwd=self.folder,
            env=self.environment | variables,
        )
        return Outcome(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())

    def start(self, *arguments: str, **variables: str) -> Running:
        """Start a command that stays."""
        log = self.folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        with log.open("wb") as err:
            process = subprocess.Popen(
                [COMMAND, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=err,
                cwd=self.folder,
                env=self.environment | variables,
                start_new_session=True,
            )
        return Running(process=process, log=log)

    def up(self, *arguments: str, timeout_s: float = START_S, **variables: str) -> Up:
        """`understudy up --json`, and wait for its line."""
        running = self.start("up", *arguments, "--json", **variables)
        try:
            return Up(process=running.process, log=running.log, document=json.loads(running.line(timeout_s)))
        except BaseException:
            running.end()
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command that has ended left."""

    code: int
    out: str
    err: str


@dataclass(slots=True, kw_only=True)
class Running:
    """A command that runs. Leaving its `with` ends it."""

    process: subprocess.Popen[bytes]
    log: Path
    _rest: bytes = field(default=b"", repr=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self, timeout_s: float) -> str:
        """The next line on stdout."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                piece = os.read(self.process.stdout.fileno(), 65536) if ready else b""
                if not piece:
                    why = "ended" if ready else f"printed nothing in {timeout_s:g} s"
                    raise AssertionError(f"the command {why}; on stderr: {self.log.read_text()}")
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def family(self) -> list[psutil.Process]:
        """The process and everything that it started."""
        own = psutil.Process(self.pid)
        return [own, *own.children(recursive=True)]

    def interrupt(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        return self.process.wait(timeout_s)

    def end(self) -> None:
        """Stop it whatever its state; what it started is gone afterwards too."""
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = self.family()
        if self.process.poll() is None:
            self.interrupt()
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.wait()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@dataclass(slots=True, kw_only=True)
class Up(Running):
    """A pipeline that `understudy up` runs. `document`: the line that it printed when it was ready."""

    document: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.document["broker"])

    @property
    def pipeline(self) -> str:
        return str(self.document["pipeline"])


def is_called(process: psutil.Process, name: str) -> bool:
    """Whether this is in the name of the process; it may have ended since it was found."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return name in process.name()
    return False


def survivors(family: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that are still there after `timeout_s`; returns as soon as all are gone."""
    deadline = time.monotonic() + timeout_s
    while (left := [process for process in family if _is_there(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return left


def _is_there(process: psutil.Process) -> bool:
    # A zombie has ended; reaping it is its parent's business, or that of init.
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


async def eventually(
    look: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool], *, within_s: float, what: str
) -> Any:
    """Look again and again until what is seen is wanted."""
    deadline = time.monotonic() + within_s
    while True:
        seen = await look()
        if wanted(seen):
            return seen
        assert time.monotonic() < deadline, f"{what} did not come about within {within_s:g} s; last seen: {seen}"
        await asyncio.sleep(POLL_S)
