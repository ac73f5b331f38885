"""The broker port: what every back end (NATS, MQTT, in-memory) provides, and nothing else.

This file imports no adapter. `broker.connect.connect(url)` picks one by URL scheme.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message as received. `data` is owned by the receiver: arrays may be views into it.

    `retained`: the broker kept it for those who subscribe later, so it may be old (MQTT alone).
    """

    subject: str
    data: bytes | bytearray | memoryview
    reply: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    retained: bool = False


Handler = Callable[[Message], Awaitable[None]]
"""Called once per message, in order of arrival for one subscription. It must return quickly (put the message in a
bounded queue of its own); an exception that it raises is logged and does not end the subscription."""

ConnectionListener = Callable[[bool], None]
"""Told False when the connection to the broker is lost, True when it is there again."""


class Subscription(Protocol):
    async def unsubscribe(self) -> None:
        """No further message reaches the handler. Idempotent."""


class Broker(Protocol):
    """A connection to a broker. Made by `connect`, closed with `close`."""

    @property
    def url(self) -> str:
        """The URL without its credentials, for logs and status."""

    @property
    def max_payload_bytes(self) -> int:
        """The largest payload that the broker takes."""

    @property
    def clustered(self) -> bool:
        """Whether the server is one of several: it may be cut off from the others with messages that it has taken, and
        pass them on later. Who asks a subject that nobody listens to is told so (`request`) on such brokers."""

    @property
    def connected(self) -> bool:
        """Whether the connection is up at the moment (a back end reconnects by itself)."""

    async def publish(
        self,
        subject: str,
        parts: Buffer | Sequence[Buffer],
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send one message whose payload is the concatenation of `parts`. At most once: the broker may lose it.

        Returns when the message is in the client's outbound buffer; waits while that buffer is full.

        Raises:
            PayloadTooLargeError: the payload exceeds `max_payload_bytes`; nothing was sent.
            BrokerClosedError: `close` was called.
            BrokerError: not connected, and the outbound buffer is full.
        """

    async def publish_now(self, messages: Sequence[Message], condition: Callable[[], bool]) -> bool:
        """Hand messages to the system's socket, all in one step, or none of them.

        Unlike what `publish` takes, nothing of them waits in this process: they cannot come out later, after a pause of
        the process or on another connection, when they are not true any more.

        Args:
            condition: asked right before they go.

        Returns:
            Whether they went: not while the connection is down, nor where the condition does not hold.

        Raises:
            PayloadTooLargeError, BrokerClosedError: see `publish`.
        """

    async def subscribe(self, subject: str, handler: Handler) -> Subscription:
        """Receive messages of `subject` (NATS wildcards `*` and `>`).

        When this returns, the broker knows of the subscription: a message published afterwards, by anyone, arrives.
        """

    async def request(
        self,
        subject: str,
        parts: Buffer | Sequence[Buffer] = b"",
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """Send a message and wait for its first answer.

        Raises:
            NoRespondersError: nobody listens to the subject. Not on MQTT, which cannot know: that times out.
            RequestTimeoutError: no answer within `timeout_s`.
        """

    def new_inbox(self) -> str:
        """A fresh subject for answers to this connection alone."""

    def on_connection(self, listener: ConnectionListener) -> None:
        """Register a listener for losing and regaining the connection."""

    async def flush(self, *, timeout_s: float = 5.0) -> None:
        """Return when the broker has taken everything published so far."""

    async def close(self) -> None:
        """Send what is buffered (within a bound), unsubscribe, disconnect. Idempotent."""
