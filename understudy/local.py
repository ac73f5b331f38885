"""A whole pipeline on this machine: an embedded broker, one process per node, a controller process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from broker import roles
from broker.cluster import NatsCluster
from broker.connect import connect
from broker.errors import BrokerUnreachableError, ServerStartError, UnderstudyError
from broker.folder import TemporaryFolder
from broker.port import Broker
from broker.process import spawn, terminate
from broker.roles import User
from broker.server import NatsServer, ServerConfig
from broker.url import redact
from understudy.config import UpConfig
from understudy.discovery import statuses
from understudy.objectives import RecoveryConfig
from understudy.registry import LocalRun, Registry
from understudy.settings import Settings

log = structlog.get_logger("understudy.local")

POLL_S = 0.05
GRACE_S = 5.0
CONTROLLER_TRIES_S = 10.0
"""A controller that ends twice within so long is not started again."""

RESTART_S = 1.0
"""Between two attempts to start one of several brokers again."""

LOG_LINES = 15
_FOLDER_PREFIX = "understudy-run-"


class StartError(UnderstudyError):
    """The pipeline did not come up; the message holds the end of the log of what failed."""


class ChildDiedError(UnderstudyError):
    """A process without which the pipeline cannot go on has ended."""

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One process of the pipeline."""

    name: str
    process: Process
    log_path: Path


class LocalCluster:
    """`async with LocalCluster(...) as cluster` starts everything and returns when frames can be published; leaving it
    stops everything. Should this process be killed, its children are killed by the kernel."""

    def __init__(self, config: UpConfig, *, pipeline: str, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._stack = AsyncExitStack()
        self._control_url: str | None = config.control_broker
        self._operator_url: str | None = None
        self._folder = Path()
        self._watched: Broker | None = None
        self._brokers: NatsCluster | None = None
        self._users: dict[str, User] = {}
        self.pipeline = pipeline
        self.broker_url = config.broker or ""
        self.mqtt_url: str | None = None
        self.children: dict[str, Child] = {}

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def servers(self) -> tuple[NatsServer, ...]:
        """The embedded brokers; none where the broker is somebody else's."""
        return () if self._brokers is None else self._brokers.servers

    async def status(self) -> dict[str, Any] | None:
        """The controller's status document; None while it does not answer."""
        assert self._watched is not None  # noqa: S101 - set by _start
        return (await statuses(self._watched, until=self.pipeline)).get(self.pipeline)

    async def replace_controller(self, recovery: RecoveryConfig) -> None:
        """End the controller and start one with other wishes, while frames flow on; `status` tells when its plan
        serves. Not beside `wait_for_death`, which would start another one."""
        before = self.children["controller"]
        await terminate(before.process, GRACE_S)
        self._config = self._config.model_copy(update={"recovery": recovery})
        await self._spawn("controller", self._controller_arguments())
        self._note()

    async def wait_for_death(self) -> None:
        """Watch over the processes; return never. A node's end is logged: the others go on without it. The controller
        and the embedded broker are started again.

        Raises:
            ChildDiedError: the controller has ended twice within a few seconds.
            ServerStartError: the broker could not be started again.
        """
        async with asyncio.TaskGroup() as group:
            for child in self.children.values():
                watch = self._watch_controller() if child.name == "controller" else self._watch_node(child)
                group.create_task(watch, name=f"watch-{child.name}")
            for server in self.servers:
                group.create_task(self._watch_server(server), name=f"watch-broker-{server.port}")
            group.create_task(asyncio.Event().wait(), name="watch-for-ever")

    async def _watch_node(self, child: Child) -> None:
        code = await child.process.wait()
        log.error("node-ended", node=child.name, code=code, log=str(child.log_path))

    async def _watch_controller(self) -> None:
        loop = asyncio.get_running_loop()
        ended_s = -CONTROLLER_TRIES_S
        while True:
            child = self.children["controller"]
            code = await child.process.wait()
            if loop.time() - ended_s < CONTROLLER_TRIES_S:
                raise ChildDiedError(f"the controller ended with code {code}:\n{_tail(child.log_path)}")
            ended_s = loop.time()
            log.error(
                "controller-ended", code=code, hint="it is started again; frames flow on", log=str(child.log_path)
            )
            await self._spawn("controller", self._controller_arguments())
            self._note()

    async def _watch_server(self, server: NatsServer) -> None:
        while True:
            reason = await server.wait_until_down()
            log.error("broker-is-started-again", reason=reason, broker=redact(server.url))
            await self._restart(server)
            self._note()

    async def _restart(self, server: NatsServer) -> None:
        """Raises ServerStartError where it is the only one: without it nothing goes on."""
        while True:
            try:
                await server.restart()
            except ServerStartError as error:
                if len(self.servers) == 1:
                    raise
                log.error("broker-not-restarted", broker=redact(server.url), reason=str(error))
                await asyncio.sleep(RESTART_S)
            else:
                return

    async def _start(self) -> None:
        registry = Registry(self._settings.run_dir)
        # Before anything is started: a second `up` of the same name must not disturb the first.
        self._note()
        self._stack.callback(lambda: registry.remove(self._run()))
        folder = TemporaryFolder.make(_FOLDER_PREFIX)
        self._stack.callback(folder.remove)
        self._folder = folder.path
        if self.broker_url:
            self._watched = await connect(self.broker_url, name="understudy-up")
        else:
            self._watched = await self._start_brokers()
        self._stack.push_async_callback(self._watched.close)
        self._note()
        await self._start_roles()
        await self._wait_ready()

    async def _start_brokers(self) -> Broker:
        """With a user for each process, who may do what its role needs and nothing else. Returns a connection.

        Raises:
            ServerStartError: as for `NatsServer.start`, or nobody would connect to it because of its certificate.
        """
        self._users = {node.name: roles.node(self.pipeline, node.name) for node in self._config.nodes}
        self._users["controller"] = roles.controller(self.pipeline)
        config = ServerConfig(
            host=self._config.host,
            port=self._config.port,
            tls=self._config.tls,
            mqtt_port=self._config.mqtt_port,
            max_payload_bytes=self._config.max_payload,
            client=roles.client(self.pipeline),
            store=self._config.delivery.folder,
            sync_interval=self._config.delivery.sync,
            users=tuple(self._users.values()),
        )
        try:
            self._brokers = await NatsCluster.start(self._config.servers, config)
            self._stack.push_async_callback(self._brokers.stop)
            connection = await connect(self._brokers.url(), name="understudy-up")
        except BrokerUnreachableError as error:
            if config.tls is None:
                raise
            raise ServerStartError(
                f"{error}\nThe certificate must be for the name or address in --host, now {config.host}, and signed by "
                f"--tls-ca, or without that by an authority that this system trusts"
            ) from error
        self.broker_url, self.mqtt_url = self._brokers.url(), self._brokers.servers[0].mqtt_url
        self._operator_url, self._control_url = self._brokers.operator_url(), self._brokers.control_url()
        return connection

    def environment_of(self, name: str) -> dict[str, str]:
        """What the process of that name is started with: our environment, and the broker's URLs of its role. They may
        hold a password, and a command line is visible to everybody."""
        config, brokers = self._config, self._brokers
        system: str | None
        if brokers is None:
            data, control, system = self.broker_url, config.control_broker, config.system_broker
        else:
            # A node begins with the server of its number, as if each had one on its own machine.
            numbers = {node.name: number for number, node in enumerate(config.nodes)}
            user, first = self._users[name], numbers.get(name, 0)
            data, control = brokers.url_of(user, "DATA", first), brokers.url_of(user, "CTRL", first)
            system = brokers.url_of(user, "SYS", first) if "SYS" in user.rights else None
        urls = {
            "UNDERSTUDY_BROKER": data,
            "UNDERSTUDY_CONTROL_BROKER": control,
            "UNDERSTUDY_SYSTEM_BROKER": system if name == "controller" else None,
        }
        # None is not inherited either: it may be another role's.
        inherited = {key: value for key, value in os.environ.items() if key not in urls}
        given = {key: value for key, value in urls.items() if value is not None}
        return inherited | given | {"UNDERSTUDY_LOG_FORMAT": "json"}

    def _lives(self, name: str) -> bool:
        child = self.children.get(name)
        return child is not None and child.process.returncode is None

    def _run(self) -> LocalRun:
        controller = self.children.get("controller")
        return LocalRun(
            pipeline=self.pipeline,
            pid=os.getpid(),
            broker=self.broker_url,
            control_broker=self._control_url,
            controller_pid=None if controller is None else controller.process.pid,
            operator_broker=self._operator_url,
            broker_pids=tuple(server.pid for server in self.servers),
        )

    def _note(self) -> None:
        """Tell other commands on this machine what runs, and as which processes."""
        Registry(self._settings.run_dir).add(self._run())

    async def _start_roles(self) -> None:
        self._stack.push_async_callback(self._stop_roles)
        await self._spawn("controller", self._controller_arguments())
        self._note()
        for node in self._config.nodes:
            arguments = ["node", "--name", node.name, "--pipeline", self.pipeline, "--threads", str(node.threads)]
            arguments += ["--heartbeat", f"{self._config.heartbeat * 1e3:g}ms"]
            arguments += ["--cache", str(self._folder / "cache" / node.name)]
            for provider in node.providers:
                arguments += ["--provider", provider]
            if node.memory is not None:
                arguments += ["--memory", str(node.memory)]
            await self._spawn(node.name, arguments)

    def _controller_arguments(self) -> list[str]:
        config = self._config
        living = [node for node in config.nodes if self._lives(node.name)]
        arguments = ["controller", "--pipeline", self.pipeline, "--expect", str(len(living) or len(config.nodes))]
        arguments += ["--cache", str(self._folder / "cache" / "controller")]
        arguments += ["--window", str(config.window), "--max-batch", str(config.max_batch)]
        arguments += ["--top-k", str(config.top_k), "--resend-after", f"{config.resend_after * 1e3:g}ms"]
        optional = {
            "--bundle": config.bundle,
            "--model": config.model,
            "--stages": config.stages,
            "--cluster": config.cluster,
        }
        for option, value in optional.items():
            if value is not None:
                arguments += [option, str(value)]
        arguments += ["--delivery", config.delivery.model_dump_json(exclude_unset=True)]
        return [*arguments, "--recovery", config.recovery.model_dump_json(exclude_unset=True)]

    async def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        log_path = self._folder / f"{name}.log"
        environment = self.environment_of(name)
        with log_path.open("ab") as out:
            process = await spawn(
                [sys.executable, "-m", "understudy", *arguments], env=environment, stdout=out, stderr=out
            )
        self.children[name] = Child(name=name, process=process, log_path=log_path)

    async def _wait_ready(self) -> None:
        document: dict[str, Any] | None = None
        try:
            async with asyncio.timeout(self._config.start_timeout):
                while document is None or document["state"] != "running":
                    self._check_children(document)
                    await asyncio.sleep(POLL_S)
                    document = await self.status()
                    self._check_plan(document)
        except TimeoutError:
            reason = document["reason"] if document else "the controller does not answer"
            raise StartError(
                f"pipeline '{self.pipeline}' is not ready after {self._config.start_timeout:g} s: {reason}"
            ) from None

    def _check_children(self, document: dict[str, Any] | None) -> None:
        for child in self.children.values():
            if child.process.returncode is not None:
                raise StartError(f"{child.name} did not start:\n{_tail(child.log_path)}")
        if document is not None:
            failures = [node["failure"] for node in document["nodes"] if node["failure"]]
            if failures:
                raise StartError(failures[0])

    def _check_plan(self, document: dict[str, Any] | None) -> None:
        """Where all nodes are there and no plan fits them, waiting longer does not help."""
        if document is None or document["state"] == "running" or len(document["nodes"]) < len(self._config.nodes):
            return
        if document["reason"] and not document["reason"].startswith(("waiting", "stages")):
            raise StartError(document["reason"])

    async def _stop_roles(self) -> None:
        self._resume()
        nodes = [child.process for child in self.children.values() if child.name != "controller"]
        # SIGINT: at once. With SIGTERM a node would wait until the pipeline goes on without it.
        await asyncio.gather(*(terminate(process, GRACE_S, signal.SIGINT) for process in nodes))
        if "controller" in self.children:
            await terminate(self.children["controller"].process, GRACE_S)

    def _resume(self) -> None:
        """What `understudy fault pause` has stopped could not end in order."""
        for child in self.children.values():
            if child.process.returncode is None:
                child.process.send_signal(signal.SIGCONT)
        for server in self.servers:
            if server.running:
                os.kill(server.pid, signal.SIGCONT)


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(lines[-LOG_LINES:]) or "(it wrote nothing)"
