"""Driver: the same stream without a failure: the rate that the pipeline can take, and what silence is normal."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import understudy
from bench.recovery.cases import Case
from bench.recovery.faults import Row, streaming
from bench.recovery.figures import Spread, longest_silence_s

SLICE_S = 1.0
NODES = 4
WINDOW = 2 * NODES


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthy:
    """Times in milliseconds.

    Attributes:
        most_per_s: frames per second with two under way for each stage: hardly any are batched.
        rate_per_s: of the streams.
        latency: of frames.
        silence: the longest in each second.
        next: from a random moment to the next answer: what `first answer` would be if failures had no effect.
    """

    most_per_s: float
    rate_per_s: float
    latency: Spread
    silence: Spread
    next: Spread
    row: Row


async def measure_healthy(case: Case, *, share: float, rate_per_s: float | None, seconds: float) -> Healthy:
    """`share`: of the largest rate; `rate_per_s`: given instead."""
    row = Row(name="nothing fails", techniques=())
    async with case.cluster(NODES) as cluster:
        row.ready = await cluster.ready()
        most = await _most(cluster.broker_url, cluster.pipeline, case, 2.0)
        rate = rate_per_s or share * most
        async with streaming(case, cluster, rate, row) as stream:
            began_s = time.perf_counter()
            await stream.run_for(seconds)
            ended_s = time.perf_counter()
    answers = [answer for answer in stream.answers if not answer.error and answer.sent_s >= began_s]
    done = sorted(answer.done_s for answer in answers)
    slices = [began_s + number * SLICE_S for number in range(int((ended_s - began_s) / SLICE_S))]
    moments = [began_s + place / 1000 * (ended_s - began_s - 1) for place in range(1000)]
    return Healthy(
        most_per_s=most,
        rate_per_s=rate,
        latency=Spread.of(answer.latency_s * 1e3 for answer in answers),
        silence=Spread.of(longest_silence_s(done, start, start + SLICE_S) * 1e3 for start in slices),
        next=Spread.of(_next_ms(done, moments)),
        row=row,
    )


def _next_ms(done: list[float], moments: list[float]) -> list[float]:
    found, place = [], 0
    for moment in moments:
        while place < len(done) and done[place] < moment:
            place += 1
        if place < len(done):
            found.append((done[place] - moment) * 1e3)
    return found


async def _most(url: str, pipeline: str, case: Case, seconds: float) -> float:
    """Frames per second with two frames per stage under way: the median of tenths of the time, after a warm-up."""
    end_s = time.perf_counter() + seconds

    def frames() -> Iterator[bytes]:
        while time.perf_counter() < end_s:
            yield from case.subject.frames[:64]

    done: list[float] = []
    async with understudy.connect(url, pipeline, window=WINDOW) as client:
        async for _ in client.stream(frames()):
            done.append(time.perf_counter())
    kept = [moment for moment in done if end_s - 0.8 * seconds < moment < end_s]
    step = 0.08 * seconds
    counts = [sum(kept[0] + n * step <= t < kept[0] + (n + 1) * step for t in kept) for n in range(10)]
    return statistics.median(counts) / step
