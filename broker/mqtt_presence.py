"""The MQTT watch: the last wills of a node's two connections, which the broker publishes when they end without goodbye.

A connection says nothing when it is made, so it is not known who is there: a process is taken for gone when the wills
of its data and its control connection come within `TOGETHER_S`, as they do when it dies. One of them alone is a
connection that broke, and is made again. A node that stops on purpose says so itself (`Bye`), and leaves no will.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog

from broker import subjects
from broker.connect import connect
from broker.mqtt_link import Link, LinkError, LinkSettings, tls_context
from broker.port import Broker, Message
from broker.presence import NodeProcess, OnGone, parse_connection_name
from broker.url import BrokerUrl, parse_broker_url

TOGETHER_S = 0.5
CUT_OFF_TIMEOUT_S = 0.25
"""A broker answers within milliseconds, also with TLS; a failure is not kept waiting for one that does not."""

REMEMBERED = 1024

_log = structlog.get_logger(__name__)


class Wills:
    """The wills that came lately. Pure: it is told, and answers who has gone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: OrderedDict[NodeProcess, tuple[str, float]] = OrderedDict()

    def heard(self, process: NodeProcess, connection: str) -> bool:
        """Whether the process has gone with this one."""
        now = self._clock()
        other, heard_s = self._last.pop(process, ("", now))
        if other not in ("", connection) and now - heard_s <= TOGETHER_S:
            return True
        self._last[process] = (connection, now)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        return False


class MqttPresence:
    """Made by `start`, ended with `close`. It reconnects by itself, and tells nothing meanwhile."""

    def __init__(self, url: BrokerUrl, broker: Broker, on_gone: OnGone) -> None:
        self._url = url
        self._broker = broker
        self._on_gone = on_gone
        self._wills = Wills()

    @classmethod
    async def start(cls, url: str, on_gone: OnGone) -> MqttPresence:
        """Raises BrokerError where no broker answers, or it refuses the subscription."""
        broker = await connect(url, name="understudy-presence")
        watch = cls(parse_broker_url(url), broker, on_gone)
        try:
            await broker.subscribe(subjects.GONE, watch._on_will)
        except BaseException:
            await broker.close()
            raise
        return watch

    @property
    def active(self) -> bool:
        return self._broker.connected

    async def cut_off(self, process: NodeProcess) -> bool:
        """Connect under the client id of its data connection: a broker then ends the connection that has it (MQTT
        3.1.1, 3.1.4), and drops what has arrived on it and was not read. This one says goodbye at once, so that the
        process, if it is alive after all, takes its id back from nobody.

        Returns:
            Whether the broker has taken the connection, whether there was another one or not: MQTT does not say.
        """
        name = process.connection_name
        settings = LinkSettings(client_id=name, credentials=self._url.credentials, tls=tls_context(self._url))
        for server in self._url.servers:
            try:
                async with asyncio.timeout(CUT_OFF_TIMEOUT_S):
                    link = await Link.open(server, settings, on_message=lambda *_: None, on_confirmed=lambda _: None)
            except (TimeoutError, LinkError) as error:
                _log.warning("node-not-cut-off", node=process.node, reason=str(error) or "the broker does not answer")
                continue
            await link.close()
            return True
        return False

    async def close(self) -> None:
        await self._broker.close()

    async def _on_will(self, message: Message) -> None:
        connection = message.subject.rpartition(".")[2]
        process = parse_connection_name(connection)
        if process is not None and not message.retained and self._wills.heard(process, connection):
            _log.info("node-disconnected", node=process.node)
            self._on_gone(process)
