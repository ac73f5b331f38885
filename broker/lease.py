"""A lease: of all who want it one has it, and loses it soon after it stops renewing it.

Kept in a JetStream key-value bucket, by its protocol over the broker port: a message per key, replaced only by who
knows its sequence number, gone after `TTL_S`. https://docs.nats.io/nats-concepts/jetstream/key-value-store
"""

from __future__ import annotations

import json
from typing import Any

from broker.errors import BrokerError, NoRespondersError, UnderstudyError
from broker.port import Broker

BUCKET = "understudy_leases"
TTL_S = 2.0
"""Without renewal a lease ends after so long."""

RENEW_S = 0.5

_TIMEOUT_S = 1.0
_CREATE = f"$JS.API.STREAM.CREATE.KV_{BUCKET}"
_PURGE = f"$JS.API.STREAM.PURGE.KV_{BUCKET}"
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_WRONG_SEQUENCE = 10071
_NO_SUCH_SEQUENCE = 1 << 53
_UNAVAILABLE = 503
_OFF = frozenset({10039, 10076})  # JetStream is not enabled for the account, or not at all
_FEWER_REPLICAS = frozenset({10005, 10058, 10074})
"""No suitable peers; there already with another number; not in a cluster."""


def subjects_of(name: str) -> tuple[str, ...]:
    """What the owners of the lease of that name publish to."""
    return (_CREATE, _PURGE, _subject(name))


class NoLeaseError(UnderstudyError):
    """The broker keeps no leases: it has no JetStream, or this account may not use it."""


class Lease:
    """One lease of one owner. `try_acquire`, then `renew` every `RENEW_S`, at last `release`."""

    def __init__(self, broker: Broker, name: str, owner: str) -> None:
        self._broker = broker
        self._subject = _subject(name)
        self._owner = owner
        self._sequence = 0

    async def prepare(self) -> None:
        """Make the bucket if it is not there.

        Raises:
            NoLeaseError: the broker keeps no leases.
            BrokerError: it does not answer.
        """
        # On three servers the lease outlives any one of them; where there are fewer, one keeps it.
        if not await self._make(replicas=3):
            await self._make(replicas=1)

    async def _make(self, replicas: int) -> bool:
        """False: not on so many servers. (Measured, three servers, the one that leads killed: on three it is back after
        an election of 5 to 7 s, on one when that server is.)"""
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
            "num_replicas": replicas,
        }
        try:
            answer = await self._ask(_CREATE, json.dumps(config).encode())
        except NoRespondersError as error:
            raise NoLeaseError(f"{self._broker.url} has no JetStream: start nats-server with -js") from error
        refused = answer.get("error")
        if refused is None or (replicas > 1 and refused.get("err_code") in _FEWER_REPLICAS):
            return refused is None
        why = f"{self._broker.url} keeps no leases: {refused.get('description')}"
        # 503 is also what is said where there is no leader at the moment.
        for_now = refused.get("code") == _UNAVAILABLE and refused.get("err_code") not in _OFF
        raise BrokerError(why) if for_now else NoLeaseError(why)

    async def check(self) -> None:
        """Whether it can be asked for. Raises BrokerError where the broker does not answer."""
        await self._put(_NO_SUCH_SEQUENCE)

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
            await self._ask(_PURGE, json.dumps({"filter": self._subject}).encode())
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


def _subject(name: str) -> str:
    return f"$KV.{BUCKET}.{name}"
