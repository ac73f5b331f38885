"""Bytes and large counts for people."""

from __future__ import annotations

BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
COUNT_UNITS = ("", "k", "M", "G", "T", "P")


def format_bytes(size_bytes: float) -> str:
    """`0 B`, `1.5 KiB`, `98.2 MiB`: units of 1024, three significant digits."""
    return _format(size_bytes, BYTE_UNITS, 1024)


def format_count(count: float) -> str:
    """`950`, `25.6 M`, `8.22 G`: units of 1000, three significant digits; for parameters and FLOPs."""
    return _format(count, COUNT_UNITS, 1000).strip()


def _format(value: float, units: tuple[str, ...], step: int) -> str:
    at = 0
    # What rounds up to a whole step is written in the next unit: 999 999 is 1.00 M, not 1000 k.
    while at < len(units) - 1 and abs(value) >= step - (0.5 if at else 0):
        value /= step
        at += 1
    digits = 0 if at == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f} {units[at]}"
