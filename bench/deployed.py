"""One plan on one emulated cluster, measured: frames/s at full rate, the latency of a frame that is alone, and what the
plan promises of both. Used by `bench.scaling` and `bench.placement`; bench/METHODOLOGY.md says how it measures.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.harness import Summary, percentile, summarise
from planner.plan import Plan, Stage
from planner.solve import price
from understudy.emulation.links import PAYLOAD_SHARE
from understudy.emulation.preparation import Wishes, choose_window
from understudy.emulation.rehearsal import emulated
from understudy.emulation.report import Outcome
from understudy.emulation.run import Run

SLICES = 5
WARM_UP_S = 1.0
CPU_BOUND = 0.85
UNSTEADY = 0.05
"""A spread above this is reason to measure again."""

LEAST_FRAMES = 15
"""In a slice of time at full rate, so that one frame more or less is a few percent."""

MOST_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long one deployment is streamed through.

    Attributes:
        seconds, most_s: at full rate: as long as `LEAST_FRAMES` take by the plan, within these bounds.
        again: so often once more, where the rate is unsteady.
        alone_frames: one at a time, before that; the first one does not count.
    """

    seconds: float = 20.0
    most_s: float = MOST_S
    again: int = 1
    alone_frames: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of one deployment. Times of one frame end in `_ms`.

    Attributes:
        stages: as the controller says that it has deployed them.
        bottleneck: the plan's longest step, in words.
        planned_per_s, planned_ms: what the planner says of these stages.
        link_limit_per_s: the bottleneck link's rate over the bytes of a frame that cross it; None where a stage's
            computing, not a link, is the longest step.
        rates: frames/s of each slice of time.
        alone_ms: latencies of frames that were alone in the pipeline.
        loaded_ms: at full rate: with the wait in queues, which the window decides.
        cpu_busy: share of the machine's cores at full rate; None: not known.
        bad: how many frames were answered wrong, twice, by an error, or not at all.
        again: how often the stream was repeated, since the rate was unsteady.
    """

    stages: tuple[Stage, ...]
    bottleneck: str
    planned_per_s: float
    planned_ms: float
    link_limit_per_s: float | None
    rates: tuple[float, ...]
    alone_ms: tuple[float, ...]
    loaded_ms: tuple[float, ...]
    cpu_busy: float | None
    frames: int
    bad: Mapping[str, int]
    window: int
    ready_s: float
    again: int

    @property
    def frames_per_s(self) -> float:
        """All answers by all the time they took. Slices have equally many answers, so it is their harmonic mean; of
        slices that are unlike, a median would count a burst after a silence and not the silence."""
        return statistics.harmonic_mean(self.rates)

    @property
    def slices(self) -> Summary:
        """frames/s of the slices of time: their quartiles are the spread."""
        return summarise(self.rates)

    @property
    def faults(self) -> int:
        return sum(self.bad.values())

    @property
    def of_plan(self) -> float:
        """Measured / planned frames per second."""
        return self.frames_per_s / self.planned_per_s

    @property
    def of_link(self) -> float | None:
        """Measured frames per second / what the bottleneck link could carry if frames had no headers."""
        return None if self.link_limit_per_s is None else self.frames_per_s / self.link_limit_per_s

    @property
    def cpu_bound(self) -> bool:
        """The cores were so busy that they, and not the emulated cluster, may have decided."""
        return self.cpu_busy is not None and self.cpu_busy > CPU_BOUND

    @property
    def error_bars(self) -> tuple[float, float]:
        """From frames_per_s down to the first quartile of the slices, and up to the third."""
        return max(0.0, self.frames_per_s - self.slices.q1), max(0.0, self.slices.q3 - self.frames_per_s)

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "stages": [f"{stage.node}: {stage.first_block}-{stage.end_block - 1}" for stage in self.stages],
            "bottleneck": self.bottleneck,
            "planned_frames_per_s": self.planned_per_s,
            "link_limit_frames_per_s": self.link_limit_per_s,
            "frames_per_s": self.frames_per_s,
            "slices": self.slices,
            "slices_frames_per_s": list(self.rates),
            "of_plan": self.of_plan,
            "of_link": self.of_link,
            "planned_latency_ms": self.planned_ms,
            "latency_alone_ms": _latency(self.alone_ms),
            "latency_at_full_rate_ms": _latency(self.loaded_ms),
            "cpu_busy": self.cpu_busy,
            "cpu_bound": self.cpu_bound,
            "frames": self.frames,
            "faults": dict(self.bad),
            "window": self.window,
            "ready_s": self.ready_s,
            "streamed_again": self.again,
        }


def _latency(values: Sequence[float]) -> dict[str, float | None]:
    shares = {"median": 0.5, "p95": 0.95}
    return {name: percentile(values, share) if values else None for name, share in shares.items()}


class NotMeasuredError(Exception):
    """A deployment does not say how fast a plan is."""


class ChangedError(NotMeasuredError):
    """What was measured is not one plan: a node was taken for lost, and the controller has planned anew."""


async def deploy(wishes: Wishes, effort: Effort, say: Callable[[str], None]) -> tuple[Measured, Run]:
    """Start the cluster, stream, measure, and remove it; once more where the stages did not stay as they were. The run
    says what was prepared; it is over.

    Raises:
        EmulationError: there is no engine, nothing fits, or the cluster does not come up.
        NotMeasuredError: too few answers came, or the stages changed again.
    """
    try:
        return await _deploy(wishes, effort, say)
    except ChangedError as error:
        say(f"{error}: once more ...")
        return await _deploy(wishes, effort, say)


async def _deploy(wishes: Wishes, effort: Effort, say: Callable[[str], None]) -> tuple[Measured, Run]:
    async with emulated(wishes, lambda _: None) as run:
        epoch, stages = await run.served()
        if wishes.plan and stages != wishes.plan:
            raise ChangedError("the controller serves with other stages than those that it was given")
        plan = price(run.prepared.chain, run.prepared.seen, stages)
        alone = await run.stream(0.0, 1, frames=effort.alone_frames)
        window, seconds = choose_window(plan), stream_s(plan, effort)
        streams = [await run.stream(seconds, window)]
        while len(streams) <= effort.again and summarise(_all_rates(streams)).spread > UNSTEADY:
            say("the rate is unsteady: streaming again ...")
            streams.append(await run.stream(seconds, window))
        if (await run.served())[0] != epoch:
            raise ChangedError("the controller has changed the route while frames were streamed")
    return measured(plan, alone, streams, ready_s=run.outcome.ready_s), run


def stream_s(plan: Plan, effort: Effort) -> float:
    """So long that slices have enough frames, within bounds; the time in which the pipeline fills comes on top."""
    wanted = max(effort.seconds, LEAST_FRAMES * plan.bottleneck_s)
    return min(effort.most_s, wanted) + min(effort.most_s, plan.latency_s) + WARM_UP_S


def measured(plan: Plan, alone: Outcome, streams: Sequence[Outcome], *, ready_s: float) -> Measured:
    """Pure: what the streams say, beside what the plan does."""
    every = [alone, *streams]
    busy = [stream.cpu_busy for stream in streams if stream.cpu_busy is not None]
    return Measured(
        stages=plan.stages,
        bottleneck=describe_bottleneck(plan),
        planned_per_s=1 / plan.bottleneck_s if plan.bottleneck_s else math.inf,
        planned_ms=plan.latency_s * 1e3,
        link_limit_per_s=link_limit(plan),
        rates=tuple(_all_rates(streams)),
        # The first one finds cold caches and small windows of TCP.
        alone_ms=tuple(_latencies_ms(alone)[1:]),
        loaded_ms=tuple(ms for stream in streams for ms in _latencies_ms(stream)),
        cpu_busy=max(busy, default=None),
        frames=sum(len(outcome.answers) for outcome in every),
        bad={
            "wrong": sum(outcome.wrong for outcome in every),
            "lost": sum(outcome.lost for outcome in every),
            "twice": sum(outcome.twice for outcome in every),
            "errors": sum(outcome.errors.total() for outcome in every),
        },
        window=streams[0].window,
        ready_s=ready_s,
        again=len(streams) - 1,
    )


def describe_bottleneck(plan: Plan) -> str:
    step = max(plan.steps, key=lambda step: step.busy_s)
    if step.kind == "compute":
        return f"{step.node} computes"
    return f"{step.node} -> {step.to}, {step.size_bytes / 1e3:.0f} kB"


def link_limit(plan: Plan) -> float | None:
    """Frames/s if the link at the bottleneck carried nothing but them; None where it is no link. The planner knows what
    TCP carries, `PAYLOAD_SHARE` of the rate."""
    step = max(plan.steps, key=lambda step: step.busy_s)
    return 1 / (step.busy_s * PAYLOAD_SHARE) if step.kind == "transfer" and step.busy_s > 0 else None


def _all_rates(streams: Sequence[Outcome]) -> list[float]:
    return [rate for stream in streams for rate in slice_rates(arrivals(stream))]


def arrivals(stream: Outcome) -> list[float]:
    """When answers came while the pipeline was full: not in the first second after the first answer, and not after the
    last frame was published."""
    times = [answer.at_s for answer in stream.answers]
    return [at_s for at_s in times if at_s >= times[0] + WARM_UP_S and at_s <= stream.streamed_s]


def slice_rates(times: Sequence[float], slices: int = SLICES) -> list[float]:
    """frames/s of runs of equally many answers one behind the other: each from the last answer of the one before."""
    if len(times) < 2:
        raise NotMeasuredError("too few answers came while frames were streamed: stream for longer")
    slices = min(slices, len(times) - 1)
    ends = [round(number * (len(times) - 1) / slices) for number in range(slices + 1)]
    pairs = [(first, last) for first, last in itertools.pairwise(ends) if times[last] > times[first]]
    return [(last - first) / (times[last] - times[first]) for first, last in pairs]


def _latencies_ms(stream: Outcome) -> list[float]:
    return [(answer.at_s - answer.sent_s) * 1e3 for answer in stream.answers]
