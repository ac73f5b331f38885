"""Driver: changes that are planned, under a stream: a node leaves, a node joins, a new version of the model."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.recovery.cases import Case
from bench.recovery.cluster import FaultyCluster, Ready
from bench.recovery.faults import ANSWER_S, Row, repeat
from bench.recovery.figures import AROUND_S, HEALTHY_S, Answer, lateness_s
from bench.recovery.stream import Stream
from bench.recovery.versions import make_second, swapped
from stages.bundle import Bundle
from understudy.controller import both_brokers
from understudy.rollout import request_update

UPDATE_S = 60.0


@dataclass(slots=True, kw_only=True)
class Changes:
    """Lateness of the slowest frame of each change, in milliseconds, by kind; `nothing`: the same of a moment at which
    nothing was changed."""

    row: Row
    late_ms: dict[str, list[float]] = field(default_factory=dict)

    def add(self, kind: str, stream: Stream, at_s: float) -> None:
        answers = [answer for answer in stream.answers if not answer.error]
        self.late_ms.setdefault(kind, []).append(lateness_s(answers, at_s) * 1e3)


async def measure_changes(case: Case, *, times: int, rate_per_s: float, nodes: int = 4) -> Changes:
    """Each node in turn leaves (SIGTERM) and is started again."""
    found = Changes(row=Row(name="leave and join", techniques=()))

    async def do(cluster: FaultyCluster, stream: Stream, ready: Ready, number: int) -> None:
        await stream.run_for(HEALTHY_S + 2 * AROUND_S)
        found.add("nothing", stream, stream.answers[-1].done_s - AROUND_S)
        await _leave_and_join(cluster, stream, ready, list(ready.stages)[number % nodes], found)

    await repeat(case, found.row, range(times), do, nodes=nodes, rate_per_s=rate_per_s)
    return found


async def measure_updates(case: Case, *, times: int, rate_per_s: float, nodes: int = 4) -> Changes:
    """A second version of the model and the first one, in turn. Each answer is compared with what the version answers
    that the controller says is served from its epoch on."""
    found = Changes(row=Row(name="new version", techniques=()))
    second = make_second(case.subject.bundle, case.scratch)
    begun = [(0, False)]

    def own(answer: Answer) -> Sequence[float]:
        _, is_second = max(start for start in begun if start[0] <= answer.epoch)
        scores = case.scores[answer.image]
        return swapped(scores) if is_second else scores

    async def do(cluster: FaultyCluster, stream: Stream, ready: Ready, _: int) -> None:
        if ready.epoch < begun[-1][0]:  # a new cluster
            begun[:] = [(0, False)]
        await stream.run_for(HEALTHY_S + AROUND_S)
        since = len(stream.answers)
        is_second = not begun[-1][1]
        begun.append((await update(cluster, second if is_second else case.subject.bundle), is_second))
        first = await stream.newer(ready.epoch, timeout_s=ANSWER_S, since=since)
        await stream.run_for(AROUND_S)
        found.add("a new version", stream, first.done_s)

    await repeat(case, found.row, range(times), do, nodes=nodes, rate_per_s=rate_per_s, own=own)
    return found


async def update(cluster: FaultyCluster, bundle: Bundle) -> int:
    """What `understudy update` does. The epoch from which answers are the new version's."""
    async with both_brokers(*cluster.operator_urls, name="bench-update") as (data, control):
        return await request_update(data, control, cluster.pipeline, bundle, timeout_s=UPDATE_S)


async def _leave_and_join(cluster: FaultyCluster, stream: Stream, ready: Ready, victim: str, found: Changes) -> None:
    since = len(stream.answers)
    at_s = cluster.signal(victim, signal.SIGTERM)
    left = await stream.newer(ready.epoch, timeout_s=ANSWER_S, since=since)
    await stream.run_for(AROUND_S)
    # A change delays the frames around the moment from which answers follow it.
    found.add("a node leaves", stream, left.done_s if left.done_s > at_s + AROUND_S else at_s)
    since = len(stream.answers)
    await cluster.start_again(victim)
    joined = await stream.newer(left.epoch, timeout_s=ANSWER_S, since=since)
    await stream.run_for(AROUND_S)
    found.add("a node joins", stream, joined.done_s)
