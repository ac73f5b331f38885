"""The in-process back end: `memory://name`, for tests of ours and of users. No server, no sockets, same semantics.

Connections to the same name in the same event loop share one broker; it is gone when the last of them closes.
Delivery is core NATS's: at most once, in order for one publisher and one subscription.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from weakref import WeakKeyDictionary

from broker.dispatch import BUFFER_TYPES, QueuedSubscription
from broker.errors import (
    BrokerClosedError,
    BrokerError,
    NoRespondersError,
    PayloadTooLargeError,
    RequestTimeoutError,
)
from broker.headers import clean_headers
from broker.port import Buffer, ConnectionListener, Handler, Message
from broker.url import BrokerUrl

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
QUEUE_MESSAGES = 65_536

_SPACE = re.compile(r"\s")


class Hub:
    """What the connections to one name share: the subscriptions."""

    def __init__(self) -> None:
        self.connections: set[MemoryBroker] = set()
        self._subscriptions: dict[MemorySubscription, None] = {}  # a set that keeps the order

    def add(self, subscription: MemorySubscription) -> None:
        self._subscriptions[subscription] = None

    def remove(self, subscription: MemorySubscription) -> None:
        self._subscriptions.pop(subscription, None)

    def deliver(self, message: Message) -> int:
        """Hand a message to every subscriber; return to how many."""
        receivers = [subscription for subscription in self._subscriptions if subscription.matches(message.subject)]
        for subscription in receivers:
            subscription.put(message)
        return len(receivers)


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Hub]] = WeakKeyDictionary()


class MemorySubscription(QueuedSubscription):
    """One subscription. At most `QUEUE_MESSAGES` messages wait for its handler."""

    def __init__(self, hub: Hub, subject: str, handler: Handler) -> None:
        super().__init__(subject, handler, kind="memory", queue_messages=QUEUE_MESSAGES)
        self._hub = hub
        hub.add(self)

    async def unsubscribe(self) -> None:
        self._hub.remove(self)
        await self.stop()


class MemoryBroker:
    """A connection to an in-process broker. Made by `connect`, ended with `close`. It is never lost."""

    def __init__(self, name: str, hubs: dict[str, Hub], max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._name = name
        self._hubs = hubs
        self._hub = hubs.setdefault(name, Hub())
        self._hub.connections.add(self)
        self._max_payload_bytes = max_payload_bytes
        self._subscriptions: list[MemorySubscription] = []
        self._listeners: list[ConnectionListener] = []
        self._inboxes = itertools.count()
        self._closed = False

    @classmethod
    async def connect(cls, url: BrokerUrl, *, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> MemoryBroker:
        """See `broker.connect.connect`."""
        return cls(url.name, _hubs.setdefault(asyncio.get_running_loop(), {}), max_payload_bytes)

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    @property
    def max_payload_bytes(self) -> int:
        return self._max_payload_bytes

    @property
    def clustered(self) -> bool:
        return False

    @property
    def connected(self) -> bool:
        return not self._closed

    async def publish(
        self,
        subject: str,
        parts: Buffer | Sequence[Buffer],
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._hub.deliver(self._message(subject, parts, reply, headers))
        # A publisher in a loop would otherwise never let the handlers run.
        await asyncio.sleep(0)

    async def publish_now(self, messages: Sequence[Message], condition: Callable[[], bool]) -> bool:
        outgoing = [self._message(m.subject, m.data, m.reply, m.headers) for m in messages]
        await asyncio.sleep(0)
        if not self.connected or not condition():
            return False
        for message in outgoing:
            self._hub.deliver(message)
        return True

    async def subscribe(self, subject: str, handler: Handler) -> MemorySubscription:
        self._check_open()
        _check_pattern(subject)
        subscription = MemorySubscription(self._hub, subject, handler)
        self._subscriptions.append(subscription)
        return subscription

    async def request(
        self,
        subject: str,
        parts: Buffer | Sequence[Buffer] = b"",
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        async def take(message: Message) -> None:
            if not answer.done():
                answer.set_result(message)

        inbox = self.new_inbox()
        subscription = await self.subscribe(inbox, take)
        try:
            if self._hub.deliver(self._message(subject, parts, inbox, headers)) == 0:
                raise NoRespondersError(f"nobody listens to '{subject}'")
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise RequestTimeoutError(f"no answer from '{subject}' within {timeout_s:g} s") from error
        finally:
            self._subscriptions.remove(subscription)
            await subscription.unsubscribe()

    def new_inbox(self) -> str:
        return f"_INBOX.{id(self):x}.{next(self._inboxes)}"

    def on_connection(self, listener: ConnectionListener) -> None:
        """Never told anything: this connection is not lost."""
        self._listeners.append(listener)

    async def flush(self, *, timeout_s: float = 5.0) -> None:  # noqa: ARG002 - the port's; nothing to wait for
        self._check_open()
        await asyncio.sleep(0)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()
        self._hub.connections.discard(self)
        if not self._hub.connections:
            with contextlib.suppress(KeyError):
                del self._hubs[self._name]

    def _message(
        self, subject: str, parts: Buffer | Sequence[Buffer], reply: str, headers: Mapping[str, str] | None
    ) -> Message:
        self._check_open()
        if not subject or _SPACE.search(subject) or _SPACE.search(reply):
            raise BrokerError(f"'{subject}' is not a subject")
        data = bytes(parts) if isinstance(parts, BUFFER_TYPES) else b"".join(parts)
        if len(data) > self._max_payload_bytes:
            raise PayloadTooLargeError(subject, len(data), self._max_payload_bytes)
        return Message(subject=subject, data=data, reply=reply, headers=clean_headers(headers))

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerClosedError(f"the connection to {self.url} is closed")


def _check_pattern(subject: str) -> None:
    words = subject.split(".")
    for position, word in enumerate(words, start=1):
        wild = word == "*" or (word == ">" and position == len(words))
        if not word or _SPACE.search(word) or (not wild and ("*" in word or ">" in word)):
            raise BrokerError(f"'{subject}' is not a subject")
