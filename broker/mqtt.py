"""The MQTT back end: the broker port over MQTT 3.1.1, for mosquitto and for nats-server's own MQTT listener.

Not connected at the moment: what is published is kept in the outbound buffer (32 MiB) and sent after the reconnect,
which is tried for ever, at first every 10 ms. docs/mqtt.md says what of the port's contract MQTT cannot keep: it does
not tell that nobody listens to a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import secrets
from collections.abc import Callable, Mapping, Sequence

import structlog

from broker import subjects
from broker.dispatch import BUFFER_TYPES
from broker.errors import BrokerClosedError, BrokerError, PayloadTooLargeError, RequestTimeoutError, WireError
from broker.headers import clean_headers
from broker.mqtt_delivery import delivery_of
from broker.mqtt_envelope import unwrap, wrap
from broker.mqtt_link import LinkSettings, tls_context
from broker.mqtt_outbox import Outgoing
from broker.mqtt_session import MqttSession
from broker.mqtt_subscription import MqttSubscription, Subscriptions
from broker.mqtt_topics import subject_of, topic_of, widest
from broker.port import Buffer, ConnectionListener, Handler, Message
from broker.presence import parse_connection_name
from broker.url import BrokerUrl

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024 - 1024
"""MQTT brokers do not announce their limit. This one is ours; a broker with a lower one ends the connection of whoever
exceeds it. nats-server counts the topic too: with `max_payload: 8MB` this much fits beside it."""

FLUSH_AT_CLOSE_S = 1.0
SUBSCRIBE_TIMEOUT_S = 5.0
_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9_-]")

_log = structlog.get_logger(__name__)


class MqttBroker:
    """A connection to MQTT. Made by `connect`, ended with `close`."""

    def __init__(self, url: BrokerUrl, name: str) -> None:
        node = parse_connection_name(name)
        self._url = url
        # A node's is its connection's name, so that it can be cut off by it. Others may start twice.
        client_id = name if node else f"{_NOT_IN_AN_ID.sub('-', name)}-{secrets.token_hex(4)}"
        settings = LinkSettings(
            client_id=client_id,
            credentials=url.credentials,
            will=topic_of(subjects.gone(name)) if node else "",
            tls=tls_context(url),
        )
        # By the client id, since a broker's ACL can give somebody what is below that. Not a node's: whoever learns its
        # client id can end its connection, and it asks everybody for sub-models.
        self._inbox = f"_INBOX.{secrets.token_hex(8) if node else client_id}"
        self._numbers = itertools.count()
        self._subscriptions = Subscriptions()
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._session = MqttSession(url, settings, filters=self._filters, on_message=self._on_message)

    @classmethod
    async def connect(cls, url: BrokerUrl, *, name: str, connect_timeout_s: float) -> MqttBroker:
        """See `broker.connect.connect`."""
        broker = cls(url, name)
        try:
            await broker._session.connect(connect_timeout_s)
        except BaseException:
            await broker.close()
            raise
        return broker

    @property
    def url(self) -> str:
        return str(self._url)

    @property
    def max_payload_bytes(self) -> int:
        return MAX_PAYLOAD_BYTES

    @property
    def clustered(self) -> bool:
        return False

    @property
    def connected(self) -> bool:
        return self._session.connected

    async def publish(
        self,
        subject: str,
        parts: Buffer | Sequence[Buffer],
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._session.check_open()
        await self._session.send(self._outgoing(subject, parts, reply, headers))

    async def publish_now(self, messages: Sequence[Message], condition: Callable[[], bool]) -> bool:
        self._session.check_open()
        outgoing = [self._outgoing(m.subject, m.data, m.reply, m.headers, again=False) for m in messages]
        return await self._session.send_now(outgoing, condition)

    async def subscribe(self, subject: str, handler: Handler) -> MqttSubscription:
        """See `broker.port.Broker.subscribe`.

        Raises:
            PermissionDeniedError: the broker refuses the subscription.
            BrokerError: the broker does not confirm the subscription, or it overlaps with another one of this
                connection (`broker.mqtt_topics.widest`).
        """
        self._session.check_open()
        subscription = MqttSubscription(subject, handler, self._remove)
        self._subscriptions.add(subscription)
        try:
            async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S):
                await self._session.subscribe()
        except TimeoutError as error:
            await subscription.unsubscribe()
            raise BrokerError(f"the broker at {self.url} has not confirmed a subscription to '{subject}'") from error
        except BaseException:
            await subscription.unsubscribe()
            raise
        return subscription

    async def request(
        self,
        subject: str,
        parts: Buffer | Sequence[Buffer] = b"",
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """See `broker.port.Broker.request`. That nobody listens shows by the timeout alone."""
        inbox = self.new_inbox()
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[inbox] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await self.publish(subject, parts, reply=inbox, headers=headers)
                return await answer
        except TimeoutError as error:
            raise RequestTimeoutError(f"no answer from '{subject}' within {timeout_s:g} s") from error
        finally:
            del self._answers[inbox]

    def new_inbox(self) -> str:
        # All below one subject that this connection hears from the start: a new one costs nothing.
        return f"{self._inbox}.{next(self._numbers)}"

    def on_connection(self, listener: ConnectionListener) -> None:
        self._session.listeners.append(listener)

    async def flush(self, *, timeout_s: float = 5.0) -> None:
        """See `broker.port.Broker.flush`. Waits for a reconnect if the connection is lost.

        A broker handles the messages of a connection in their order. So one to ourselves, when it is back, shows that
        all before it are with the broker, and that all that the broker sent to us before has arrived. (PINGRESP would
        show no more, and paho sends no PINGREQ on demand.)

        Raises:
            BrokerError: the broker has not confirmed within `timeout_s`.
            BrokerClosedError: `close` was called.
        """
        self._session.check_open()
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._confirmed():
                    await self._session.wait_up()
        except TimeoutError as error:
            raise BrokerError(f"the broker at {self.url} has not confirmed within {timeout_s:g} s") from error

    async def close(self) -> None:
        if self._session.closed:
            return
        if self.connected:
            with contextlib.suppress(BrokerError):
                await self.flush(timeout_s=FLUSH_AT_CLOSE_S)
        await self._session.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(BrokerClosedError(f"the connection to {self.url} is closed"))
        for subscription in self._subscriptions.all():
            await subscription.stop()

    async def _confirmed(self) -> bool:
        """Whether the broker has everything; False if the connection was lost while waiting for it."""
        subject = self.new_inbox()
        back: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[subject] = back
        try:
            return await self._session.until_back(self._outgoing(subject, b"", "", None), back)
        finally:
            del self._answers[subject]

    def _outgoing(
        self,
        subject: str,
        parts: Buffer | Sequence[Buffer],
        reply: str,
        headers: Mapping[str, str] | None,
        *,
        again: bool = True,
    ) -> Outgoing:
        topic, delivery = topic_of(subject), delivery_of(subject)
        payload = bytes(parts) if isinstance(parts, BUFFER_TYPES) else b"".join(parts)
        try:
            envelope = wrap(reply, clean_headers(headers))
        except WireError as error:
            raise BrokerError(f"a message for '{subject}' cannot be sent: {error.reason}") from error
        # Counted together, as NATS does, but where the payload alone is too large the caller knows that number.
        size = len(payload) if len(payload) > MAX_PAYLOAD_BYTES else len(payload) + len(envelope)
        if size > MAX_PAYLOAD_BYTES:
            raise PayloadTooLargeError(subject, size, MAX_PAYLOAD_BYTES)
        payload = envelope + payload if envelope else payload
        return Outgoing(topic=topic, payload=payload, qos=delivery.qos, retain=delivery.retain, again=again)

    def _filters(self) -> set[str]:
        """What the broker is asked for: raises BrokerError where filters overlap."""
        return widest({topic_of(self._inbox) + "/#", *self._subscriptions.filters})

    async def _remove(self, subscription: MqttSubscription) -> None:
        self._subscriptions.remove(subscription)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S):
                await self._session.unsubscribe()

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        subject = subject_of(topic)
        if retained and not delivery_of(subject).retain:
            # A stranger had the broker keep it. It is an event of a time that is over: a frame would be answered anew.
            _log.debug("retained_message_ignored", subject=subject)
            return
        try:
            data, reply, headers = unwrap(payload)
        except WireError as error:
            _log.warning("message_malformed", subject=subject, reason=error.reason)
            return
        message = Message(subject=subject, data=data, reply=reply, headers=headers, retained=retained)
        answer = self._answers.get(subject)
        if answer is None:
            self._subscriptions.deliver(message)
        elif not answer.done():
            answer.set_result(message)
