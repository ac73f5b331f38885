"""The first process of a container: shapes its links as root, then runs its programs as a user without rights.

Its file (member.json) is written by `understudy/emulation/project.py`, for the container's root alone:

    {"tc": ["qdisc ...", ...],            lines for `tc -batch`; none: no link is shaped
     "apply": "...",                      the shell command that takes them
     "programs": [{"name": "broker", "argv": [...], "environment": {...}, "port": 4222}, ...]}

`{here}` in an argument is the folder of that file, `{private}` a folder for the programs alone, with copies of the
other files beside it. A program with a port is waited for before the next one starts; one that ends is started again,
as a supervisor of services would. Nothing but Python's own library is needed: every node has such a process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

USER = "understudy"
STATE = Path("/run/understudy")
PRIVATE = STATE / "private"
ALIVE = STATE / "alive"
LOOK_S = 0.2
AGAIN_S = 1.0
PORT_S = 30.0
GRACE_S = 8.0
NO_RIGHT = 78


class Program:
    """One that is kept running. Its pid is in `STATE/<name>.pid`, for faults."""

    def __init__(self, document: dict[str, Any], here: Path) -> None:
        places = {"{here}": str(here), "{private}": str(PRIVATE)}
        self.name: str = document["name"]
        self.port: int | None = document.get("port")
        self._argv = [_filled(argument, places) for argument in document["argv"]]
        self._environment = {**os.environ, "HOME": f"/home/{USER}", **document.get("environment", {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._ended_s = 0.0

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._argv,
            env=self._environment,
            user=USER,
            group=USER,
            extra_groups=[],
            cwd=f"/home/{USER}",
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        (STATE / f"{self.name}.pid").write_text(str(self._process.pid))

    def look(self) -> bool:
        """Start it again where it has ended a while ago. Whether it runs."""
        if self.runs or self._process is None:
            return self.runs
        if not self._ended_s:
            self._ended_s = time.monotonic()
            print(f"{self.name} ended with code {self._process.returncode}; it is started again", file=sys.stderr)
        elif time.monotonic() - self._ended_s > AGAIN_S and not (STATE / f"{self.name}.down").exists():
            self._ended_s = 0.0
            self.start()
        return False

    def await_port(self) -> None:
        deadline_s = time.monotonic() + PORT_S
        while self.port is not None and time.monotonic() < deadline_s:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(LOOK_S / 4)

    def end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()


def main(path: Path) -> int:
    def stop(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    document = json.loads(path.read_text())
    if complaint := shape(document):
        print(complaint, file=sys.stderr)
        return NO_RIGHT
    copy_private(path.parent)
    programs = [Program(each, path.parent) for each in document["programs"]]
    try:
        for program in programs:
            program.start()
            program.await_port()
        while True:
            running = [program.look() for program in programs]  # each has its turn, whatever the others are
            if all(running):
                ALIVE.touch()
            time.sleep(LOOK_S)
    finally:
        for program in reversed(programs):
            program.end()


def shape(document: dict[str, Any]) -> str | None:
    """What is wrong, where the links cannot be shaped."""
    lines = document.get("tc") or []
    if not lines:
        return None
    done = subprocess.run(
        ["sh", "-c", document["apply"]], input="\n".join(lines).encode(), capture_output=True, check=False
    )
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
    return f"links cannot be shaped here (the container needs cap_add: NET_ADMIN, the kernel HTB, TBF, U32): {said[0]}"


def copy_private(here: Path) -> None:
    """The files beside ours, secrets among them, where the programs' user alone can read them: in memory."""
    STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
    shutil.rmtree(PRIVATE, ignore_errors=True)
    PRIVATE.mkdir(mode=0o700)
    for file in here.iterdir():
        if file.is_file() and file.name != "member.json":
            shutil.copyfile(file, PRIVATE / file.name)
            (PRIVATE / file.name).chmod(0o600)
            shutil.chown(PRIVATE / file.name, USER, USER)
    shutil.chown(PRIVATE, USER, USER)


def _filled(text: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        text = text.replace(name, place)
    return text


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
