"""Memory, threads, open files and tasks of processes over time, and whether they grow without end (Linux)."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness import rss_bytes

WARM_S = 20.0
"""Of each process's life: it loads, fills its caches and pools. Not judged."""

LEAST_TOLD = 15
LEAST_S = 20.0
"""A process is judged by what it did for at least so long after it was warm."""

MOST_MB = 10.0
MOST_FILES = 5.0
MOST_TASKS = 25.0
"""More than that, while it is watched, is a leak. A bound on the growth and not on its rate: in a minute pools
fill, and a rate is mostly noise; in an hour the same bound finds 0.2 MB per minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One process at one moment (`time.monotonic`); `age_s` since it was seen first, `tasks` where it has told."""

    name: str
    pid: int
    at_s: float
    age_s: float
    rss_bytes: int
    threads: int
    files: int
    tasks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Of one process, once it is warm: slopes of least-squares lines, through all that was seen or through its later
    half, whichever rises less. A leak goes on; what a controller needs more when it begins to serve comes once.

    Attributes:
        seconds: that it was watched, warm.
        told_s: for how long it told of its tasks meanwhile: one that stands by does not.
        first_bytes, last_bytes: memory when it was warm, and in the end: medians of a tenth of the samples.
    """

    name: str
    pid: int
    seconds: float
    first_bytes: float
    last_bytes: float
    mb_per_min: float
    files_per_min: float
    threads_per_min: float
    tasks_per_min: float
    told_s: float

    def flat(self, most_mb: float = MOST_MB) -> bool:
        """Whether nothing grew by more than the bounds."""
        minutes = self.seconds / 60
        more_files = max(self.files_per_min, self.threads_per_min) * minutes
        more_tasks = self.tasks_per_min * self.told_s / 60
        return self.mb_per_min * minutes <= most_mb and more_files <= MOST_FILES and more_tasks <= MOST_TASKS


class Meter:
    """Reads `/proc` for the processes that `pids` names at the time, and asks `tasks` for how many theirs are."""

    def __init__(
        self, pids: Callable[[], Mapping[str, int]], tasks: Callable[[], Awaitable[Mapping[str, int]]] | None = None
    ) -> None:
        self._pids, self._ask_tasks = pids, tasks
        self._tasks: Mapping[str, int] = {}
        self._born_s: dict[int, float] = {}
        self.samples: list[Sample] = []

    async def run(self, every_s: float) -> None:
        """Until cancelled."""
        while True:
            if self._ask_tasks is not None:
                self._tasks = await self._ask_tasks()
            self.look()
            await asyncio.sleep(every_s)

    def look(self) -> None:
        now_s = time.monotonic()
        for name, pid in self._pids().items():
            folder = Path(f"/proc/{pid}")
            try:
                threads, files = _count(folder / "task"), _count(folder / "fd")
            except OSError:
                continue  # it has ended
            born_s = self._born_s.setdefault(pid, now_s)
            self.samples.append(
                Sample(
                    name=name,
                    pid=pid,
                    at_s=now_s,
                    age_s=now_s - born_s,
                    rss_bytes=rss_bytes(pid),
                    threads=threads,
                    files=files,
                    tasks=self._tasks.get(name),
                )
            )

    def growth(self) -> list[Growth]:
        return growth(self.samples)


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def growth(samples: Iterable[Sample], *, warm_s: float = WARM_S, least_s: float = LEAST_S) -> list[Growth]:
    """Of each process that was watched for long enough."""
    by_process: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.age_s >= warm_s and sample.rss_bytes:
            by_process[sample.name, sample.pid].append(sample)
    found = []
    for (name, pid), own in sorted(by_process.items()):
        seconds = own[-1].at_s - own[0].at_s
        if seconds < least_s or len(own) < 3:
            continue
        minutes = [sample.at_s / 60 for sample in own]
        tenth = max(1, len(own) // 10)
        told = [sample for sample in own if sample.tasks is not None]
        told = told if len(told) >= LEAST_TOLD else []
        found.append(
            Growth(
                name=name,
                pid=pid,
                seconds=seconds,
                first_bytes=statistics.median(sample.rss_bytes for sample in own[:tenth]),
                last_bytes=statistics.median(sample.rss_bytes for sample in own[-tenth:]),
                mb_per_min=_slope(minutes, [sample.rss_bytes / 1e6 for sample in own]),
                files_per_min=_slope(minutes, [sample.files for sample in own]),
                threads_per_min=_slope(minutes, [sample.threads for sample in own]),
                tasks_per_min=_slope([s.at_s / 60 for s in told], [s.tasks or 0 for s in told]) if told else 0.0,
                told_s=told[-1].at_s - told[0].at_s if told else 0.0,
            )
        )
    return found


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    half = len(x) // 2
    return min(statistics.linear_regression(x[start:], y[start:]).slope for start in (0, half if half > 1 else 0))
