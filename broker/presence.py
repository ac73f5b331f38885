"""Who is connected to the broker, as the broker itself sees it: a crash is known in milliseconds, without a timeout.

When a process dies, the kernel closes its connections and the broker tells whoever watches. A hang, a cut link, or a
broker that dies with its node leave no such trace: heartbeats notice those. So does everything where there is no watch.

This file imports no adapter. A node has several connections, each with a name of its own (`connection_name`); it is
gone when the last of them has gone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from broker.errors import BrokerError
from broker.url import MEMORY_SCHEME, is_mqtt, parse_broker_url

CONTROL_SUFFIX = "-control"
"""What `both_brokers` appends to the name of the second connection."""

_PREFIX = "understudy-node-"
_CONNECTION = re.compile(
    rf"{_PREFIX}(?P<node>[A-Za-z0-9][A-Za-z0-9_-]{{0,62}})-(?P<incarnation>[0-9a-f]{{16}})(?P<role>{CONTROL_SUFFIX})?"
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class NodeProcess:
    """One life of a node: its name, and the incarnation of this process (16 hexadecimal digits)."""

    node: str
    incarnation: str

    @property
    def connection_name(self) -> str:
        """Of its data connection."""
        return connection_name(self.node, self.incarnation)


OnGone = Callable[[NodeProcess], None]
"""Called in the event loop, once when the last connection of a process has gone. It must return quickly. What it is
told is a reason for suspicion: a process whose connections were all lost for a moment is heard again."""


class PresenceWatch(Protocol):
    """Tells of processes that have gone. Made by `watch_presence`, ended with `close`."""

    @property
    def active(self) -> bool:
        """Whether the broker tells at the moment. False: heartbeats alone decide."""

    async def cut_off(self, process: NodeProcess) -> bool:
        """Have the broker end the data connection of a process that is silent.

        What it has sent and the broker has not taken yet, because the process is stopped or its link is cut, then
        reaches nobody any more. If it is alive after all, it connects again.

        Returns:
            Whether the broker has done so. False: it cannot, does not answer, or knows no such connection.
        """

    async def close(self) -> None:
        """Tell no more. Idempotent."""


class NoPresence:
    """The watch where a broker tells nothing."""

    @property
    def active(self) -> bool:
        return False

    async def cut_off(self, process: NodeProcess) -> bool:  # noqa: ARG002 - the port's
        return False

    async def close(self) -> None:
        return None


def connection_name(node: str, incarnation: str) -> str:
    """The name of a node's data connection; that of its control connection has `CONTROL_SUFFIX` behind it.

    Args:
        node: a name that `subjects.check_name` takes.
        incarnation: 16 hexadecimal digits.
    """
    return f"{_PREFIX}{node}-{incarnation}"


def parse_connection_name(name: str) -> NodeProcess | None:
    """Whose connection it is; None if it is not a node's.

    A node's name may hold '-', and even end like an incarnation: what counts is the end of the connection's name, where
    the last 16 digits have a fixed place.
    """
    found = _CONNECTION.fullmatch(name)
    return NodeProcess(found["node"], found["incarnation"]) if found else None


async def watch_presence(url: str | None, on_gone: OnGone) -> PresenceWatch:
    """Watch the connections of nodes. Never fails: without a watch heartbeats alone decide, and one log line says why.

    Args:
        url: of the broker's system account (`NatsServer.system_url`), with its credentials, or of an MQTT broker; None:
            there is none.
    """
    if url is None:
        _log.info("presence-unavailable", reason="no system account is given, so heartbeats alone tell of a crash")
        return NoPresence()
    try:
        if parse_broker_url(url).scheme == MEMORY_SCHEME:
            return NoPresence()  # one process: nobody can crash alone
        if is_mqtt(url):
            from broker.mqtt_presence import MqttPresence

            return await MqttPresence.start(url, on_gone)
        from broker.nats_presence import NatsPresence

        return await NatsPresence.start(url, on_gone)
    except BrokerError as error:
        _log.warning("presence-unavailable", reason=f"{error}; heartbeats alone tell of a crash")
        return NoPresence()
