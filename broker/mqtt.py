"""The MQTT back end: the broker port over MQTT 3.1.1, for mosquitto and for nats-server's own MQTT listener.

Not connected at the moment: what is published is kept in the outbound buffer (32 MiB) and sent after the reconnect,
which is tried for ever, at first every 10 ms. docs/mqtt.md says what of the port's contract MQTT cannot keep: it has no
queue groups, and does not tell that nobody listens to a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence

import structlog

from broker import subjects
from broker.dispatch import BUFFER_TYPES
from broker.errors import (
    BrokerClosedError,
    BrokerError,
    BrokerUnreachableError,
    PayloadTooLargeError,
    RequestTimeoutError,
    WireError,
)
from broker.headers import clean_headers
from broker.mqtt_delivery import delivery_of
from broker.mqtt_envelope import unwrap, wrap
from broker.mqtt_link import Link, LinkError, LinkRefusedError, LinkSettings, tls_context
from broker.mqtt_outbox import Outbox, Outgoing
from broker.mqtt_subscription import MqttSubscription, Subscriptions
from broker.mqtt_topics import subject_of, topic_of, widest
from broker.port import Buffer, ConnectionListener, Handler, Message
from broker.presence import parse_connection_name
from broker.url import BrokerUrl

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024 - 1024
"""MQTT brokers do not announce their limit. This one is ours; a broker with a lower one ends the connection of whoever
exceeds it. nats-server counts the topic too: with `max_payload: 8MB` this much fits beside it."""

BACKPRESSURE_BYTES = 4 * 1024 * 1024
OUTBOUND_BUFFER_BYTES = 32 * 1024 * 1024
MAX_UNCONFIRMED = 1024
RECONNECT_WAIT_S = 0.01
RECONNECT_WAIT_MAX_S = 0.25
CLOSE_TIMEOUT_S = 2.0
SUBSCRIBE_TIMEOUT_S = 5.0

_log = structlog.get_logger(__name__)


class MqttBroker:
    """A connection to MQTT. Made by `connect`, ended with `close`.

    Of several servers the first that answers is used; when it goes away, they are tried in turn.
    """

    def __init__(self, url: BrokerUrl, name: str) -> None:
        node = parse_connection_name(name)
        self._url = url
        self._settings = LinkSettings(
            # A node's is its connection's name, so that it can be cut off by it. Others may start twice.
            client_id=name if node else f"{name}-{secrets.token_hex(4)}",
            credentials=url.credentials,
            will=topic_of(subjects.gone(name)) if node else "",
            tls=tls_context(url),
        )
        self._inbox = f"_INBOX.{secrets.token_hex(8)}"
        self._numbers = itertools.count()
        self._subscriptions = Subscriptions()
        self._subscribing = asyncio.Lock()
        self._outbox = Outbox()
        self._room = asyncio.Event()
        self._sending_soon = False
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._listeners: list[ConnectionListener] = []
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, url: BrokerUrl, *, name: str, connect_timeout_s: float) -> MqttBroker:
        """See `broker.connect.connect`."""
        broker = cls(url, name)
        try:
            await broker._connect_first(connect_timeout_s)
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
    def queue_groups(self) -> bool:
        return False

    @property
    def connected(self) -> bool:
        return self._up.is_set() and not self._closed.is_set() and self._link is not None and not self._link.is_lost

    async def publish(
        self,
        subject: str,
        parts: Buffer | Sequence[Buffer],
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._check_open()
        outgoing = self._outgoing(subject, parts, reply, headers)
        while self.connected and self._outbox.size_bytes > BACKPRESSURE_BYTES:
            await self._wait_for_room()
        self._check_open()
        if not self.connected and self._outbox.size_bytes + outgoing.size_bytes > OUTBOUND_BUFFER_BYTES:
            raise BrokerError(f"not connected to {self.url}, and the outbound buffer is full")
        self._outbox.put(outgoing)
        self._send_waiting()
        # A publisher in a loop would otherwise never let the connection be read.
        await asyncio.sleep(0)

    async def publish_now(self, messages: Sequence[tuple[str, Buffer]], condition: Callable[[], bool]) -> bool:
        self._check_open()
        outgoing = [self._outgoing(subject, data, "", None, again=False) for subject, data in messages]
        while self.connected and self._link is not None and (self._link.unwritten or self._outbox.waiting):
            await (self._wait_for_room() if self._outbox.waiting else self._link.written())
        if not self.connected or not condition():
            return False
        for one in outgoing:
            self._outbox.put(one)
        self._send_waiting(at_once=True)
        return True

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> MqttSubscription:
        """See `broker.port.Broker.subscribe`.

        Raises:
            BrokerError: a queue group was asked for, the broker refuses the subscription or does not confirm it, or it
                overlaps with another one of this connection (`broker.mqtt_topics.widest`).
        """
        self._check_open()
        if queue:
            raise BrokerError(f"{self.url} has no queue groups: MQTT 3.1.1 knows none (see docs/mqtt.md)")
        subscription = MqttSubscription(subject, handler, self._remove)
        self._subscriptions.add(subscription)
        try:
            async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S):
                await self._bring_up_to_date()
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
        self._listeners.append(listener)

    async def flush(self, *, timeout_s: float = 5.0) -> None:
        """See `broker.port.Broker.flush`. Waits for a reconnect if the connection is lost.

        A broker handles the messages of a connection in their order. So one to ourselves, when it is back, shows that
        all before it are with the broker, and that all that the broker sent to us before has arrived. (PINGRESP would
        show no more, and paho sends no PINGREQ on demand.)

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

    async def close(self) -> None:
        if self._closed.is_set():
            return
        if self._link is not None and self._up.is_set():
            with contextlib.suppress(BrokerError):
                await self.flush(timeout_s=CLOSE_TIMEOUT_S / 2)
        self._closed.set()
        self._up.set()  # whoever waits for it finds the connection closed
        self._room.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_S)
        if self._link is not None:
            await self._link.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(BrokerClosedError(f"the connection to {self.url} is closed"))
        for subscription in self._subscriptions.all():
            await subscription.stop()

    # ---- the connection ----------------------------------------------------------------------------------------

    async def _connect_first(self, timeout_s: float) -> None:
        """Raises BrokerUnreachableError."""
        why = "timed out"
        try:
            async with asyncio.timeout(timeout_s):
                for pause_s in _pauses():
                    try:
                        self._link = await self._open()
                        break
                    except LinkRefusedError as error:
                        raise BrokerUnreachableError(
                            f"authorization failed at {self.url}: the broker is there and refused this client ({error})"
                        ) from error
                    except LinkError as error:
                        why = str(error)
                    await asyncio.sleep(pause_s)
        except TimeoutError as error:
            raise BrokerUnreachableError(
                f"no broker answers at {self.url} ({why}): start one, or check --broker"
            ) from error
        self._up.set()
        self._task = asyncio.create_task(self._stay_connected(), name=f"mqtt {self.url}")

    async def _open(self) -> Link:
        """A connection to the first server that takes it, with all subscriptions. Raises LinkError."""
        failure = LinkError("there is no server")
        for server in self._url.servers:
            try:
                link = await Link.open(
                    server, self._settings, on_message=self._on_message, on_confirmed=self._on_confirmed
                )
            except LinkError as error:
                failure = error
                continue
            try:
                await link.subscribe(self._filters())
            except BaseException as error:
                await link.close()
                if not isinstance(error, BrokerError):
                    raise
                # Refused: those that are there were granted before, and may be again.
                raise LinkError(str(error)) from error
            return link
        raise failure

    async def _stay_connected(self) -> None:
        while self._link is not None:
            await self._link.lost()
            self._lose()
            await self._link.close()
            for pause_s in _pauses():
                try:
                    self._link = await self._open()
                    break
                except LinkError as error:
                    _log.debug("broker_still_away", url=self.url, reason=str(error))
                await asyncio.sleep(pause_s)
            await self._regain()

    def _lose(self) -> None:
        self._up.clear()
        for outgoing in self._outbox.lose():
            _log.error("message_given_up", topic=outgoing.topic, size_bytes=len(outgoing.payload))
        self._room.set()
        _log.warning("broker_disconnected", url=self.url)
        self._tell(False)

    async def _regain(self) -> None:
        with contextlib.suppress(BrokerError, LinkError):
            # What was subscribed to, or not any more, since the connection was made.
            await self._align()
        self._up.set()
        self._room.set()
        self._send_waiting()
        _log.info("broker_reconnected", url=self.url)
        self._tell(True)

    def _tell(self, connected: bool) -> None:
        for listener in self._listeners:
            try:
                listener(connected)
            except Exception:
                _log.exception("connection_listener_failed", url=self.url)

    # ---- publishing --------------------------------------------------------------------------------------------

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

    def _send_waiting(self, *, at_once: bool = False) -> None:
        """Send what waits, as far as the broker keeps up; with `at_once` all of it."""
        link, outbox = self._link, self._outbox
        if link is None or not self.connected:
            return
        while outbox.waiting and (at_once or outbox.sent < MAX_UNCONFIRMED):
            one = outbox.waiting.popleft()
            outbox.note_sent(link.send(one.topic, one.payload, qos=one.qos, retain=one.retain), one)
        link.write()

    def _on_confirmed(self, number: int) -> None:
        self._outbox.confirm(number)
        self._room.set()
        if self._outbox.waiting and not self._sending_soon:
            self._sending_soon = True
            asyncio.get_running_loop().call_soon(self._send_more)

    def _send_more(self) -> None:
        self._sending_soon = False
        self._send_waiting()

    async def _wait_for_room(self) -> None:
        """Wait until something was confirmed, or the connection is lost or closed."""
        self._room.clear()
        await self._room.wait()

    async def _confirmed(self) -> bool:
        """Whether the broker has everything; False if the connection was lost while waiting for it."""
        link = self._link
        if link is None or not self._up.is_set():
            return False
        subject = self.new_inbox()
        back = self._answers[subject] = asyncio.get_running_loop().create_future()
        lost = asyncio.ensure_future(link.lost())
        try:
            await self.publish(subject, b"")
            await asyncio.wait((back, lost), return_when=asyncio.FIRST_COMPLETED)
            if lost.done() and link is self._link:
                self._up.clear()  # known here before it is told: the wait for `_up` must not return at once
        finally:
            lost.cancel()
            del self._answers[subject]
        return back.done() and link is self._link and self.connected

    # ---- subscriptions -----------------------------------------------------------------------------------------

    def _filters(self) -> set[str]:
        """What the broker is asked for: raises BrokerError where filters overlap."""
        return widest({topic_of(self._inbox) + "/#", *self._subscriptions.filters})

    async def _bring_up_to_date(self) -> None:
        """Return when the broker knows of all subscriptions."""
        while True:
            self._filters()
            await self._up.wait()
            self._check_open()
            with contextlib.suppress(LinkError):
                await self._align()
                return
            await asyncio.sleep(RECONNECT_WAIT_S)

    async def _align(self) -> None:
        """Raises LinkError where the connection is lost meanwhile, BrokerError where the broker refuses."""
        async with self._subscribing:
            link = self._link
            if link is None:
                raise LinkError("not connected")
            wanted = self._filters()
            # In this order: for a moment nothing comes, rather than everything twice.
            await link.unsubscribe(link.filters - wanted)
            await link.subscribe(wanted)

    async def _remove(self, subscription: MqttSubscription) -> None:
        self._subscriptions.remove(subscription)
        if self.connected:
            # A failure leaves a filter too many, whose messages are for nobody here.
            with contextlib.suppress(BrokerError, LinkError, TimeoutError):
                async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S):
                    await self._align()

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        subject = subject_of(topic)
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

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise BrokerClosedError(f"the connection to {self.url} is closed")


def _pauses() -> Iterator[float]:
    """Between attempts to connect: 10 ms, growing to 250 ms."""
    pause_s = RECONNECT_WAIT_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 1.5, RECONNECT_WAIT_MAX_S)
