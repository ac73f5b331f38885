"""A pulse: the sign of life that a node gives many times a second. Tiny, and cheap to make and to check.

A `broker.control.Beat` says what a node does, ten times a second and at every change; a pulse says that it lives.
One msgpack array: `[incarnation, sequence, interval_ms]`. Items that follow are ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgpack

from broker.errors import WireError
from broker.port import Buffer

MAX_PULSE_BYTES = 256
MAX_SEQUENCE = 1 << 53
MAX_INTERVAL_MS = 60_000

_INCARNATION = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """One pulse of a node.

    Attributes:
        incarnation: of the node's process, 16 hexadecimal digits, the same as in its `Beat`.
        sequence: counts from 0 since the process started.
        interval_ms: the next one follows within about so long.
    """

    incarnation: str
    sequence: int
    interval_ms: int


def encode(pulse: Pulse) -> bytes:
    packed = msgpack.packb((pulse.incarnation, pulse.sequence, pulse.interval_ms))
    assert isinstance(packed, bytes)  # noqa: S101 - msgpack has no type hints
    return packed


def decode(data: Buffer) -> Pulse:
    """Read a pulse.

    Raises:
        WireError: not a valid one.
    """
    if len(data) > MAX_PULSE_BYTES:
        raise WireError(f"a pulse of {len(data)} bytes exceeds {MAX_PULSE_BYTES}")
    try:
        raw = msgpack.unpackb(data, raw=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError(f"not msgpack: {str(error) or type(error).__name__}") from error
    # By hand: pydantic takes ten times as long, and a controller reads hundreds of these a second.
    if not isinstance(raw, list) or len(raw) < 3:
        raise WireError("not an array of incarnation, sequence, interval")
    incarnation, sequence, interval_ms = raw[:3]
    if not isinstance(incarnation, str) or not _INCARNATION.fullmatch(incarnation):
        raise WireError("the incarnation is not 16 hexadecimal digits")
    if type(sequence) is not int or not 0 <= sequence < MAX_SEQUENCE:
        raise WireError("the sequence is not a number from 0 to 2^53 - 1")
    if type(interval_ms) is not int or not 0 < interval_ms <= MAX_INTERVAL_MS:
        raise WireError(f"the interval is not a number from 1 to {MAX_INTERVAL_MS} ms")
    return Pulse(incarnation=incarnation, sequence=sequence, interval_ms=interval_ms)
