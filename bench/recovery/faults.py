"""Driver: nodes are killed and stopped, one after the other, under a stream."""

from __future__ import annotations

import random
import signal
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

from bench.recovery.cases import Case, Scores
from bench.recovery.cluster import FaultyCluster, NotReadyError, Ready
from bench.recovery.figures import Answer, Tally, longest_silence_s
from bench.recovery.load import Load, LoadMeter
from bench.recovery.stream import Stream, StreamError

CALM_S = (0.3, 0.8)
"""Between the healthy state and the failure: random, so that failures fall anywhere in the rhythm of signs of life."""

ANSWER_S = 20.0
"""No answer for so long ends the run."""

AFTER_S = 0.3
"""How long the stream goes on after the heal before anything else is done."""

EARLY_S = 0.05
"""So long a bridge lasts, about; then the cluster is healed."""

SLOW_MS = 2000.0
"""The logs of a heal that takes longer are kept."""

Technique = str
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One failure. Times in milliseconds from just before the signal.

    Attributes:
        victims: their names; roles: blocks, and whether the head was there.
        technique: of the first answer.
        first_ms, full_ms: to the first answer of a newer epoch, and to the first of those that has technique `none`.
        silence_ms: the longest time without any answer, from the signal to full accuracy.
        bridge_ms: median latency of answers over the bridge, without frames that waited; where there is no bridge, of
            those within `EARLY_S` of the first answer; None: there is none.
        bridged: answers over the bridge.
        hops: (node, cut) of such an answer.
        record: what the controller's journal says of the failure.
        logs: where the processes' logs are kept, of a heal that took longer than `SLOW_MS`.
    """

    victims: tuple[str, ...]
    roles: tuple[str, ...]
    technique: Technique
    first_ms: float
    full_ms: float
    silence_ms: float
    bridge_ms: float | None
    bridged: int
    hops: tuple[tuple[str, int], ...]
    record: Mapping[str, Any]
    logs: str = ""

    @property
    def decided_ms(self) -> float | None:
        return self.record.get("decided_ms")


@dataclass(slots=True, kw_only=True)
class Row:
    """Failures of one kind.

    Attributes:
        name: for the table.
        techniques: those that recovery was allowed; empty: all.
        heal_after_ms: how long bridges were kept.
        ready: the healthy state, and what stood by.
        stuck: how often the pipeline did not become healthy again, or did not answer: why.
    """

    name: str
    techniques: tuple[Technique, ...]
    heal_after_ms: int = 0
    faults: list[Fault] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    late_ms: float = 0.0
    load: Load | None = None
    ready: Ready | None = None
    healthy_ms: float = 0.0


@asynccontextmanager
async def streaming(
    case: Case, cluster: FaultyCluster, rate_per_s: float, row: Row, own: Scores | None = None
) -> AsyncIterator[Stream]:
    """A stream beside which failures happen; what became of its frames is added to the row at the end (`own`: see
    `Case.check`)."""
    meter = LoadMeter(lambda: [child.process.pid for child in cluster.children.values()])
    stream = case.stream(cluster, rate_per_s=rate_per_s)
    try:
        async with stream:
            await stream.run_for(0.5)
            row.healthy_ms = statistics.median(answer.latency_s for answer in stream.answers) * 1e3
            yield stream
    finally:
        row.load, row.late_ms = meter.read(), stream.late_ms
        found = case.check(stream, own, ready=row.ready)
        row.tally.add(found)
        if found.faults:
            row.tally.notes.append(f"logs: {cluster.keep_logs(await cluster.status())}")


async def repeat(
    case: Case,
    row: Row,
    items: Sequence[Item],
    do: Callable[[FaultyCluster, Stream, Ready, Item], Awaitable[None]],
    *,
    nodes: int,
    rate_per_s: float,
    own: Scores | None = None,
) -> None:
    """Do it with each of the items in turn, under a stream, each time from the healthy state. Where the pipeline does
    not get there, or does not answer, that is noted, and the rest is done on a new cluster."""
    left = iter(items)
    while (first := next(left, None)) is not None:
        techniques = row.techniques or None
        async with case.cluster(nodes, techniques=techniques, heal_after_ms=row.heal_after_ms) as cluster:
            try:
                row.ready = await cluster.ready()
                async with streaming(case, cluster, rate_per_s, row, own) as stream:
                    for item in chain([first], left):
                        await do(cluster, stream, await cluster.ready(), item)
            except (NotReadyError, StreamError) as error:
                row.stuck.append(str(error))


async def measure_row(
    case: Case,
    name: str,
    *,
    kills: int,
    rate_per_s: float,
    nodes: int = 4,
    techniques: tuple[Technique, ...] = (),
    hang: bool = False,
    seed: int = 0,
    heal_after_ms: int = 0,
) -> Row:
    """So many failures of single nodes, each from the same healthy state; the victim rotates over all nodes."""
    chance = random.Random(seed)
    row = Row(name=name, techniques=techniques, heal_after_ms=heal_after_ms)

    async def do(cluster: FaultyCluster, stream: Stream, ready: Ready, place: int) -> None:
        victim = list(ready.stages)[place % nodes]
        await stream.run_for(chance.uniform(*CALM_S))
        row.faults.append(await fail(cluster, stream, ready, [victim], hang=hang))
        await restore(cluster, stream, [victim], hang=hang)

    await repeat(case, row, range(kills), do, nodes=nodes, rate_per_s=rate_per_s)
    return row


async def fail(
    cluster: FaultyCluster, stream: Stream, ready: Ready, victims: Sequence[str], *, hang: bool = False
) -> Fault:
    """Do it, and wait until answers are fully accurate again."""
    epoch, since = ready.epoch, len(stream.answers)
    send = signal.SIGSTOP if hang else signal.SIGKILL
    began_s = min(cluster.signal(victim, send) for victim in victims)
    first = await stream.newer(epoch, timeout_s=ANSWER_S, since=since)
    full = await stream.wait(lambda a: a.epoch > epoch and a.technique == "none", timeout_s=ANSWER_S, since=since)
    await stream.run_for(AFTER_S)
    document = await cluster.status()
    # Of frames that were sent after the first answer: those before it have waited.
    bridged = [a for a in stream.answers[since:] if a.epoch > epoch and a.technique not in ("none", "")]
    early = [a for a in stream.answers[since:] if a.epoch > epoch and a.done_s < first.done_s + EARLY_S]
    settled = [a.latency_s for a in bridged or early if a.sent_s > first.done_s and not a.error]
    return Fault(
        victims=tuple(victims),
        roles=tuple(ready.role(victim) for victim in victims),
        technique=first.technique,
        first_ms=(first.done_s - began_s) * 1e3,
        full_ms=(full.done_s - began_s) * 1e3,
        silence_ms=longest_silence_s([a.done_s for a in _answered(stream, since)], began_s, full.done_s) * 1e3,
        bridge_ms=statistics.median(settled) * 1e3 if settled else None,
        bridged=len(bridged),
        hops=bridged[-1].hops if bridged else (),
        record={} if document is None else cluster.record_of(document, victims),
        logs=str(cluster.keep_logs(document)) if (full.done_s - began_s) * 1e3 > SLOW_MS else "",
    )


async def restore(cluster: FaultyCluster, stream: Stream, victims: Sequence[str], *, hang: bool = False) -> None:
    """Start them again. A node that was stopped wakes up first: what it still holds must harm nothing."""
    for victim in victims:
        if hang:
            cluster.signal(victim, signal.SIGCONT)
            await stream.run_for(AFTER_S)
            cluster.kill(victim)
        await cluster.start_again(victim)


def _answered(stream: Stream, since: int) -> Iterator[Answer]:
    return (answer for answer in stream.answers[max(0, since - 1) :] if not answer.error)
