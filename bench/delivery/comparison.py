"""The delivery modes beside the bare chains, measured round by round."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.harness import Summary, cores, cpu_of, difference, ratios, summarise
from bench.pipeline import CLIENT, SERVER, Streamed
from bench.subjects import Subject

BARE, TENSORS = "bare", "bare, tensors"
"""The chains: with the pipeline's edges (frames in, a JSON result for each out), and with tensors in and out."""

DELIVERIES: Mapping[str, Mapping[str, Any]] = {
    "at-least-once": {"mode": "at-least-once"},
    "durable": {"mode": "durable"},
    "ordered": {"mode": "at-least-once", "ordered": True},
}
"""By the name of the command line: `delivery:` of the pipeline."""

PROCESSES = (CLIENT, SERVER)
PLACES = ("client", "server", "head", "other nodes", "controller")

WANTED_SMALL, WANTED_LARGE = 0.9, 0.97
LARGE_BYTES = 300_000

NOW_AND_THEN_S = 0.25
"""Often enough for a pipeline to stay awake: its nodes send pulses as under load."""


def wanted(mode: str, frame_bytes: int) -> float | None:
    """The ratio that is wanted of a mode; None: it is reported only."""
    if mode != "at-least-once":
        return None
    return WANTED_LARGE if frame_bytes >= LARGE_BYTES else WANTED_SMALL


class Runs(Protocol):
    """What is measured: `bench.pipeline.Pipeline` or `bench.delivery.bare.Bare`."""

    @property
    def head(self) -> str:
        """The node that takes frames: of a bare chain its first stage."""

    @property
    def pids(self) -> Mapping[str, int]: ...
    @property
    def nodes(self) -> Mapping[str, int]: ...
    async def stream(self, seconds: float) -> Streamed: ...
    async def single(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class Side:
    """One of them, with a slice per round."""

    name: str
    runs: Runs
    streamed: list[Streamed] = field(default_factory=list)
    awake: dict[str, float] = field(default_factory=dict)
    """CPU seconds per second of every process with hardly any frames."""

    @property
    def rate(self) -> Summary:
        return summarise(streamed.frames_per_s for streamed in self.streamed)

    @property
    def wrong(self) -> int:
        return sum(streamed.wrong for streamed in self.streamed)

    @property
    def others(self) -> float:
        """Share of the cores that was busy with something else."""
        return summarise(streamed.others_s / (streamed.elapsed_s * cores()) for streamed in self.streamed).median

    @property
    def cpu_us(self) -> dict[str, float]:
        """CPU time of a frame by place."""
        by_role = {
            role: summarise(one.cpu_s[role] / one.frames for one in self.streamed).median * 1e6
            for role in self.runs.pids
        }
        return by_place(by_role, head=self.runs.head, nodes=tuple(self.runs.nodes))

    @property
    def awake_by_place(self) -> dict[str, float]:
        return by_place(self.awake, head=self.runs.head, nodes=tuple(self.runs.nodes))

    @property
    def net_cpu_s_per_frame(self) -> list[float]:
        """CPU time of a frame in each round, without what time costs: pulses and heartbeats come whether there are
        frames or not, and the controller sees none."""
        return [
            net_s(one.cpu_s, self.awake, elapsed_s=one.elapsed_s, handling=(*PROCESSES, *self.runs.nodes)) / one.frames
            for one in self.streamed
        ]


@dataclass(slots=True, kw_only=True)
class Comparison:
    """What was measured for one size of frames. `sides`: the modes, and the bare chains."""

    subject: Subject
    stages: int
    window: int
    batch: int
    sides: Sequence[Side]

    def side(self, name: str) -> Side:
        return next(side for side in self.sides if side.name == name)

    @property
    def modes(self) -> list[Side]:
        return [side for side in self.sides if side.name in DELIVERIES]

    def ratio(self, mode: str, bare: str = BARE) -> Summary:
        """Frames per second, relative to those of a bare chain in the same round."""
        ours, theirs = self.side(mode).streamed, self.side(bare).streamed
        return ratios([one.frames_per_s for one in ours], [one.frames_per_s for one in theirs])

    def cpu_ratio(self, mode: str, bare: str = BARE) -> Summary:
        """CPU time of a frame in a bare chain, relative to the mode's, of all processes together."""
        ours, theirs = self.side(mode).streamed, self.side(bare).streamed
        return ratios([one.cpu_s_per_frame for one in theirs], [one.cpu_s_per_frame for one in ours])

    def net_cpu_ratio(self, mode: str, bare: str = BARE) -> Summary:
        """The same without what time costs, in both."""
        return ratios(self.side(bare).net_cpu_s_per_frame, self.side(mode).net_cpu_s_per_frame)


def net_s(
    cpu_s: Mapping[str, float], awake: Mapping[str, float], *, elapsed_s: float, handling: Collection[str]
) -> float:
    """CPU seconds of the processes that handle frames, less what they use when there are hardly any."""
    return sum(value - awake.get(role, 0.0) * elapsed_s for role, value in cpu_s.items() if role in handling)


async def awake_cpu(runs: Runs, seconds: float) -> dict[str, float]:
    """CPU seconds per second of every process but this one while a frame comes now and then: what time costs."""
    before, started_s = cpu_of(runs.pids), time.perf_counter()
    while time.perf_counter() < started_s + seconds:
        await runs.single()
        await asyncio.sleep(NOW_AND_THEN_S)
    elapsed_s = time.perf_counter() - started_s
    used = difference(cpu_of(runs.pids), before)
    return {role: value / elapsed_s for role, value in used.items() if role != CLIENT}


def by_place(by_role: Mapping[str, float], *, head: str, nodes: Sequence[str]) -> dict[str, float]:
    """Sums of what the processes use, by where frames are."""
    places = {CLIENT: "client", SERVER: "server", head: "head"}
    sums = dict.fromkeys(PLACES, 0.0)
    for role, value in by_role.items():
        sums[places.get(role, "other nodes" if role in nodes else "controller")] += value
    return sums
