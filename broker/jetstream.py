"""JetStream by its wire protocol over the broker port: streams that keep messages, and consumers that deliver them.

https://docs.nats.io/reference/reference-protocols/nats_api_reference. A message that a consumer delivers has a reply
subject which says what it is, and takes its acknowledgement, from any connection.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker.errors import BrokerError, NoRespondersError, UnderstudyError
from broker.port import Broker, Buffer
from broker.url import is_mqtt

TIMEOUT_S = 2.0
ACK, NAK = b"+ACK", b"-NAK"

_PREFIX = "$JS.ACK."
_NOT_FOUND = (10014, 10059)
"""No such consumer, no such stream."""
NO_MESSAGE = 10037
"""There is no such message."""

NO_ROOM = 10047
"""The broker has not as much space as the stream may take."""

_IN_USE = 10058
"""A stream of the name is there, with another configuration."""


class NoJetStreamError(UnderstudyError):
    """The broker stores nothing: it has no JetStream, or this account may not use it."""


class JetStreamRefusedError(BrokerError):
    """The broker does not do what it was asked; `code` is its own (`err_code`)."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a delivered message is: its place in its stream, and when it was stored, in ns since 1970. Both stay the
    same however often it is delivered."""

    sequence: int
    stored_ns: int

    @property
    def id(self) -> str:
        """A name for the message that no other message has, also after the stream was made anew."""
        return f"s{self.sequence}-{self.stored_ns:x}"


def is_stored(reply: str) -> bool:
    """Whether a message with this reply subject was delivered by a consumer."""
    return reply.startswith(_PREFIX)


def stored(reply: str) -> Stored | None:
    """None where it is no acknowledgement subject."""
    tokens = reply.split(".")
    if not is_stored(reply) or len(tokens) not in (9, 11, 12):
        return None
    # $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<sequence>.<consumer's>.<time>.<pending>[.<random>]
    first = 2 if len(tokens) == 9 else 4
    try:
        return Stored(sequence=int(tokens[first + 3]), stored_ns=int(tokens[first + 5]))
    except ValueError:
        return None


def check_stored(data: Buffer) -> None:
    """Read a stream's answer to a message that was published with a reply subject.

    Raises:
        JetStreamRefusedError: the message was not stored; says why.
    """
    document = _document(data, "a publish", who="JetStream")
    if "error" in document:
        raise _refusal("does not store the message", document)


class JetStream:
    """Raises, in every method: NoJetStreamError; BrokerError where the broker does not answer or refuses."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def ensure_stream(self, name: str, config: Mapping[str, Any]) -> None:
        """Make a stream, or change the one that is there to this configuration."""
        request = {"name": name, **config}
        try:
            await self._api(f"STREAM.CREATE.{name}", request)
        except JetStreamRefusedError as error:
            if error.code != _IN_USE:
                raise
            await self._api(f"STREAM.UPDATE.{name}", request)

    async def stream_state(self, name: str) -> dict[str, Any] | None:
        """`messages`, `bytes`, `first_seq`, `last_seq`, ...; None where there is no such stream."""
        try:
            return dict((await self._api(f"STREAM.INFO.{name}", {}))["state"])
        except JetStreamRefusedError as error:
            if error.code in _NOT_FOUND:
                return None
            raise

    async def next_message(self, stream: str, subject: str, sequence: int) -> tuple[int, bytes] | None:
        """The first message of the stream with this sequence number or a later one, and its number; None: there is
        none."""
        try:
            request = {"seq": sequence, "next_by_subj": subject}
            message = (await self._api(f"STREAM.MSG.GET.{stream}", request))["message"]
        except JetStreamRefusedError as error:
            if error.code == NO_MESSAGE:
                return None
            raise
        return int(message["seq"]), base64.b64decode(message.get("data", ""))

    async def ensure_consumer(self, stream: str, name: str, config: Mapping[str, Any]) -> None:
        """Make a durable consumer, or leave the one that is there as it is, with these settings."""
        request = {"stream_name": stream, "config": {"durable_name": name, **config}}
        await self._api(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", request)

    async def delete_consumer(self, stream: str, name: str) -> None:
        """What it has delivered and nobody has acknowledged is delivered again by the next one. Idempotent."""
        try:
            await self._api(f"CONSUMER.DELETE.{stream}.{name}", {})
        except JetStreamRefusedError as error:
            if error.code not in _NOT_FOUND:
                raise

    async def _api(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        if is_mqtt(self._broker.url):
            raise NoJetStreamError(
                f"{self._broker.url} stores nothing: MQTT cannot promise durable delivery; use a nats:// URL (MQTT "
                f"clients may still publish to it, see docs/mqtt.md)"
            )
        subject = f"$JS.API.{operation}"
        try:
            document = await ask(self._broker, subject, json.dumps(request).encode(), timeout_s=TIMEOUT_S)
        except NoRespondersError as error:
            raise NoJetStreamError(
                f"{self._broker.url} has no JetStream, or this account may not use it: start nats-server with -js"
            ) from error
        if "error" in document:
            raise _refusal(f"refuses {operation}", document, who=self._broker.url)
        return document


async def ask(
    broker: Broker, subject: str, data: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What JetStream answers, a JSON object; it has an `error` where it does not do what it was asked.

    Raises:
        NoRespondersError: there is no JetStream, or no such stream.
        BrokerError: no answer in time, or none that is understood.
    """
    answer = await broker.request(subject, data, timeout_s=timeout_s, headers=headers)
    return _document(answer.data, subject, who=broker.url)


def _document(data: Buffer, what: str, who: str) -> dict[str, Any]:
    try:
        document = json.loads(bytes(data))
    except ValueError as error:
        raise BrokerError(f"{who} answers {bytes(data)[:80]!r} to {what}") from error
    if not isinstance(document, dict):
        raise BrokerError(f"{who} answers {str(document)[:80]} to {what}")
    return document


def _refusal(what: str, document: dict[str, Any], who: str = "JetStream") -> JetStreamRefusedError:
    error = document["error"]
    return JetStreamRefusedError(f"{who} {what}: {error.get('description')}", int(error.get("err_code", 0)))
