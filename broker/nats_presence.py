"""The NATS watch: the server's own events about its clients, `$SYS.ACCOUNT.<account>.CONNECT` and `.DISCONNECT`.

Core NATS, at most once, and only while the watch is connected. What was missed is made up for by asking every server
for its list of connections (`$SYS.REQ.SERVER.PING.CONNZ`) at the start and after each reconnect. That list never says
that somebody has gone: connections that it does not know of may have been made just now, or on a server that answers
late; heartbeats decide there.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog

from broker.connect import connect
from broker.errors import BrokerError, NoRespondersError
from broker.port import Broker, Message
from broker.presence import NodeProcess, OnGone, parse_connection_name

EVENTS = "$SYS.ACCOUNT.*.*"
"""CONNECT and DISCONNECT of all accounts. One subscription, so that they keep their order."""

LIST = "$SYS.REQ.SERVER.PING.CONNZ"
WHO = "$SYS.REQ.SERVER.PING.IDZ"
"""Answered to the system account alone; the list is also given to others, cut down to what is theirs."""

START_TIMEOUT_S = 2.0
CUT_OFF_TIMEOUT_S = 0.05
"""The server answers in less than a millisecond; a failure is not kept waiting for one that does not."""

_LIST_REQUEST = json.dumps({"limit": 8192}).encode()
CLOSED_REMEMBERED = 8192

_log = structlog.get_logger(__name__)

ConnectionId = tuple[str, int]
"""The server's id (new at each of its starts), and its number for the connection (never given twice)."""


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """What the server says of one connection of a node."""

    process: NodeProcess
    name: str
    id: ConnectionId


@dataclass(slots=True)
class Connections:
    """Which connections each process has, by their names. Pure: it is told, and answers who has gone.

    A connection that is made again has the name that it had before. So a name stands for the newest connection of that
    name, and the late notice that an older one has ended says nothing: that is how a reconnect to another server, whose
    first server never said goodbye, leaves nothing behind.
    """

    _open: dict[NodeProcess, dict[str, ConnectionId]] = field(default_factory=dict)
    _closed: OrderedDict[ConnectionId, None] = field(default_factory=OrderedDict)

    def connected(self, event: ConnectionEvent) -> None:
        # A list that was made before the connection ended may arrive after the event.
        if event.id not in self._closed:
            self._open.setdefault(event.process, {})[event.name] = event.id

    def disconnected(self, event: ConnectionEvent) -> bool:
        """Whether the process has gone: it was known, and this was its last connection."""
        self._closed[event.id] = None
        if len(self._closed) > CLOSED_REMEMBERED:
            self._closed.popitem(last=False)
        names = self._open.get(event.process)
        if names is None or names.get(event.name) != event.id:
            return False
        del names[event.name]
        if names:
            return False
        del self._open[event.process]
        return True

    def data_connection(self, process: NodeProcess) -> ConnectionId | None:
        return self._open.get(process, {}).get(process.connection_name)

    def forget(self) -> None:
        """Nothing is known any longer."""
        self._open.clear()


class NatsPresence:
    """Made by `start`, ended with `close`. It reconnects by itself, and tells nothing meanwhile."""

    def __init__(self, broker: Broker, on_gone: OnGone) -> None:
        self._broker = broker
        self._on_gone = on_gone
        self._connections = Connections()
        self._inbox = broker.new_inbox()
        self._answered = False
        self._asking: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, url: str, on_gone: OnGone) -> NatsPresence:
        """Connect to the system account and learn who is there.

        Raises:
            BrokerError: no server answers, it refused the credentials, or they are not the system account's.
        """
        watch = cls(await connect(url, name="understudy-presence"), on_gone)
        try:
            await watch._check_account()
            await watch._broker.subscribe(watch._inbox, watch._on_list)
            await watch._broker.subscribe(EVENTS, watch._on_event)
            watch._broker.on_connection(watch._on_connection)
            await watch._ask()
        except BaseException:
            await watch.close()
            raise
        return watch

    @property
    def active(self) -> bool:
        return self._broker.connected and self._answered

    async def cut_off(self, process: NodeProcess) -> bool:
        connection = self._connections.data_connection(process)
        if connection is None:
            return False
        server, number = connection
        try:
            answer = await self._broker.request(
                f"$SYS.REQ.SERVER.{server}.KICK", json.dumps({"cid": number}).encode(), timeout_s=CUT_OFF_TIMEOUT_S
            )
            refused = "error" in json.loads(bytes(answer.data))
        except (BrokerError, ValueError, TypeError) as error:
            _log.warning("node-not-cut-off", node=process.node, reason=str(error))
            return False
        return not refused

    async def close(self) -> None:
        for task in self._asking:
            task.cancel()
        await self._broker.close()

    async def _check_account(self) -> None:
        try:
            await self._broker.request(WHO, timeout_s=START_TIMEOUT_S)
        except NoRespondersError as error:
            raise BrokerError(f"the account given for {self._broker.url} is not the system account") from error

    async def _ask(self) -> None:
        await self._broker.publish(LIST, _LIST_REQUEST, reply=self._inbox)

    def _on_connection(self, connected: bool) -> None:
        # What happened meanwhile was not heard: nobody is gone because of that.
        self._connections.forget()
        self._answered = False
        if connected:
            self._start_asking()

    def _start_asking(self) -> None:
        task = asyncio.get_running_loop().create_task(self._ask_again(), name="presence-list")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask_again(self) -> None:
        try:
            await self._broker.flush()  # nats-py sends the subscriptions again: before the question, not behind it
            await self._ask()
        except BrokerError as error:
            _log.warning("presence-list-failed", reason=str(error))

    async def _on_event(self, message: Message) -> None:
        kind = message.subject.rpartition(".")[2]
        if kind not in ("CONNECT", "DISCONNECT"):
            return
        try:
            document = json.loads(bytes(message.data))
            event = _event(document["client"], document["server"]["id"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            _log.debug("presence-event-malformed", subject=message.subject, reason=repr(error))
            return
        if event is None:
            return
        if kind == "CONNECT":
            self._connections.connected(event)
        elif self._connections.disconnected(event):
            _log.info("node-disconnected", node=event.process.node, reason=str(document.get("reason", ""))[:200])
            self._on_gone(event.process)

    async def _on_list(self, message: Message) -> None:
        try:
            for event in _listed(json.loads(bytes(message.data))):
                self._connections.connected(event)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            _log.debug("presence-list-malformed", reason=repr(error))
            return
        self._answered = True


def _event(client: Any, server_id: Any, id_key: str = "id") -> ConnectionEvent | None:
    """None: of a connection that is not a node's. Raises KeyError or TypeError where the document is another one."""
    name, number = client.get("name", ""), client[id_key]  # a client need not have a name
    if not isinstance(name, str) or type(number) is not int or not isinstance(server_id, str):
        raise TypeError("a field has the wrong type")
    process = parse_connection_name(name)
    return None if process is None else ConnectionEvent(process, name, (server_id, number))


def _listed(document: Any) -> Iterator[ConnectionEvent]:
    server_id = document["server"]["id"]
    for connection in document["data"]["connections"] or ():
        if (event := _event(connection, server_id, "cid")) is not None:
            yield event
