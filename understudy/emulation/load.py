"""How busy this machine's cores are: the first thing to look at beside a figure of many containers on few cores."""

from __future__ import annotations

from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE, _WAITING = 3, 4


def cpu_times() -> tuple[float, float]:
    """(busy, all) of all cores together since the machine's start, in ticks; zeros where the kernel does not say."""
    try:
        first = _STAT.read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0, 0.0
    ticks = [float(each) for each in first[1:9]]  # those of guests are in those of users already
    return sum(ticks) - ticks[_IDLE] - ticks[_WAITING], sum(ticks)


def busy_share(before: tuple[float, float], after: tuple[float, float]) -> float | None:
    """0 to 1; None where the kernel does not say."""
    total = after[1] - before[1]
    return (after[0] - before[0]) / total if total > 0 else None
