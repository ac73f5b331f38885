"""A pipeline of separate processes, as on separate machines: servers, controllers, and nodes behind links.

The harness is the supervisor (systemd, a container engine) of its processes: what ends by itself, as a node does that
finds no broker when it starts, is started again; what a fault has killed stays down until `start_again`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.faults.link import Link
from bench.faults.servers import Server, Servers, signal_server, start_servers
from bench.faults.space import SmallDisk, SpaceError
from broker import subjects
from broker.connect import connect
from broker.errors import BrokerError, UnderstudyError
from broker.port import Broker, Message
from broker.process import spawn, terminate
from broker.server import NatsServer
from understudy.discovery import statuses

POLL_S = 0.05
READY_S = 45.0
GRACE_S = 5.0
STATUS_S = 0.5
SUPERVISE_S = 0.5
CRASH_LINES = 12
STORE_BYTES = 32 << 20
LIMIT_BYTES = 4 << 20
"""Of JetStream's store where it is a small disk of its own; and of the frames, and of the results, stored in it."""

PIPELINE = "digits"


class ChaosError(UnderstudyError):
    """The cluster is not what a run needs."""


@dataclass(slots=True, kw_only=True)
class Member:
    """A node or a controller.

    Attributes:
        arguments: of `understudy`.
        variables: its environment, beyond ours.
        stopped: by SIGSTOP.
        down: killed by a fault, until its repair.
        starts: how often it was started.
        changing: held by whoever ends it or starts it, so that it is never started twice.
    """

    name: str
    arguments: Sequence[str]
    variables: Mapping[str, str]
    log: Path
    cache: Path
    process: Process | None = None
    stopped: bool = False
    down: bool = False
    starts: int = 0
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def lives(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def works(self) -> bool:
        return self.lives and not self.stopped


@dataclass(slots=True)
class ChaosCluster:
    """`async with` starts everything and returns when it is ready for a failure; leaving it stops everything.

    Attributes:
        nodes, controllers: how many. Of several controllers one serves and the others stand by.
        broker: one of `BROKERS`, of which there are `server_count` servers.
        delivery: what the pipeline promises.
        replicas: of what is stored.
        small_store: JetStream's store is a small disk of its own, which can be filled (needs the right to mount).
        members: nodes and controllers by name.
        links: between each node and the servers.
        disks: small disks in place of the caches of members.
        ended: members that ended by themselves, with their last words.
    """

    nodes: int = 4
    controllers: int = 2
    small_store: bool = False
    delivery: str = "at-least-once"
    replicas: int = 1
    broker: str = "nats"
    server_count: int = 1
    members: dict[str, Member] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    folder: Path = field(default_factory=Path)
    store: SmallDisk | None = None
    disks: dict[str, SmallDisk] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    _servers: Servers | None = None
    _watched: Broker | None = None
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _roles: dict[str, str] = field(default_factory=dict)

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"node{i}" for i in range(1, self.nodes + 1))

    @property
    def controller_names(self) -> tuple[str, ...]:
        return tuple(f"controller{i}" for i in range(1, self.controllers + 1))

    @property
    def servers(self) -> Servers:
        assert self._servers is not None
        return self._servers

    @property
    def url(self) -> str:
        """For clients."""
        return self.servers.url

    @property
    def all_rights_urls(self) -> tuple[str, ...]:
        """See `Servers`."""
        return self.servers.all_rights_urls

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

    # ---- what faults do ----------------------------------------------------------------------------------------

    async def kill(self, name: str) -> None:
        member = self.members[name]
        member.down = True
        async with member.changing:
            if member.lives and member.process is not None:
                member.process.kill()
                await member.process.wait()
            member.stopped = False

    def stop(self, name: str) -> None:
        self._signal(name, signal.SIGSTOP)
        self.members[name].stopped = True

    def go_on(self, name: str) -> None:
        self._signal(name, signal.SIGCONT)
        self.members[name].stopped = False

    async def start_again(self, name: str) -> None:
        """Start it if it does not run."""
        member = self.members[name]
        async with member.changing:
            member.down = False
            if member.lives:
                return
            with member.log.open("ab") as out:
                member.process = await spawn(
                    [sys.executable, "-m", "understudy", *member.arguments],
                    env={**os.environ, **member.variables},
                    stdout=out,
                    stderr=out,
                )
            member.stopped = False
            member.starts += 1

    def _signal(self, name: str, number: signal.Signals) -> None:
        member = self.members[name]
        if member.lives and member.process is not None:
            member.process.send_signal(number)

    # ---- what is known of it -----------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any] | None:
        """The status document; None while nobody answers."""
        assert self._watched is not None
        try:
            async with asyncio.timeout(2 * STATUS_S):
                found = (await statuses(self._watched, until=PIPELINE, listen_s=STATUS_S)).get(PIPELINE)
        except (BrokerError, TimeoutError):
            return None
        if found is not None and found["standby_head"]:
            self._roles["standby-head"] = found["standby_head"]
        return found

    async def _on_lead(self, message: Message) -> None:
        """A head has begun: known while there is no controller to ask, too."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            name = json.loads(bytes(message.data))["node"]
            self._roles["head"] = name if name in self.node_names else self._roles["head"]

    async def who_is(self, role: str) -> str:
        """The member that has a role at the moment (`head`, `standby-head`, `controller`), as far as is known; a name
        is its own answer."""
        if role == "controller":
            serving = [name for name in self.controller_names if self.members[name].works]
            # The one that serves has said so last.
            return max(serving or self.controller_names, key=lambda name: _last_term(self.members[name].log))
        if role in self.members:
            return role
        await self.status()
        known = self._roles.get(role, "")
        working = [name for name in self.node_names if self.members[name].works]
        return known if known in working or not working else working[0]

    async def ready(self, *, within_s: float = READY_S) -> dict[str, Any]:
        """Wait until every node has a stage of the plan that serves, and all spares are loaded.

        Raises:
            ChaosError: that takes longer than `within_s`; says what is missing.
        """
        why = "the controller does not answer"
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            document = await self.status()
            if document is not None:
                why = self._missing(document)
                if not why:
                    return document
            await asyncio.sleep(POLL_S)
        raise ChaosError(f"not healthy after {within_s:g} s: {why}; see {self.keep_logs()}")

    def _missing(self, document: Mapping[str, Any]) -> str:
        if document["state"] != "running":
            return str(document["reason"])
        nodes = {node["name"]: node for node in document["nodes"] if node["alive"]}
        idle = [name for name in self.node_names if name not in nodes or not nodes[name]["stages"]]
        if idle:
            return f"{', '.join(idle)} have no stage"
        if document["technique"] != "none":
            return f"answers come by {document['technique']}"
        return "" if document["prepared"] else "spares are being loaded"

    def blobs(self, most: int = 5) -> list[str]:
        """SHA-256 of some of the sub-models that nodes have, and offer."""
        return sorted({path.name for path in self.folder.glob("cache/node*/*") if len(path.name) == 64})[:most]

    def pids(self) -> dict[str, int]:
        """Of everything that runs, by name."""
        found = {name: member.pid for name, member in self.members.items() if member.lives}
        names = ["server"] if len(self.servers.each) == 1 else [f"server{i + 1}" for i in range(self.server_count)]
        return found | {
            name: server.pid for name, server in zip(names, self.servers.each, strict=True) if server.running
        }

    async def tasks(self) -> dict[str, int]:
        """Of asyncio, by member, as the status says: of the nodes that live, and of the controller that serves."""
        document = await self.status()
        if document is None:
            return {}
        found = {node["name"]: int(node["tasks"]) for node in document["nodes"] if node["alive"]}
        return found | {await self.who_is("controller"): int(document["tasks"])}

    def keep_logs(self) -> Path:
        """Copy the logs to where they outlive this cluster."""
        kept = Path(tempfile.mkdtemp(prefix="understudy-faults-"))
        for path in self.folder.glob("*.log"):
            shutil.copy(path, kept)
        for number, server in enumerate(self.servers.each, 1):
            if server.log_file.exists():
                shutil.copy(server.log_file, kept / f"server{number}.log")
        return kept

    def crashes(self) -> list[str]:
        """What the logs hold of errors that nobody expected."""
        found = []
        for path in sorted(self.folder.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            found += [
                f"{path.stem}: " + "\n".join(line[:300] for line in lines[max(0, number - 2) : number + CRASH_LINES])
                for number, line in enumerate(lines)
                if "Traceback" in line or "handler_failed" in line
            ]
        return found

    # ---- starting ----------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="understudy-chaos-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._servers = await start_servers(self.broker, self.server_count, PIPELINE, self.node_names)
        for server in self._servers.each:
            self._stack.push_async_callback(server.stop)
        if self.small_store:
            await self._shrink_store(self._servers.each[0])
        self._watched = await connect(self.url, name="chaos-harness")
        self._stack.push_async_callback(self._watched.close)
        await self._watched.subscribe(subjects.lead(PIPELINE), self._on_lead)
        self._stack.push_async_callback(self._stop_members)
        for name in self.controller_names:
            await self._add_controller(name)
        for name in self.node_names:
            await self._add_node(name)
        await self.ready()
        servers = [server for server in self._servers.each if isinstance(server, NatsServer)]
        for watch in (self._supervise(), *(self._supervise_server(server) for server in servers)):
            self._stack.callback(asyncio.create_task(watch, name="chaos-supervisor").cancel)

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(SUPERVISE_S)
            for name, member in self.members.items():
                if not (member.lives or member.down or member.changing.locked()):
                    assert member.process is not None
                    self.ended.append(f"{name} ended with code {member.process.returncode}: {_last_line(member.log)}")
                    await self.start_again(name)

    async def _supervise_server(self, server: NatsServer) -> None:
        """As `understudy up` does. What a fault has ended it starts again itself."""
        while True:
            reason = await server.wait_until_down()
            if server.running:
                self.ended.append(f"the server was started again: {reason}")
                await server.restart()
            await asyncio.sleep(SUPERVISE_S)

    async def _shrink_store(self, server: Server) -> None:
        await server.kill()
        store = server.log_file.parent / "store"
        with contextlib.suppress(SpaceError):
            self.store = SmallDisk.mount(store, size_bytes=STORE_BYTES)
            self._stack.callback(self.store.unmount)
            # The server must let go of the store before it is unmounted.
            self._stack.push_async_callback(server.kill)
        await server.restart()

    async def _add_controller(self, name: str) -> None:
        cache = self.folder / "cache" / name
        arguments = ["controller", "--pipeline", PIPELINE, "--expect", str(self.nodes), "--cache", str(cache)]
        if self.controllers > 1:
            arguments.append("--standby")
        arguments += ["--delivery", json.dumps(self._promise())]
        variables = {**self.servers.controller_variables(), "UNDERSTUDY_LOG_FORMAT": "json"}
        await self._add(name, arguments, variables, cache)

    def _promise(self) -> dict[str, Any]:
        limits = {"input_limit": LIMIT_BYTES, "result_limit": LIMIT_BYTES} if self.small_store else {}
        return {"mode": self.delivery, "replicas": self.replicas, **limits}

    async def _add_node(self, name: str) -> None:
        link = self.links[name] = Link(*self.servers.ports)
        await link.start()
        self._stack.push_async_callback(link.close)
        cache = self.folder / "cache" / name
        variables = {**self.servers.node_variables(name, link.ports), "UNDERSTUDY_LOG_FORMAT": "json"}
        await self._add(name, ["node", "--name", name, "--pipeline", PIPELINE, "--cache", str(cache)], variables, cache)

    async def _add(self, name: str, arguments: Sequence[str], variables: Mapping[str, str], cache: Path) -> None:
        log = self.folder / f"{name}.log"
        self.members[name] = Member(name=name, arguments=arguments, variables=variables, log=log, cache=cache)
        await self.start_again(name)

    async def _stop_members(self) -> None:
        for server in self.servers.each:
            signal_server(server, signal.SIGCONT)
        for name in self.members:
            self.go_on(name)
        running = [member.process for member in self.members.values() if member.process is not None and member.lives]
        await asyncio.gather(*(terminate(process, GRACE_S, signal.SIGINT) for process in running))
        for disk in self.disks.values():
            disk.unmount()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1][:200] if lines else "(it wrote nothing)"


def _last_term(log: Path) -> str:
    """When a controller last began to serve: its own time stamp; empty if never."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if "controller-has-the-lease" in line]
    _, _, rest = lines[-1].partition('"timestamp": "') if lines else ("", "", "")
    return rest.partition('"')[0]
