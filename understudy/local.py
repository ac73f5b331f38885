"""A whole pipeline on this machine: an embedded broker, one process per node, a controller process."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from broker.connect import connect
from broker.errors import UnderstudyError
from broker.port import Broker
from broker.process import spawn, terminate
from broker.server import NatsServer
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
        self._system_url: str | None = config.system_broker
        self._folder = Path()
        self._watched: Broker | None = None
        self._server: NatsServer | None = None
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
            if self._server is not None:
                group.create_task(self._watch_server(self._server), name="watch-broker")
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
            code = await server.wait()
            log.error("broker-ended", code=code)
            await server.restart()
            self._note()

    async def _start(self) -> None:
        registry = Registry(self._settings.run_dir)
        # Before anything is started: a second `up` of the same name must not disturb the first.
        self._note()
        self._stack.callback(lambda: registry.remove(self._run()))
        self._folder = _make_folder()
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        if not self.broker_url:
            config = self._config
            server = await NatsServer.start(
                port=config.port, mqtt_port=config.mqtt_port, max_payload_bytes=config.max_payload
            )
            self._server = server
            self._stack.push_async_callback(server.stop)
            self.broker_url, self._control_url = server.url, server.control_url
            self._system_url, self.mqtt_url = server.system_url, server.mqtt_url
        self._watched = await connect(self.broker_url, name="understudy-up")
        self._stack.push_async_callback(self._watched.close)
        self._note()
        await self._start_roles()
        await self._wait_ready()

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
            broker_pid=None if self._server is None else self._server.pid,
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
        return [*arguments, "--recovery", config.recovery.model_dump_json(exclude_unset=True)]

    async def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        log_path = self._folder / f"{name}.log"
        # URLs go by the environment: they may hold a password, and a command line is visible to everybody.
        environment = {**os.environ, "UNDERSTUDY_BROKER": self.broker_url, "UNDERSTUDY_LOG_FORMAT": "json"}
        if self._control_url is not None:
            environment["UNDERSTUDY_CONTROL_BROKER"] = self._control_url
        if self._system_url is not None and name == "controller":
            environment["UNDERSTUDY_SYSTEM_BROKER"] = self._system_url
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
        if self._server is not None and self._server.running:
            os.kill(self._server.pid, signal.SIGCONT)


def _make_folder() -> Path:
    """A folder for this run; those of supervisors that were killed are removed."""
    for old in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        pid = old.name.removeprefix(_FOLDER_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-"))


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(lines[-LOG_LINES:]) or "(it wrote nothing)"
