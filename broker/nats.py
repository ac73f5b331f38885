"""The NATS back end: the broker port on nats-py. No exception of nats-py leaves this package.

Not connected at the moment: what is published is kept in the outbound buffer (32 MiB) and sent after the reconnect,
which is tried for ever, at first every 10 ms. Core NATS delivers at most once: what was on its way when a server died
is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from nats import errors as nats_errors

from broker.dispatch import BUFFER_TYPES, tell
from broker.errors import (
    BrokerClosedError,
    BrokerError,
    BrokerUnreachableError,
    NoRespondersError,
    PermissionDeniedError,
    RequestTimeoutError,
)
from broker.nats_auth import Refusal, Refusals, auth_options, parse_refusal, public_nkey, wants_tls
from broker.nats_client import NatsClient
from broker.nats_errors import (
    AuthorizationFailedError,
    OutboundBufferFullError,
    UnusableServerError,
    reason,
    translate,
)
from broker.nats_subscription import NatsSubscription, message_of
from broker.port import Buffer, ConnectionListener, Handler, Message
from broker.tls import MOST_CUT_OFF, cut_off, handshake_failure
from broker.url import BrokerUrl

CLOSE_TIMEOUT_S = 2.0
RECONNECT_WAIT_S = 0.01
RECONNECT_WAIT_MAX_S = 0.25
# A tensor of 8 MB on its way over a slow link must not look like a dead one: a PING waits behind it.
PING_INTERVAL_S = 1.0
MAX_OUTSTANDING_PINGS = 4
OUTBOUND_BUFFER_BYTES = 32 * 1024 * 1024

_log = structlog.get_logger(__name__)


class NatsBroker:
    """A connection to NATS. Made by `connect`, ended with `close`.

    Several servers are one cluster: when one goes away, the client moves to another. Each of them gets the credentials.
    """

    def __init__(self, url: BrokerUrl, client: NatsClient) -> None:
        self._url = url
        self._client = client
        self._listeners: list[ConnectionListener] = []
        self._up = asyncio.Event()
        self._closing = False
        self._connecting = True
        self._last_error: Exception | None = None
        self._cut_off = 0
        self._refusals = Refusals(url)
        self._subscribing: dict[str, bool] = {}
        """Subjects of the subscriptions that are being made, and whether the server has refused them."""

    @classmethod
    async def connect(cls, url: BrokerUrl, *, name: str, connect_timeout_s: float) -> NatsBroker:
        """See `broker.connect.connect`."""
        broker = cls(url, NatsClient())
        options = broker._options(name, connect_timeout_s)
        broker._client.use(tls=wants_tls(url), nkey=public_nkey(url), signs="signature_cb" in options)
        try:
            async with asyncio.timeout(connect_timeout_s):
                await broker._client.connect(**options)
        except AuthorizationFailedError as error:
            await broker.close()
            raise BrokerUnreachableError(
                f"authorization failed at {url}: the broker is there and refused the user, password, token or key"
            ) from error
        except UnusableServerError as error:
            await broker.close()
            raise BrokerUnreachableError(f"no connection to {url}: {error}") from error
        except (TimeoutError, OSError, nats_errors.Error) as error:
            await broker.close()
            why = reason(broker._last_error or error)
            raise BrokerUnreachableError(f"no broker answers at {url} ({why}): start one, or check --broker") from error
        except BaseException:
            await broker.close()
            raise
        broker._connecting = False
        broker._up.set()
        return broker

    @property
    def url(self) -> str:
        return str(self._url)

    @property
    def max_payload_bytes(self) -> int:
        return self._client.max_payload

    @property
    def clustered(self) -> bool:
        return self._client.clustered

    @property
    def connected(self) -> bool:
        return not self._closing and bool(self._client.is_connected)

    async def publish(
        self,
        subject: str,
        parts: Buffer | Sequence[Buffer],
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """See `broker.port.Broker.publish`.

        Large `bytes` and read-only memoryviews are sent in place and must stay as they are until they are on the wire;
        a buffer that can be written to (a bytearray, a numpy array's memoryview) is copied first. `view.toreadonly()`
        says that nobody will write to it, and saves the copy.
        """
        self._check_open()
        views = [parts] if isinstance(parts, BUFFER_TYPES) else parts
        try:
            await self._client.publish_parts(subject, views, reply=reply, headers=headers)
        except (nats_errors.Error, OutboundBufferFullError) as error:
            raise translate(error, url=self.url, subject=subject) from error

    async def publish_now(self, messages: Sequence[Message], condition: Callable[[], bool]) -> bool:
        self._check_open()
        try:
            return await self._client.publish_now(messages, condition)
        except nats_errors.Error as error:
            raise translate(error, url=self.url, subject=messages[0].subject) from error

    async def subscribe(self, subject: str, handler: Handler) -> NatsSubscription:
        self._check_open()
        subscription = NatsSubscription(subject, handler)
        self._subscribing[subject] = False
        try:
            # The receivers bound themselves; nats-py's own limits drop messages silently.
            subscription.inner = await self._client.subscribe(
                subject, cb=subscription.handle, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except nats_errors.Error as error:
            self._subscribing.pop(subject, None)
            raise translate(error, url=self.url, subject=subject) from error
        try:
            await self.flush()
            self._check_allowed(subject)
        except BaseException:
            await subscription.unsubscribe()
            raise
        finally:
            self._subscribing.pop(subject, None)
        return subscription

    async def request(
        self,
        subject: str,
        parts: Buffer | Sequence[Buffer] = b"",
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        self._check_open()
        views = [parts] if isinstance(parts, BUFFER_TYPES) else parts
        try:
            answer = await self._client.request_parts(subject, views, timeout_s=timeout_s, headers=headers)
        except nats_errors.NoRespondersError as error:
            raise NoRespondersError(f"nobody listens to '{subject}'") from error
        except nats_errors.TimeoutError as error:
            raise RequestTimeoutError(f"no answer from '{subject}' within {timeout_s:g} s") from error
        except PermissionDeniedError as error:
            raise PermissionDeniedError("publish", subject, self._refusals.who) from error
        except (nats_errors.Error, OutboundBufferFullError) as error:
            raise translate(error, url=self.url, subject=subject) from error
        return message_of(answer)

    def new_inbox(self) -> str:
        return str(self._client.new_inbox())

    def on_connection(self, listener: ConnectionListener) -> None:
        self._listeners.append(listener)

    async def flush(self, *, timeout_s: float = 5.0) -> None:
        """See `broker.port.Broker.flush`. Waits for a reconnect if the connection is lost.

        Raises:
            BrokerError: the broker has not confirmed within `timeout_s`.
            BrokerClosedError: `close` was called.
        """
        self._check_open()
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._confirmed():
                    await self._up.wait()
                    self._check_open()
        except TimeoutError as error:
            raise BrokerError(f"the broker at {self.url} has not confirmed within {timeout_s:g} s") from error
        except nats_errors.Error as error:
            raise translate(error, url=self.url) from error

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        handlers = self._client.handler_tasks()
        with contextlib.suppress(TimeoutError, OSError, nats_errors.Error):
            async with asyncio.timeout(CLOSE_TIMEOUT_S / 2):
                if self._client.is_connected:
                    await self._client.confirm()
        with contextlib.suppress(TimeoutError, OSError, nats_errors.Error):
            async with asyncio.timeout(CLOSE_TIMEOUT_S / 2):
                await self._client.stop()
        self._up.set()  # whoever waits for it finds the connection closed
        for task in handlers:
            task.cancel()
        if handlers:
            await asyncio.wait(handlers, timeout=CLOSE_TIMEOUT_S)

    async def _confirmed(self) -> bool:
        """Whether the broker has taken everything; False if the connection was lost while waiting for it to say so."""
        if not self._client.is_connected:
            # nats-py knows before it tells: without this, the wait for `_up` would return at once, for ever.
            self._up.clear()
        return self._up.is_set() and await self._client.confirm()

    def _check_open(self) -> None:
        if self._closing:
            raise BrokerClosedError(f"the connection to {self.url} is closed")

    def _check_allowed(self, subject: str) -> None:
        if self._subscribing.get(subject):
            raise PermissionDeniedError("subscribe", subject, self._refusals.who)

    def _options(self, name: str, connect_timeout_s: float) -> dict[str, Any]:
        options: dict[str, Any] = {
            "servers": list(self._url.servers),
            "dont_randomize": True,  # the URL says where to begin: a node has its own server first
            "name": name,
            "connect_timeout": min(connect_timeout_s, 0.5),
            "reconnect_time_wait": RECONNECT_WAIT_S,
            "max_reconnect_attempts": -1,
            "ping_interval": PING_INTERVAL_S,
            "max_outstanding_pings": MAX_OUTSTANDING_PINGS,
            "pending_size": OUTBOUND_BUFFER_BYTES,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
        }
        return options | auth_options(self._url)

    async def _on_error(self, error: Exception) -> None:
        if self._closing:
            return
        if (refusal := parse_refusal(str(error))) is not None:
            self._on_refusal(refusal)
            return
        known = str(error) == str(self._last_error)
        self._last_error = error
        if self._connecting:
            if "authorization" in str(error).lower():
                raise AuthorizationFailedError from error
            if isinstance(error, UnusableServerError):
                raise error
            if (failure := handshake_failure(error)) is not None:
                raise UnusableServerError(failure) from error
            lost = isinstance(error, BrokenPipeError | ConnectionResetError) and wants_tls(self._url)
            self._cut_off = self._cut_off + 1 if lost else 0
            if self._cut_off >= MOST_CUT_OFF:
                raise UnusableServerError(cut_off(self._url.options)) from error
            self._back_off()
            return
        if not self._up.is_set():
            self._back_off()
        log = _log.debug if known else _log.warning
        log("broker_error", url=self.url, error=handshake_failure(error) or str(error) or type(error).__name__)

    def _on_refusal(self, refusal: Refusal) -> None:
        if refusal.action == "subscribe" and refusal.subject in self._subscribing:
            self._subscribing[refusal.subject] = True  # `subscribe` tells its caller
            return
        if refusal.action == "publish" and self._client.refuse_requests(refusal.subject):
            return
        self._refusals.say(refusal)

    def _back_off(self) -> None:
        wait_s = self._client.options["reconnect_time_wait"]
        self._client.options["reconnect_time_wait"] = min(wait_s * 1.5, RECONNECT_WAIT_MAX_S)

    async def _on_disconnected(self) -> None:
        self._up.clear()
        self._client.release_waiting()
        if self._closing or self._connecting:
            return
        _log.warning("broker_disconnected", url=self.url)
        tell(self._listeners, False, url=self.url)

    async def _on_reconnected(self) -> None:
        self._client.options["reconnect_time_wait"] = RECONNECT_WAIT_S
        self._last_error = None
        self._up.set()
        _log.info("broker_reconnected", url=self.url)
        tell(self._listeners, True, url=self.url)

    async def _on_closed(self) -> None:
        if not self._closing:
            _log.error("broker_connection_ended", url=self.url)
