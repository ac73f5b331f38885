"""Sizes and durations with their units, as people write them."""

from __future__ import annotations

import re
from typing import Any

from broker.errors import UnderstudyError

_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_TIMES = {"MS": 1e-3, "S": 1.0, "MIN": 60.0, "H": 3600.0}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")


class ConfigError(UnderstudyError):
    """A configuration file or option is wrong; says where, and what would be right."""


def parse_size(value: Any) -> int:
    """Bytes of `64 MB`, `1.5GiB` or a plain number. Raises ValueError with what is allowed."""
    number, unit = _quantity(value)
    if unit.upper() not in _SIZES:
        raise ValueError(f"unit {unit!r} of {value!r} is not known: use B, KB, MB, GB, KiB, MiB or GiB")
    return int(number * _SIZES[unit.upper()])


def parse_duration(value: Any) -> float:
    """Seconds of `100ms`, `2 s`, `1min` or `1h`; a number needs its unit. Raises ValueError with what is allowed."""
    number, unit = _quantity(value)
    if unit.upper() not in _TIMES:
        raise ValueError(f"{value!r} has no known unit of time: write 100ms, 2s, 1min or 1h")
    return number * _TIMES[unit.upper()]


def _quantity(value: Any) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(str(value))
    if match is None or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a quantity: write a number and a unit, such as 64 MB or 100ms")
    number = float(match[1])
    if number >= 2**53:
        raise ValueError(f"{str(value)[:40]!r} is too large")
    return number, match[2]
