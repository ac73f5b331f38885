"""The embedded brokers: one nats-server, or several that are one cluster, each of which may end and be started again.

Routes go from each to each. Control has a route of its own between any two (`cluster { accounts }`), so that it never
queues behind tensors. Users and passwords are the same everywhere; each server has a JetStream store of its own.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import structlog

from broker.connect import connect
from broker.errors import BrokerError, ServerStartError
from broker.port import Broker, Message
from broker.roles import Account, User
from broker.server import LOOPBACK, ClusterConfig, NatsServer, ServerConfig

MOST_SERVERS = 9
ATTEMPTS = 3
MESH_TIMEOUT_S = 10.0
_ROUTES = "$SYS.REQ.SERVER.PING.ROUTEZ"
_LISTEN_S = 0.1

_log = structlog.get_logger(__name__)


class NatsCluster:
    """Made by `start`; `async with await NatsCluster.start(3) as cluster` stops it.

    A URL of it names all servers. Who connects tries them in their order: `first` is the one to begin with.
    """

    def __init__(self, config: ServerConfig, servers: Sequence[NatsServer]) -> None:
        self._config = config
        self.servers = tuple(servers)

    @classmethod
    async def start(cls, count: int = 1, config: ServerConfig | None = None) -> NatsCluster:
        """Start the servers, and return when each takes connections and has routes to all others.

        Args:
            count: 1 to `MOST_SERVERS`. One is no cluster.
            config: of each of them. With a `port`, the second has the next one, and so on.

        Raises:
            ServerStartError: as for `NatsServer.start`; or the servers do not find each other.
        """
        own = config or ServerConfig()
        if not 1 <= count <= MOST_SERVERS:
            raise ServerStartError(f"{count} servers: 1 to {MOST_SERVERS} are possible")
        for _ in range(ATTEMPTS - 1 if count > 1 and not own.port else 0):
            try:
                return await cls._start(own, count)
            except ServerStartError as error:
                # Somebody else may have taken one of the ports for the routes since they were chosen.
                _log.info("servers_start_again", reason=str(error))
        return await cls._start(own, count)

    @classmethod
    async def _start(cls, own: ServerConfig, count: int) -> NatsCluster:
        configs = [own] if count == 1 else _configs(own, count)
        starting = [asyncio.ensure_future(NatsServer.start_with(each)) for each in configs]
        outcomes = await asyncio.gather(*starting, return_exceptions=True)
        cluster = cls(own, [outcome for outcome in outcomes if isinstance(outcome, NatsServer)])
        try:
            await asyncio.gather(*starting)  # raises the first error
            if count > 1:
                await cluster._await_mesh()
        except BaseException:
            await cluster.stop()
            raise
        return cluster

    def url(self, first: int = 0) -> str:
        """For clients; no credentials."""
        return _joined(server.url for server in self._from(first))

    def url_of(self, user: User, account: Account = "DATA", first: int = 0) -> str:
        """With the user's credentials: not for logs."""
        return _joined(server.url_of(user, account) for server in self._from(first))

    def operator_url(self, first: int = 0) -> str:
        """See `NatsServer.operator_url`."""
        return self.url_of(self._config.operator, "DATA", first)

    def control_url(self, first: int = 0) -> str:
        """See `NatsServer.control_url`."""
        return self.url_of(self._config.operator, "CTRL", first)

    def system_url(self, first: int = 0) -> str:
        """See `NatsServer.system_url`."""
        return self.url_of(self._config.system, "SYS", first)

    async def stop(self) -> None:
        """End all of them. Idempotent."""
        await asyncio.gather(*(server.stop() for server in self.servers))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _from(self, first: int) -> list[NatsServer]:
        start = first % len(self.servers)
        return [*self.servers[start:], *self.servers[:start]]

    async def _await_mesh(self) -> None:
        system = await connect(self.servers[0].system_url, name="understudy-cluster")
        try:
            async with asyncio.timeout(MESH_TIMEOUT_S):
                while not await is_mesh(system, len(self.servers)):
                    pass
        except TimeoutError as error:
            raise ServerStartError(f"the servers have not found each other in {MESH_TIMEOUT_S:g} s") from error
        finally:
            await system.close()


def _configs(config: ServerConfig, count: int) -> list[ServerConfig]:
    password = secrets.token_urlsafe(24)
    ports = _free_ports(count)
    return [
        replace(
            config,
            name=f"{config.name}-{number + 1}",
            port=config.port and config.port + number,
            mqtt_port=None if number else config.mqtt_port,
            cluster=ClusterConfig(password=password, port=own, routes=tuple(other for other in ports if other != own)),
        )
        for number, own in enumerate(ports)
    ]


def _free_ports(count: int) -> list[int]:
    """For the routes: each server must know those of the others before any of them has started."""
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    try:
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _joined(urls: Iterable[str]) -> str:
    return ",".join(urls)


@dataclass(slots=True)
class _Answers:
    """Which servers have routes to all others, for data and for control."""

    wanted: int
    complete: set[str]
    all_there: asyncio.Event

    async def __call__(self, message: Message) -> None:
        document = json.loads(bytes(message.data))
        routes = document["data"].get("routes") or ()
        for account in (None, "CTRL"):
            if len({route["remote_id"] for route in routes if route.get("account") == account}) < self.wanted - 1:
                return
        self.complete.add(document["server"]["id"])
        if len(self.complete) == self.wanted:
            self.all_there.set()


async def is_mesh(system: Broker, count: int, *, listen_s: float = _LISTEN_S) -> bool:
    """Whether each of so many servers has routes to all others, and says so within `listen_s`; `system` is connected to
    the system account."""
    answers = _Answers(count, set(), asyncio.Event())
    inbox = system.new_inbox()
    subscription = await system.subscribe(inbox, answers)
    try:
        await system.publish(_ROUTES, b"{}", reply=inbox)
        async with asyncio.timeout(listen_s):
            await answers.all_there.wait()
    except (TimeoutError, BrokerError):
        return False
    finally:
        await subscription.unsubscribe()
    return True
