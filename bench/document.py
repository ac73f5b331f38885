"""What all benchmarks write alike, so that one page can show them: headline figures beside what is wanted, the command
that repeats them, the machine, and how busy it was with other things.

    {"benchmark": "...", "command": "python -m bench....", "quick": true, "machine": {...},
     "busy": {"before": 0.03, "during": 0.61, "cores": 2},
     "figures": [{"name": "...", "value": 1.5, "unit": "ms", "wanted": "<= 5", "met": true, "note": "..."}], ...}

`value` is a number, a text or null: it was not measured, and `note` says why. `met` is null where nothing is wanted of
the figure, or it was not measured. What else a benchmark has found stands beside these, under names of its own.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bench import harness
from broker.errors import UnderstudyError

QUIET = 0.1
"""A machine is quiet whose cores are busy for no more than this while no benchmark runs."""

LOOK_S = 1.0
_FILES = ("--json", "--plot")


class DocumentError(UnderstudyError):
    """A file is not what a benchmark writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One headline. `wanted`: as people read it, such as `<= 50`; empty: nothing is."""

    name: str
    value: float | int | str | None
    unit: str = ""
    wanted: str | float | int | None = ""
    met: bool | None = None
    note: str | None = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Shares of all cores, 0 to 1: `before` the benchmark began, which is others' doing, and `during` it."""

    before: float | None = None
    during: float | None = None
    cores: int | None = None

    @property
    def quiet(self) -> bool:
        return self.before is None or self.before <= QUIET


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What is read of a benchmark's JSON; all else in it is its own."""

    benchmark: str
    figures: tuple[Figure, ...]
    command: str = ""
    quick: bool = False
    machine: Mapping[str, Any] = field(default_factory=dict)
    busy: Busy | None = None


def figure(name: str, value: float | None, unit: str = "", *, note: str = "") -> Figure:
    """Of which nothing is wanted. NaN: it was not measured."""
    return Figure(name=name, value=_measured(value), unit=unit, note=note)


def at_most(name: str, value: float | None, limit: float, unit: str = "", *, note: str = "") -> Figure:
    known = _measured(value)
    met = None if known is None else known <= limit
    return Figure(name=name, value=known, unit=unit, wanted=f"<= {limit:g}", met=met, note=note)


def at_least(name: str, value: float | None, limit: float, unit: str = "", *, note: str = "") -> Figure:
    known = _measured(value)
    met = None if known is None else known >= limit
    return Figure(name=name, value=known, unit=unit, wanted=f">= {limit:g}", met=met, note=note)


def none_of(name: str, count: int, *, note: str = "") -> Figure:
    """A count that must be 0, such as that of lost frames."""
    return Figure(name=name, value=count, wanted="0", met=count == 0, note=note)


def _measured(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


class BusyMeter:
    """Looks at the machine for `LOOK_S` before anything is started (blocks), and from then on until it is read."""

    def __init__(self) -> None:
        self._began = _now()
        time.sleep(LOOK_S)
        self._started = _now()

    def read(self) -> Busy:
        return Busy(before=_share(self._began, self._started), during=_share(self._started, _now()), cores=_all_cores())


def _now() -> tuple[float, float]:
    return harness.machine_busy_s(), time.monotonic()


def _share(begin: tuple[float, float], end: tuple[float, float]) -> float:
    """Clipped: the kernel counts in ticks of 10 ms."""
    return round(min(1.0, max(0.0, (end[0] - begin[0]) / ((end[1] - begin[1]) * _all_cores()))), 3)


def _all_cores() -> int:
    """Of the machine, not of this process: what is busy is counted of all."""
    return os.cpu_count() or 1


def command(module: str, arguments: Sequence[str] | None = None) -> str:
    """That repeats a run: without the files that it wrote. `arguments`: of this process by default."""
    kept: list[str] = []
    given = iter(sys.argv[1:] if arguments is None else arguments)
    for argument in given:
        if argument in _FILES:
            next(given, None)
        elif not argument.startswith(tuple(f"{name}=" for name in _FILES)):
            kept.append(argument)
    return shlex.join(["python", "-m", module, *kept])


def document(
    benchmark: str,
    figures: Sequence[Figure],
    details: Mapping[str, Any],
    *,
    quick: bool,
    packages: Collection[str],
    busy: Busy | None,
) -> dict[str, Any]:
    """For `harness.write_json`."""
    return {
        "benchmark": benchmark,
        "command": command(f"bench.{benchmark}"),
        "quick": quick,
        "machine": harness.machine(packages),
        "busy": busy,
        "figures": list(figures),
        **details,
    }


_READER = TypeAdapter(Document)


def read(path: Path) -> Document:
    """What a benchmark wrote.

    Raises:
        DocumentError: there is no such file, or something else is in it.
    """
    try:
        return _READER.validate_json(path.read_bytes())
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DocumentError(f"{path} is not what a benchmark writes: {where}: {first['msg']}") from error
