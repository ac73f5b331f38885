"""A JetStream key-value bucket by its wire protocol, over the broker port: of each key the newest value is kept.

A bucket is a stream with a subject per key, and a value is a message on it. Whoever subscribes to a key's subject hears
every value that is put from then on. https://docs.nats.io/nats-concepts/jetstream/key-value-store
"""

from __future__ import annotations

import base64
import json
from typing import Any, Literal

from broker.errors import BrokerError, NoRespondersError, UnderstudyError
from broker.port import Broker

TIMEOUT_S = 1.0
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_OPERATION = b"KV-Operation:"
_WRONG_SEQUENCE = 10071
_NO_MESSAGE = 10037


class NoBucketError(UnderstudyError):
    """The broker keeps no such bucket: it has no JetStream, or this account may not use it."""


class Bucket:
    """One bucket. `prepare` makes it; keys are letters, digits, `-` and `_`.

    Every method raises BrokerError where the broker does not answer within `TIMEOUT_S`, or refuses; `put` raises
    NoRespondersError where the bucket is not there (any more).
    """

    def __init__(
        self, broker: Broker, name: str, *, storage: Literal["memory", "file"], max_age_s: float | None = None
    ) -> None:
        """
        Args:
            storage: what is in `file` outlives the server's process.
            max_age_s: a value is gone after so long; None: it stays.
        """
        self._broker = broker
        self._name = name
        self._storage = storage
        self._max_age_s = max_age_s

    def subject(self, key: str) -> str:
        """Where the values of a key are published."""
        return f"$KV.{self._name}.{key}"

    async def prepare(self) -> None:
        """Make the bucket if it is not there.

        Raises:
            NoBucketError: the broker does not keep it.
            BrokerError: it does not answer.
        """
        config: dict[str, Any] = {
            "name": f"KV_{self._name}",
            "subjects": [self.subject(">")],
            "max_msgs_per_subject": 1,
            "storage": self._storage,
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "discard": "new",
        }
        if self._max_age_s is not None:
            config |= {"max_age": int(self._max_age_s * 1e9), "duplicate_window": int(self._max_age_s * 1e9)}
        try:
            answer = await self._api("STREAM.CREATE", config)
        except NoRespondersError as error:
            raise NoBucketError(f"{self._broker.url} has no JetStream: start nats-server with -js") from error
        if "error" in answer:
            raise NoBucketError(f"{self._broker.url} keeps no bucket '{self._name}': {_reason(answer)}")

    async def put(self, key: str, value: bytes, *, expected: int | None = None) -> int | None:
        """The value's sequence number; None, and nothing is put, where that of the newest value is not `expected` (0:
        there is no value)."""
        headers = None if expected is None else {_EXPECTED: str(expected)}
        answer = await self._ask(self.subject(key), value, headers)
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
        if answer["error"].get("err_code") == _NO_MESSAGE:
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
        return await self._ask(f"$JS.API.{operation}.KV_{self._name}", json.dumps(request).encode())

    async def _ask(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> dict[str, Any]:
        answer = await self._broker.request(subject, data, timeout_s=TIMEOUT_S, headers=headers)
        try:
            document = json.loads(bytes(answer.data))
        except ValueError as error:
            raise BrokerError(f"{self._broker.url} answers {bytes(answer.data)[:80]!r} to {subject}") from error
        if not isinstance(document, dict):
            raise BrokerError(f"{self._broker.url} answers {str(document)[:80]} to {subject}")
        return document


def _reason(answer: dict[str, Any]) -> str:
    return str(answer["error"].get("description"))
