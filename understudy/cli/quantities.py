"""Options with units."""

from __future__ import annotations

from understudy.quantities import ConfigError, parse_duration, parse_size


def size_option(option: str, text: str) -> int:
    """Bytes. Raises ConfigError that names the option."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error


def duration_option(option: str, text: str) -> float:
    """Seconds, more than 0. Raises ConfigError that names the option."""
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error
    if seconds <= 0:
        raise ConfigError(f"{option}: {text!r} must be more than 0")
    return seconds
