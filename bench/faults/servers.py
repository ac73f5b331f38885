"""The servers of a cluster, by what they speak: how nodes, controllers and strangers reach them, and what faults are
done to."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import nats
from nats.errors import Error as NatsError

from bench.faults.mosquitto import Mosquitto
from broker import roles
from broker.cluster import NatsCluster
from broker.errors import UnderstudyError
from broker.roles import User
from broker.server import NatsServer, ServerConfig

BROKERS = ("nats", "mosquitto", "nats-mqtt")
"""A nats-server or several; mosquitto; the MQTT listener of a nats-server, which nobody uses otherwise."""

ANSWER_S = 1.0

MOSQUITTO = "max_queued_messages 10000\n"
"""In its configuration, as docs/mqtt.md has it."""


class ServersError(UnderstudyError):
    """That is no broker for this cluster."""


class Server(Protocol):
    """One of them. `restart` starts it again on the same port, with what it has on its disk."""

    @property
    def pid(self) -> int: ...

    @property
    def running(self) -> bool: ...

    @property
    def log_file(self) -> Path: ...

    async def kill(self) -> None: ...

    async def restart(self) -> None: ...

    async def stop(self) -> None: ...


class Servers(Protocol):
    """All of them.

    Attributes:
        each: in their order.
        ports: that a link of a node leads to, in this order.
        url: for clients.
        all_rights_urls: for strangers that do what no client may: of data, and of control where that is apart.
    """

    @property
    def each(self) -> Sequence[Server]: ...

    @property
    def ports(self) -> tuple[int, ...]: ...

    @property
    def url(self) -> str: ...

    @property
    def all_rights_urls(self) -> tuple[str, ...]: ...

    def controller_variables(self) -> Mapping[str, str]:
        """The environment of a controller."""

    def node_variables(self, name: str, ports: Sequence[int]) -> Mapping[str, str]:
        """The environment of a node that finds the servers at these ports, in place of theirs."""


class NatsServers:
    """nats-servers, where every process has the user of its role. Node 1 begins at server 1, node 2 at server 2."""

    def __init__(self, cluster: NatsCluster, users: Mapping[str, User], controller: User) -> None:
        self._cluster = cluster
        self._users, self._controller = users, controller
        self._names = list(users)

    @classmethod
    async def start(cls, count: int, pipeline: str, nodes: Sequence[str]) -> NatsServers:
        users = {name: roles.node(pipeline, name) for name in nodes}
        controller = roles.controller(pipeline)
        config = ServerConfig(client=roles.client(pipeline), users=(*users.values(), controller))
        return cls(await NatsCluster.start(count, config), users, controller)

    @property
    def each(self) -> tuple[NatsServer, ...]:
        return self._cluster.servers

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(server.port for server in self.each)

    @property
    def url(self) -> str:
        return self._cluster.url()

    @property
    def all_rights_urls(self) -> tuple[str, ...]:
        return self._cluster.operator_url(), self._cluster.control_url()

    async def leader(self, stream: str = "") -> NatsServer:
        """Who leads JetStream, or a stream of the data account.

        Raises:
            ServersError: nobody does at the moment, or nobody says who.
        """
        subject = f"$JS.API.STREAM.INFO.{stream}" if stream else "$SYS.REQ.SERVER.PING.JSZ"
        url = self._cluster.operator_url() if stream else self._cluster.system_url()
        try:
            connection = await nats.connect(url.split(","), name="chaos-asks", allow_reconnect=False)
            try:
                answer = json.loads((await connection.request(subject, b"", timeout=ANSWER_S)).data)
            finally:
                await connection.close()
            name = answer["cluster"]["leader"] if stream else answer["data"]["meta_cluster"]["leader"]
            return next(server for server in self.each if server.name == name and server.running)
        except (NatsError, OSError, TimeoutError, ValueError, KeyError, StopIteration) as error:
            raise ServersError(f"nobody leads {stream or 'JetStream'} at the moment") from error

    def controller_variables(self) -> Mapping[str, str]:
        user, cluster = self._controller, self._cluster
        return {
            "UNDERSTUDY_BROKER": cluster.url_of(user),
            "UNDERSTUDY_CONTROL_BROKER": cluster.url_of(user, "CTRL"),
            "UNDERSTUDY_SYSTEM_BROKER": cluster.url_of(user, "SYS"),
        }

    def node_variables(self, name: str, ports: Sequence[int]) -> Mapping[str, str]:
        user, first = self._users[name], self._names.index(name)
        order = [(first + i) % len(self.each) for i in range(len(self.each))]
        return {
            "UNDERSTUDY_BROKER": ",".join(through(self.each[i].url_of(user), ports[i]) for i in order),
            "UNDERSTUDY_CONTROL_BROKER": ",".join(through(self.each[i].url_of(user, "CTRL"), ports[i]) for i in order),
        }


class MqttServers:
    """One MQTT broker, which everybody may do everything at."""

    def __init__(self, server: Server, url: str) -> None:
        self._server, self.url = server, url

    @property
    def each(self) -> tuple[Server, ...]:
        return (self._server,)

    @property
    def ports(self) -> tuple[int, ...]:
        return (urlsplit(self.url).port or 1883,)

    @property
    def all_rights_urls(self) -> tuple[str, ...]:
        return (self.url,)

    def controller_variables(self) -> Mapping[str, str]:
        return {"UNDERSTUDY_BROKER": self.url}

    def node_variables(self, name: str, ports: Sequence[int]) -> Mapping[str, str]:  # noqa: ARG002 - the port's
        return {"UNDERSTUDY_BROKER": through(self.url, ports[0])}


async def start_servers(broker: str, count: int, pipeline: str, nodes: Sequence[str]) -> Servers:
    """So many servers of this broker (one of `BROKERS`).

    Raises:
        ServersError: there is no cluster of those.
        UnderstudyError: they do not start.
    """
    if broker == "nats":
        return await NatsServers.start(count, pipeline, nodes)
    if count > 1:
        raise ServersError(f"{broker} is one server: a cluster is made of nats alone")
    if broker == "mosquitto":
        mosquitto = await Mosquitto.start(MOSQUITTO)
        return MqttServers(mosquitto, mosquitto.url)
    server = await NatsServer.start(mqtt_port=0)
    assert server.mqtt_operator_url is not None
    return MqttServers(server, server.mqtt_operator_url)


def signal_server(server: Server, number: signal.Signals) -> None:
    if server.running:
        os.kill(server.pid, number)


def through(url: str, port: int) -> str:
    """The URL with another port of the loopback."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{port}"))
