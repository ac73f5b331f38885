"""The systems side by side, measured round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

import numpy as np

from bench.asked import Asked
from bench.harness import Summary, agrees, cores, ratios, summarise
from bench.others.driver import close
from bench.others.systems import OURS_BROKEN, OURS_LACKS, SYSTEMS
from bench.others.work import Work
from bench.pipeline import Pipeline, Streamed
from bench.subjects import Subject
from understudy.result import Result

OURS, BATCHING = "understudy", "understudy-batching"
"""With one frame in an inference, as everybody else; and as it is served by default, where the model allows more."""


class Runs(Protocol):
    """A system that runs."""

    async def check(self) -> int:
        """Ask for every frame; how many answers differ from the whole network's in any score."""

    async def stream(self, seconds: float) -> Streamed:
        """With the window always full."""

    async def singles_us(self, seconds: float) -> list[float]:
        """From publishing a frame to having its answer, one at a time."""


class Ours:
    """The pipeline, with the benchmark's own process as its client."""

    def __init__(self, pipeline: Pipeline, work: Work) -> None:
        self._pipeline = pipeline
        self._work = work

    async def check(self) -> int:
        expected = self._work.scores.astype(np.float64)
        if self._work.spec.manifest.output.softmax:
            expected = np.exp(expected - expected.max(axis=1, keepdims=True))
            expected /= expected.sum(axis=1, keepdims=True)
        number = wrong = 0
        async for result in self._pipeline.client.stream(self._work.frames):
            wrong += not answers(result, expected[number].tolist())
            number += 1
        return wrong

    async def stream(self, seconds: float) -> Streamed:
        return await self._pipeline.stream(seconds)

    async def singles_us(self, seconds: float) -> list[float]:
        return (await self._pipeline.singles(seconds)).round_trip_us


class Theirs:
    """One of the others, driven by a process of its own (bench.others.driver)."""

    def __init__(self, driver: Asked) -> None:
        self._driver = driver

    async def check(self) -> int:
        answer: dict[str, int] = await self._driver.ask({"do": "check"})
        return answer["wrong"]

    async def stream(self, seconds: float) -> Streamed:
        return Streamed(**await self._driver.ask({"do": "stream", "seconds": seconds}))

    async def singles_us(self, seconds: float) -> list[float]:
        found: list[float] = await self._driver.ask({"do": "singles", "seconds": seconds})
        return found


@dataclass(slots=True, kw_only=True)
class Side:
    """One system. `streamed` and `single_us` (the median of a slice) have an entry per round.

    Attributes:
        window: frames under way.
        unequal: of all frames, asked before anything is measured: answers with a score that is not the whole network's.
    """

    name: str
    runs: Runs
    window: int
    unequal: int = 0
    streamed: list[Streamed] = field(default_factory=list)
    single_us: list[float] = field(default_factory=list)

    @property
    def title(self) -> str:
        return {OURS: "Understudy", BATCHING: "Understudy, batches"}.get(self.name) or SYSTEMS[self.name].title

    @property
    def rate(self) -> Summary:
        return summarise(one.frames_per_s for one in self.streamed)

    @property
    def cpu_us(self) -> Summary:
        """CPU time of a frame, of all processes together."""
        return summarise(one.cpu_s_per_frame * 1e6 for one in self.streamed)

    @property
    def latency_us(self) -> Summary:
        return summarise(self.single_us)

    @property
    def wrong(self) -> int:
        return self.unequal + sum(one.wrong for one in self.streamed)

    @property
    def others(self) -> float:
        """Share of the cores that was busy with something else."""
        return median(one.others_s / (one.elapsed_s * cores()) for one in self.streamed)

    async def check(self) -> None:
        self.unequal = await self.runs.check()

    async def round(self, stream_s: float, singles_s: float) -> None:
        self.streamed.append(await self.runs.stream(stream_s))
        self.single_us.append(median(await self.runs.singles_us(singles_s)))


@dataclass(slots=True, kw_only=True)
class Comparison:
    """What was measured on one subject."""

    subject: Subject
    work: Work
    batch: int
    sides: Sequence[Side]

    @property
    def ours(self) -> Side:
        return next(side for side in self.sides if side.name == OURS)

    @property
    def others(self) -> list[Side]:
        return [side for side in self.sides if side is not self.ours]

    def rate(self, side: Side) -> Summary:
        """Frames per second, relative to ours in the same round: above 1 it is faster."""
        theirs, ours = side.streamed, self.ours.streamed
        return ratios([one.frames_per_s for one in theirs], [one.frames_per_s for one in ours])

    def cpu(self, side: Side) -> Summary:
        """CPU time of a frame, relative to ours: below 1 it works less."""
        theirs, ours = side.streamed, self.ours.streamed
        return ratios([one.cpu_s_per_frame for one in theirs], [one.cpu_s_per_frame for one in ours])

    def latency(self, side: Side) -> Summary:
        """Of one frame at a time, relative to ours: below 1 it is quicker."""
        return ratios(side.single_us, self.ours.single_us)


def answers(result: Result, expected: Sequence[float]) -> bool:
    """Whether class and scores of a result are those of the whole network, but for rounding."""
    top: Any = [score.class_index for score in result.scores]
    scores = np.array([score.score for score in result.scores])
    wanted = np.array([expected[index] for index in top])
    return agrees(result.class_index, expected) and result.technique == "none" and close(scores, wanted)


def promises(name: str) -> tuple[str, str]:
    """What becomes of frames when a stage ends, and what the system does not promise."""
    if name in (OURS, BATCHING):
        return OURS_BROKEN, OURS_LACKS
    return SYSTEMS[name].broken, SYSTEMS[name].lacks
