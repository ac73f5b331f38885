"""A lease: of all who want it one has it, and loses it soon after it stops renewing it.

A value of a key-value bucket (`broker.kv`): replaced only by who knows its sequence number, gone after `TTL_S`.
"""

from __future__ import annotations

from broker.errors import UnderstudyError
from broker.kv import Bucket, NoBucketError, rights
from broker.port import Broker

BUCKET = "understudy_leases"
TTL_S = 2.0
"""Without renewal a lease ends after so long."""

RENEW_S = 0.5

_NO_SUCH_SEQUENCE = 1 << 53


def subjects_of(name: str) -> tuple[str, ...]:
    """What the owners of the lease of that name publish to."""
    return rights(BUCKET, name)


class NoLeaseError(UnderstudyError):
    """The broker keeps no leases: it has no JetStream, or this account may not use it."""


class Lease:
    """One lease of one owner. `try_acquire`, then `renew` every `RENEW_S`, at last `release`."""

    def __init__(self, broker: Broker, name: str, owner: str) -> None:
        # In memory: a lease need not outlive the server, and renewing it must not wait for a disk. On three servers it
        # outlives any one of them; where there are fewer, one keeps it. (Measured, three servers, the one that leads
        # killed: on three it is back after an election of 5 to 7 s, on one when that server is.)
        self._bucket = Bucket(broker, BUCKET, storage="memory", max_age_s=TTL_S, replicas=3)
        self._name = name
        self._owner = owner
        self._sequence = 0

    async def prepare(self) -> None:
        """Make the bucket if it is not there.

        Raises:
            NoLeaseError: the broker keeps no leases.
            BrokerError: it does not answer.
        """
        try:
            await self._bucket.prepare()
        except NoBucketError as error:
            raise NoLeaseError(str(error)) from error

    async def check(self) -> None:
        """Whether it can be asked for. Raises BrokerError where the broker does not answer."""
        await self._bucket.put(self._name, b"", expected=_NO_SUCH_SEQUENCE)

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
            await self._bucket.remove(self._name)
            self._sequence = 0

    async def _put(self, expected: int) -> bool:
        sequence = await self._bucket.put(self._name, self._owner.encode(), expected=expected)
        self._sequence = sequence or 0
        return sequence is not None
