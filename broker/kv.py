"""A JetStream key-value bucket by its wire protocol, over the broker port: of each key the newest value is kept.

A bucket is a stream with a subject per key, and a value is a message on it. Whoever subscribes to a key's subject hears
every value that is put from then on. https://docs.nats.io/nats-concepts/jetstream/key-value-store
"""

from __future__ import annotations

import base64
import json
from typing import Any, Literal

from broker.errors import BrokerError, NoRespondersError, UnderstudyError
from broker.jetstream import NO_MESSAGE, ask
from broker.port import Broker
from broker.url import is_mqtt

TIMEOUT_S = 1.0
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_OPERATION = b"KV-Operation:"
_WRONG_SEQUENCE = 10071
_UNAVAILABLE = 503
_OFF = frozenset({10039, 10076})
"""JetStream is not enabled for the account, or not at all."""

_FEWER_REPLICAS = frozenset({10005, 10058, 10074})
"""No suitable peers; there already with another number; not in a cluster."""


def subject(bucket: str, key: str) -> str:
    """Where the values of a key are published."""
    return f"$KV.{bucket}.{key}"


def rights(bucket: str, key: str) -> tuple[str, ...]:
    """What is published to by who uses a key of the bucket."""
    operations = ("STREAM.CREATE", "STREAM.PURGE", "STREAM.MSG.GET")
    return (*(f"$JS.API.{operation}.KV_{bucket}" for operation in operations), subject(bucket, key))


class NoBucketError(UnderstudyError):
    """The broker keeps no such bucket: it has no JetStream, or this account may not use it."""


class Bucket:
    """One bucket. `prepare` makes it; keys are letters, digits, `-` and `_`.

    Every method raises BrokerError where the broker does not answer within `TIMEOUT_S`, or refuses; `put` raises
    NoRespondersError where the bucket is not there (any more).
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        *,
        storage: Literal["memory", "file"],
        max_age_s: float | None = None,
        replicas: int = 1,
    ) -> None:
        """
        Args:
            storage: what is in `file` outlives the server's process.
            max_age_s: a value is gone after so long; None: it stays.
            replicas: servers that keep it, where there are so many; else one.
        """
        self._replicas = replicas
        self._broker = broker
        self._name = name
        self._storage = storage
        self._max_age_s = max_age_s

    def subject(self, key: str) -> str:
        """Where the values of a key are published."""
        return subject(self._name, key)

    async def prepare(self) -> None:
        """Make the bucket if it is not there.

        Raises:
            NoBucketError: the broker does not keep it.
            BrokerError: it does not answer, or has nobody to keep it at the moment.
        """
        if is_mqtt(self._broker.url):
            raise NoBucketError(f"{self._broker.url} keeps nothing: MQTT has no JetStream, and a lease needs it")
        if self._replicas == 1 or not await self._make(self._replicas):
            await self._make(1)

    async def _make(self, replicas: int) -> bool:
        """False: not on so many servers."""
        config: dict[str, Any] = {
            "name": f"KV_{self._name}",
            "subjects": [self.subject(">")],
            "max_msgs_per_subject": 1,
            "storage": self._storage,
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "discard": "new",
            "num_replicas": replicas,
        }
        if self._max_age_s is not None:
            config |= {"max_age": int(self._max_age_s * 1e9), "duplicate_window": int(self._max_age_s * 1e9)}
        try:
            answer = await self._api("STREAM.CREATE", config)
        except NoRespondersError as error:
            raise NoBucketError(f"{self._broker.url} has no JetStream: start nats-server with -js") from error
        refused = answer.get("error")
        if refused is None or (replicas > 1 and refused.get("err_code") in _FEWER_REPLICAS):
            return refused is None
        why = f"{self._broker.url} keeps no bucket '{self._name}': {_reason(answer)}"
        # 503 is also what is said where there is no leader at the moment.
        for_now = refused.get("code") == _UNAVAILABLE and refused.get("err_code") not in _OFF
        raise BrokerError(why) if for_now else NoBucketError(why)

    async def put(self, key: str, value: bytes, *, expected: int | None = None) -> int | None:
        """The value's sequence number; None, and nothing is put, where that of the newest value is not `expected` (0:
        there is no value)."""
        headers = None if expected is None else {_EXPECTED: str(expected)}
        answer = await ask(self._broker, self.subject(key), value, timeout_s=TIMEOUT_S, headers=headers)
        if "error" not in answer:
            return int(answer["seq"])
        if answer["error"].get("err_code") == _WRONG_SEQUENCE:
            return None
        raise self._refused("put", key, answer)

    async def get(self, key: str) -> bytes | None:
        """The newest value; None where there is none."""
        answer = await self._api("STREAM.MSG.GET", {"last_by_subj": self.subject(key)})
        if "error" not in answer:
            message = answer["message"]
            # Other clients of JetStream delete a key by a message that says so.
            deleted = _OPERATION in base64.b64decode(message.get("hdrs", ""))
            return None if deleted else base64.b64decode(message.get("data", ""))
        if answer["error"].get("err_code") == NO_MESSAGE:
            return None
        raise self._refused("get", key, answer)

    async def remove(self, key: str) -> None:
        """There is no value of the key any more; who listens to its subject hears nothing of that."""
        answer = await self._api("STREAM.PURGE", {"filter": self.subject(key)})
        if "error" in answer:
            raise self._refused("remove", key, answer)

    def _refused(self, what: str, key: str, answer: dict[str, Any]) -> BrokerError:
        return BrokerError(f"{self._broker.url} refuses to {what} {self.subject(key)}: {_reason(answer)}")

    async def _api(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        subject = f"$JS.API.{operation}.KV_{self._name}"
        return await ask(self._broker, subject, json.dumps(request).encode(), timeout_s=TIMEOUT_S)


def _reason(answer: dict[str, Any]) -> str:
    return str(answer["error"].get("description"))
