"""Benchmarks one after the other, each in a process of its own: `python -m bench all`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from bench import document
from bench.document import Document, DocumentError
from bench.jobs import Job
from bench.subjects import MissingSubjectError, data_file
from understudy.emulation import engine
from understudy.emulation.errors import EmulationError

GRACE_S = 60.0
"""For one that is interrupted: containers are removed meanwhile."""

LOG_LINES = 20

State = Literal["done", "not kept", "failed", "skipped"]
"""`not kept`: it measured, and says that something was not as it must be, by its exit code 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What came of a benchmark.

    Attributes:
        why: it was skipped, or has failed.
        log: the end of what it said, where it was not done.
    """

    job: Job
    state: State
    seconds: float = 0.0
    why: str = ""
    log: str = ""
    document: Document | None = None
    plot: Path | None = None

    @property
    def good(self) -> bool:
        return self.state in ("done", "skipped")


def no_engine() -> str:
    """Why there is no Docker engine; empty: there is one."""
    try:
        asyncio.run(engine.check_engine())
    except EmulationError as error:
        return str(error)
    return ""


def why_not(job: Job, missing_engine: str) -> str:
    """Why it cannot run here; empty: it can."""
    if job.engine and missing_engine:
        return missing_engine
    if job.data:
        try:
            data_file(job.data)
        except MissingSubjectError as error:
            return str(error)
    return ""


def run_all(jobs: Sequence[Job], out: Path, console: Console, on_news: Callable[[Sequence[Ran]], None]) -> list[Ran]:
    """Run them in turn; `on_news` hears after each what there is so far.

    Raises:
        KeyboardInterrupt: after the one that ran has ended.
    """
    out.mkdir(parents=True, exist_ok=True)
    missing = no_engine() if any(job.engine for job in jobs) else ""
    found: list[Ran] = []
    for number, job in enumerate(jobs, start=1):
        place = f"[{number}/{len(jobs)}] {job.name}"
        if why := why_not(job, missing):
            found.append(Ran(job=job, state="skipped", why=why))
        else:
            console.print(f"{place}: about {job.seconds:.0f} s ...", style="dim", markup=False, highlight=False)
            found.append(run_one(job, out))
        ran = found[-1]
        colour = {"done": "green", "skipped": "yellow"}.get(ran.state, "red")
        said = f"{ran.state} after {ran.seconds:.0f} s" if ran.state != "skipped" else ran.state
        words = f"{said}: {ran.why}" if ran.why else said
        console.print(f"{place}: {words}", style=colour, markup=False, highlight=False)
        on_news(found)
    return found


def run_one(job: Job, out: Path) -> Ran:
    """In a process of its own, with a log beside its results; what an earlier run has left is removed first.

    Raises:
        KeyboardInterrupt: after it has ended.
    """
    for path in (job.json(out), job.plot(out), job.log(out)):
        path.unlink(missing_ok=True)
    began_s = time.monotonic()
    with job.log(out).open("wb") as log:
        argv = [sys.executable, *job.command(out)]
        # A session of its own: Ctrl-C is for us, who then let it end in order.
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = child.wait(job.limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
    return _judge(job, out, code, time.monotonic() - began_s)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Let it clean up, if it has not ended; and leave none of the processes that it started."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _judge(job: Job, out: Path, code: int | None, seconds: float) -> Ran:
    plot = job.plot(out) if job.plot(out).is_file() else None
    found, why = None, ""
    try:
        found = document.read(job.json(out))
    except DocumentError as error:
        why = str(error)
    if code is None:
        why = f"it had not ended after {job.limit_s:.0f} s"
    elif code not in (0, 1):
        why = f"it ended with code {code}"
    elif found is None and code == 1:
        why = "it ended with code 1, and wrote no results"
    state: State = "failed" if why else "not kept" if code else "done"
    log = "" if state == "done" else _last_lines(job.log(out))
    return Ran(job=job, state=state, seconds=seconds, why=why, log=log, document=found, plot=plot)


def _last_lines(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-LOG_LINES:])
