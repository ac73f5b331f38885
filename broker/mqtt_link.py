"""One connection to an MQTT broker, from its start to its loss: aiomqtt, and paho's client underneath it.

aiomqtt keeps the connection and its subscriptions. Publishing goes to paho directly, by its documented functions: one
call puts the message on the socket without a task and an event per message, and what is still in this process is known.
`aiomqtt.Client._client`, which holds paho's client, is the one private name that is used.

No exception of aiomqtt or paho leaves this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import select
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiomqtt
import structlog
from aiomqtt.exceptions import MqttConnectError

from broker.errors import PermissionDeniedError
from broker.mqtt_topics import subject_of
from broker.tasks import drop, look
from broker.tls import client_context, handshake_failure
from broker.url import BrokerUrl, Credentials

KEEPALIVE_S = 5
"""A broker ends a connection that was silent for one and a half of these. A tensor of 8 MB on a slow link must not look
like a dead one; who hangs is noticed by its heartbeats long before."""

CONNECT_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 1.0
SUBSCRIBE_TIMEOUT_S = 5.0
_REFUSED_SUBSCRIPTION = 0x80

T = TypeVar("T")

_log = structlog.get_logger(__name__)
_quiet = logging.getLogger("understudy.mqtt")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class LinkError(Exception):
    """The connection could not be made, or is lost. The message says why."""


class LinkRefusedError(LinkError):
    """The broker is there and refused the credentials or the client."""


class LinkCutOffError(LinkError):
    """The broker ended the connection before it answered."""


class LinkTlsError(LinkError):
    """There is a server, and no TLS connection to it; trying again changes nothing. The message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """What every connection of one client is made with.

    Attributes:
        client_id: the broker ends an older connection of the same id.
        will: topic of the message that the broker publishes when this connection ends without a goodbye; empty: none.
    """

    client_id: str
    credentials: Credentials | None = None
    will: str = ""
    tls: ssl.SSLContext | None = None


def tls_context(url: BrokerUrl) -> ssl.SSLContext | None:
    """For `mqtts://` servers. Raises what `broker.tls.client_context` raises."""
    return client_context(url.options) if any(one.startswith("mqtts:") for one in url.servers) else None


OnMessage = Callable[[str, bytes, bool], None]
"""Topic, payload, and whether the broker had retained it; called in the event loop, in order. It does not raise."""

OnConfirmed = Callable[[int], None]
"""What `send` returned: the message is written (QoS 0), or the broker has confirmed it (QoS 1)."""


class Link:
    """Made by `open`; it is lost at some time (`lost`), or ended with `close`. It does not reconnect."""

    def __init__(self, client: aiomqtt.Client, on_confirmed: OnConfirmed, *, who: str) -> None:
        self._client = client
        self._who = who
        self._paho = client._client
        self._on_confirmed = on_confirmed
        self._loop = asyncio.get_running_loop()
        self._written = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._closing = False
        self._failed = asyncio.Event()
        self.is_lost = False
        self.filters: set[str] = set()
        """What the broker delivers to this connection."""

    @classmethod
    async def open(
        cls, server: str, settings: LinkSettings, *, on_message: OnMessage, on_confirmed: OnConfirmed
    ) -> Link:
        """Connect to `scheme://host:port`.

        Raises:
            LinkRefusedError: the broker refused the credentials.
            LinkTlsError: one of the two does not take the other's certificate.
            LinkCutOffError: it ends the connection without an answer.
            LinkError: nobody answers there.
        """

        class Receive(asyncio.Queue[aiomqtt.Message]):
            """In place of the queue that aiomqtt would fill: the message goes on at once."""

            def put_nowait(self, item: aiomqtt.Message) -> None:
                payload = item.payload if isinstance(item.payload, bytes) else b""
                on_message(item.topic.value, payload, item.retain)

        address, credentials = urlsplit(server), settings.credentials
        client = aiomqtt.Client(
            address.hostname or "",
            address.port or 0,
            username=credentials.user if credentials else None,
            password=(credentials.password or None) if credentials else None,
            logger=_quiet,
            identifier=settings.client_id,
            queue_type=Receive,
            will=aiomqtt.Will(settings.will, b"", qos=1) if settings.will else None,
            clean_session=True,
            timeout=CONNECT_TIMEOUT_S,
            keepalive=KEEPALIVE_S,
            max_inflight_messages=0,  # no limit: what is not confirmed is bounded by `broker.mqtt_outbox`
            tls_context=settings.tls if address.scheme == "mqtts" else None,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        link = cls(
            client,
            on_confirmed,
            who=f"user '{credentials.user}'" if credentials else "who gives no user in the broker's URL",
        )
        await link._connect(server)
        return link

    @property
    def unwritten(self) -> bool:
        """Whether something that was sent is still in this process."""
        return bool(self._paho.want_write())

    def send(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> int:
        """Hand a message to the socket, as much of it as that takes. Returns a number for `on_confirmed`."""
        info = self._paho.publish(topic, payload, qos, retain)
        return int(info.mid)

    def write(self) -> None:
        """Write to the socket what was sent. Never raises: a connection that fails here is lost soon."""
        try:
            self._paho.loop_write()
        except Exception as error:
            self._fail(error)
        if not self.unwritten:
            self._written.set()

    async def written(self) -> None:
        """Wait until what was sent went to the socket, or the connection is lost."""
        while self.unwritten and not self.is_lost:
            self._written.clear()
            await self._written.wait()

    async def subscribe(self, filters: Iterable[str]) -> None:
        """Raises LinkError where the connection is lost meanwhile, PermissionDeniedError where the broker refuses."""
        wanted = sorted(set(filters) - self.filters)
        if not wanted:
            return
        codes: Any = await self._ask(self._client.subscribe([(one, 0) for one in wanted], timeout=SUBSCRIBE_TIMEOUT_S))
        granted = {one for one, code in zip(wanted, codes, strict=False) if _value(code) < _REFUSED_SUBSCRIPTION}
        self.filters |= granted
        if refused := sorted(set(wanted) - granted):
            raise PermissionDeniedError("subscribe", subject_of(refused[0]), self._who)

    async def unsubscribe(self, filters: Iterable[str]) -> None:
        """Raises LinkError where the connection is lost meanwhile."""
        ended = sorted(set(filters) & self.filters)
        if ended:
            self.filters -= set(ended)
            await self._ask(self._client.unsubscribe(ended, timeout=SUBSCRIBE_TIMEOUT_S))

    async def lost(self) -> None:
        """Return when the connection is lost."""
        assert self._watch is not None  # noqa: S101 - _connect made it
        await asyncio.wait([self._watch])

    def abort(self) -> None:
        """End the connection without a goodbye, whatever its state."""
        found = self._paho.socket()
        if isinstance(found, socket.socket):  # a TLS socket is one too
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Say goodbye, so that the broker publishes no will. Idempotent."""
        self._closing = True
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._client.__aexit__(None, None, None)
        except (TimeoutError, OSError, ValueError, aiomqtt.MqttError) as error:
            _log.debug("mqtt_goodbye_failed", error=str(error))
            self.abort()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        self._release()

    # ---- helpers -----------------------------------------------------------------------------------------------

    async def _connect(self, server: str) -> None:
        self._paho.connect_timeout = CONNECT_TIMEOUT_S
        self._paho.on_disconnect = self._on_disconnect
        # In a task of its own: aiomqtt connects in a thread, and what that leaves behind must be ended in any case.
        connecting = asyncio.ensure_future(self._client.__aenter__())
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(self._drop)
            raise
        except MqttConnectError as error:
            self.abort()
            raise LinkRefusedError(str(error.rc)) from error
        except LinkCutOffError:
            self.abort()
            raise
        except (OSError, ValueError, aiomqtt.MqttError) as error:
            self.abort()
            # aiomqtt drops the error that it says no more about.
            if (tls := handshake_failure(error.__context__ or error)) is not None:
                raise LinkTlsError(tls) from error
            raise LinkError(_reason(error)) from error
        self._paho.on_publish = self._confirmed
        self._paho.on_socket_register_write = self._register_write
        self._paho.on_socket_unregister_write = self._unregister_write
        self._take_over_reading()
        self._watch = asyncio.create_task(self._until_lost(), name=f"mqtt connection to {server}")

    def _on_disconnect(self, *told: Any) -> None:
        """aiomqtt would go on waiting for a broker that has not answered yet. Called in any thread."""

        def end() -> None:
            if not self._client._connected.done():
                self._client._connected.set_exception(LinkCutOffError("it ended the connection before it answered"))

        self._loop.call_soon_threadsafe(end)
        self._client._on_disconnect(*told)

    def _drop(self, connecting: asyncio.Future[Any]) -> None:
        """Whoever wanted this connection is gone."""
        look(connecting)
        # Where the loop ends, aiomqtt was cancelled too: it would raise that out of the callback that hears of the end.
        self._paho.on_disconnect = None
        self.abort()

    async def _until_lost(self) -> None:
        waits = (
            asyncio.ensure_future(self._listen()),
            asyncio.ensure_future(self._failed.wait()),
        )
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
            self._release()

    async def _listen(self) -> None:
        """Return when aiomqtt knows that the connection is lost."""
        try:
            async for _ in self._client.messages:
                pass  # `Receive` has handed it on
        except (OSError, ValueError, aiomqtt.MqttError) as error:
            if not self._closing:
                _log.debug("mqtt_connection_lost", error=str(error.__cause__ or error))

    def _release(self) -> None:
        self.is_lost = True
        self._written.set()

    async def _ask(self, question: Awaitable[T]) -> T:
        """What the broker answers; LinkError if it does not, or the connection is lost."""
        assert self._watch is not None  # noqa: S101 - _connect made it
        asking = asyncio.ensure_future(question)
        try:
            await asyncio.wait((asking, self._watch), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise LinkError("the connection is lost")
            return asking.result()
        except (OSError, ValueError, aiomqtt.MqttError) as error:
            raise LinkError(_reason(error)) from error
        finally:
            drop(asking)

    def _take_over_reading(self) -> None:
        """From aiomqtt, whose callback reads one message.

        When a connection was reset, uvloop calls the reader once more and never again. Were messages still waiting
        then, the loss of the connection would go unnoticed.
        """
        found = self._paho.socket()
        if found is not None:
            self._loop.remove_reader(found.fileno())
            self._loop.add_reader(found.fileno(), self._read)

    def _read(self) -> None:
        try:
            self._paho.loop_read()
            while (found := self._paho.socket()) is not None and (_is_broken(found) or _holds_more(found)):
                self._paho.loop_read()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """The connection is lost, and aiomqtt may not hear of it."""
        _log.debug("mqtt_connection_failed", error=str(error))
        self._failed.set()
        self.abort()

    def _confirmed(self, _client: Any, _userdata: Any, number: int, _code: Any, _properties: Any) -> None:
        self._on_confirmed(number)

    def _register_write(self, _client: Any, _userdata: Any, found: Any) -> None:
        try:
            self._loop.add_writer(found.fileno(), self.write)
        except RuntimeError as error:  # uvloop's, of a socket that was reset
            self._fail(error)

    def _unregister_write(self, _client: Any, _userdata: Any, found: Any) -> None:
        self._loop.remove_writer(found.fileno())


def _is_broken(found: Any) -> bool:
    """Whether the connection was reset, so that nothing more comes than what is here already."""
    poll = select.poll()
    poll.register(found.fileno(), 0)
    return bool(poll.poll(0))


def _holds_more(found: Any) -> bool:
    """Whether a TLS socket has decrypted more than was read: its file descriptor does not show that."""
    return isinstance(found, ssl.SSLSocket) and found.pending() > 0


def _value(code: Any) -> int:
    return int(getattr(code, "value", code))


def _reason(error: Exception) -> str:
    # aiomqtt passes the text of an OSError on, and drops the error.
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    return text[:1].lower() + text[1:]
