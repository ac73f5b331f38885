"""A mosquitto process on the loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from broker.errors import UnderstudyError
from broker.process import spawn, terminate

START_S = 10.0
STOP_GRACE_S = 3.0
POLL_S = 0.01


class MosquittoError(UnderstudyError):
    """There is no mosquitto, or it does not start."""


class Mosquitto:
    """A running mosquitto. `kill` it and `restart` it on the same port: what it held is gone, as it stores nothing."""

    def __init__(self, folder: Path, port: int, settings: str) -> None:
        self.port = port
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        access = "" if "allow_anonymous" in settings else "allow_anonymous true\n"
        # Started by root, mosquitto goes on as a user of its own.
        user = "user root\n" if os.geteuid() == 0 else ""
        # Without it each small message waits up to 40 ms for the one before to be acknowledged.
        common = f"set_tcp_nodelay true\nlistener {port} 127.0.0.1\n"
        (folder / "mosquitto.conf").write_text(f"{common}{access}{user}{settings}")

    @classmethod
    async def start(cls, settings: str = "") -> Mosquitto:
        """On a free port, with these lines in its configuration; `stop` ends it.

        Raises:
            MosquittoError: there is none, or it does not answer.
        """
        find_binary()
        server = cls(Path(tempfile.mkdtemp(prefix="understudy-mosquitto-")), _free_port(), settings)
        try:
            await server.restart()
        except BaseException:
            await server.stop()
            raise
        return server

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def log_file(self) -> Path:
        return self._folder / "mosquitto.log"

    async def restart(self) -> None:
        """End it if it runs, start it, and return when it answers.

        Raises:
            MosquittoError: it does not.
        """
        if self._process is not None:
            await terminate(self._process, STOP_GRACE_S)
        command = [find_binary(), "-c", str(self._folder / "mosquitto.conf")]
        with self.log_file.open("ab") as log:
            self._process = await spawn(command, stdout=log, stderr=log)
        deadline_s = time.monotonic() + START_S
        while not await self._answers():
            if self._process.returncode is not None or time.monotonic() > deadline_s:
                raise MosquittoError(f"mosquitto does not start: {self.log_file.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(POLL_S)

    async def kill(self) -> None:
        if self.running and self._process is not None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """End it, and remove its folder."""
        if self._process is not None:
            await terminate(self._process, STOP_GRACE_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True


def find_binary() -> str:
    """The mosquitto of this machine.

    Raises:
        MosquittoError: there is none.
    """
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MosquittoError("there is no mosquitto here: `apt-get install mosquitto`")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
