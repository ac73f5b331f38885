"""A lease: of all who want it one has it, and loses it soon after it stops renewing it.

Kept in a JetStream key-value bucket, by its protocol over the broker port: a message per key, replaced only by who
knows its sequence number, gone after `TTL_S`. https://docs.nats.io/nats-concepts/jetstream/key-value-store
"""

from __future__ import annotations

import json
from typing import Any

from broker.errors import BrokerError, NoRespondersError, UnderstudyError
from broker.port import Broker
from broker.url import is_mqtt

BUCKET = "understudy_leases"
TTL_S = 2.0
"""Without renewal a lease ends after so long."""

RENEW_S = 0.5

_TIMEOUT_S = 1.0
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_WRONG_SEQUENCE = 10071


class NoLeaseError(UnderstudyError):
    """The broker keeps no leases: it has no JetStream, or this account may not use it."""


class Lease:
    """One lease of one owner. `try_acquire`, then `renew` every `RENEW_S`, at last `release`."""

    def __init__(self, broker: Broker, name: str, owner: str) -> None:
        self._broker = broker
        self._subject = f"$KV.{BUCKET}.{name}"
        self._owner = owner
        self._sequence = 0

    async def prepare(self) -> None:
        """Make the bucket if it is not there.

        Raises:
            NoLeaseError: the broker keeps no leases.
            BrokerError: it does not answer.
        """
        if is_mqtt(self._broker.url):
            raise NoLeaseError(f"{self._broker.url} keeps no leases: MQTT has none, and a second controller needs one")
        config = {
            "name": f"KV_{BUCKET}",
            "subjects": [f"$KV.{BUCKET}.>"],
            "max_msgs_per_subject": 1,
            "max_age": int(TTL_S * 1e9),
            "duplicate_window": int(TTL_S * 1e9),
            # In memory: a lease need not outlive the server, and renewing it must not wait for a disk.
            "storage": "memory",
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "discard": "new",
        }
        try:
            answer = await self._ask(f"$JS.API.STREAM.CREATE.KV_{BUCKET}", json.dumps(config).encode())
        except NoRespondersError as error:
            raise NoLeaseError(f"{self._broker.url} has no JetStream: start nats-server with -js") from error
        if "error" in answer:
            raise NoLeaseError(f"{self._broker.url} keeps no leases: {answer['error'].get('description')}")

    async def try_acquire(self) -> bool:
        """Whether the lease is ours now. Raises BrokerError where the broker does not answer."""
        return await self._put(0)

    async def renew(self) -> bool:
        """Whether it still is ours. Raises BrokerError where the broker does not answer: then nobody can say."""
        return await self._put(self._sequence)

    async def release(self) -> None:
        """Let the next one have it at once. Raises BrokerError."""
        # Only while it is ours: the renewal before tells.
        if self._sequence and await self.renew():
            await self._ask(f"$JS.API.STREAM.PURGE.KV_{BUCKET}", json.dumps({"filter": self._subject}).encode())
            self._sequence = 0

    async def _put(self, expected: int) -> bool:
        answer = await self._ask(self._subject, self._owner.encode(), {_EXPECTED: str(expected)})
        error = answer.get("error")
        if error is None:
            self._sequence = int(answer["seq"])
            return True
        if error.get("err_code") == _WRONG_SEQUENCE:
            self._sequence = 0
            return False
        raise BrokerError(f"{self._broker.url} does not keep the lease: {error.get('description')}")

    async def _ask(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> dict[str, Any]:
        answer = await self._broker.request(subject, data, timeout_s=_TIMEOUT_S, headers=headers)
        try:
            document = json.loads(bytes(answer.data))
        except ValueError as error:
            raise BrokerError(f"{self._broker.url} answers {bytes(answer.data)[:80]!r} to {subject}") from error
        if not isinstance(document, dict):
            raise BrokerError(f"{self._broker.url} answers {str(document)[:80]} to {subject}")
        return document
