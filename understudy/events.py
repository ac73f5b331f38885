"""What happened to a pipeline: the records of its controller's journal, asked for or followed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker import subjects
from broker.errors import BrokerError, NoRespondersError, RequestTimeoutError, UnderstudyError
from broker.port import Broker, Message

ASK_S = 2.0
"""How long the controller may take to answer."""

QUEUED = 1000
"""News that wait to be shown. Where more come, the oldest are dropped: the journal has them."""


class EventError(UnderstudyError):
    """The journal cannot be had, or what came is no record of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One record of the journal: a failure, or a change of the plan. `recovery.journal.Record` explains the fields.

    Times in milliseconds from `at` (seconds since 1970, by the controller's clock); None: not yet, or not known.
    """

    number: int
    kind: str
    cause: str
    stage: str
    at: float
    nodes: tuple[str, ...]
    technique: str
    exit: str | None
    violated: tuple[str, ...]
    silence_ms: float | None
    decided_ms: float | None
    routed_ms: float | None
    first_answer_ms: float | None
    healed_ms: float | None
    accuracy: float | None = None
    estimated_latency_ms: float | None = None
    estimated_downtime_ms: float | None = None
    latency_ms: float | None = None
    downtime_ms: float | None = None
    sent_again: int = 0
    degraded: int = 0


def parse_episode(document: Mapping[str, Any]) -> Episode:
    """Read a record's JSON values; fields that a newer controller has added are ignored.

    Raises:
        EventError: it is not one.
    """
    try:
        estimates, measured, frames = document["estimates"] or {}, document["measured"], document["frames"]
        return Episode(
            **{name: document[name] for name in _SAME},
            nodes=tuple(document["nodes"]),
            violated=tuple(document["violated"]),
            accuracy=estimates.get("accuracy"),
            estimated_latency_ms=estimates.get("latency_ms"),
            estimated_downtime_ms=estimates.get("downtime_ms"),
            latency_ms=measured["latency_ms"],
            downtime_ms=measured["downtime_ms"],
            sent_again=frames["sent_again"],
            degraded=frames["degraded"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise EventError(
            f"not a record of a journal: {str(document)[:80]} ({type(error).__name__}: {error})"
        ) from error


_SAME = (
    "number",
    "kind",
    "cause",
    "stage",
    "at",
    "technique",
    "exit",
    "silence_ms",
    "decided_ms",
    "routed_ms",
    "first_answer_ms",
    "healed_ms",
)


async def read_journal(broker: Broker, pipeline: str, *, timeout_s: float = ASK_S) -> Sequence[dict[str, Any]]:
    """The records that the controller keeps, the oldest first, as JSON values.

    Raises:
        EventError: the controller does not answer, or not with a journal.
    """
    try:
        answer = await broker.request(subjects.journal(pipeline), b"", timeout_s=timeout_s)
        records = json.loads(bytes(answer.data))["records"]
    except (NoRespondersError, RequestTimeoutError) as error:
        raise EventError(f"the controller of pipeline '{pipeline}' does not answer: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise EventError(f"what answered for the controller of '{pipeline}' is no journal: {error}") from error
    if not isinstance(records, list):
        raise EventError(f"what answered for the controller of '{pipeline}' is no journal")
    return records


@contextlib.asynccontextmanager
async def follow(broker: Broker, pipeline: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Within the `async with`: each change of a record from now on, as JSON values. What is no object is skipped."""
    news: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=QUEUED)

    async def note(message: Message) -> None:
        try:
            document = json.loads(bytes(message.data))
        except ValueError:
            return
        if isinstance(document, dict):
            if news.full():
                news.get_nowait()
            news.put_nowait(document)

    async def each() -> AsyncIterator[dict[str, Any]]:
        while True:
            yield await news.get()

    subscription = await broker.subscribe(subjects.events(pipeline), note)
    try:
        yield each()
    finally:
        with contextlib.suppress(BrokerError):
            await subscription.unsubscribe()
