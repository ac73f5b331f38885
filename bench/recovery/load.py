"""What the machine did meanwhile: a benchmark of milliseconds is worth little on a machine that is busy otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bench.harness import cores, cpu_s, machine_busy_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Shares of the machine's cores: all that was busy, and what others used; the load average at the end."""

    busy: float
    others: float
    average: float


@dataclass(slots=True)
class LoadMeter:
    """From its making to `read`. `pids`: tells which processes are ours now, besides this one; those that have ended
    are counted when they are waited for."""

    pids: Callable[[], Iterable[int]]
    _began_s: float = field(default_factory=time.perf_counter)
    _busy_s: float = field(default_factory=machine_busy_s)
    _ours_s: float = 0.0

    def __post_init__(self) -> None:
        self._ours_s = self._ours()

    def read(self) -> Load:
        seconds = (time.perf_counter() - self._began_s) * cores()
        busy = machine_busy_s() - self._busy_s
        ours = self._ours() - self._ours_s
        return Load(
            busy=min(1.0, busy / seconds),
            others=max(0.0, (busy - ours) / seconds),
            average=os.getloadavg()[0],
        )

    def _ours(self) -> float:
        times = os.times()
        living = sum(cpu_s(pid) for pid in self.pids())
        return times.user + times.system + times.children_user + times.children_system + living
