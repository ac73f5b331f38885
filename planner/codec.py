"""Codecs as the planner sees them: fewer bytes on a link, for some time of both its nodes.

Symbols as in `planner.problem`; for a codec c and cut j: b_j the bytes of the activation, rho_cj their share that is
sent, e_cj and d_cj seconds per byte to encode and to decode, k_v how many times longer node v takes for that than the
machine that measured. A transfer with the codec takes

    X_c[j, u, v] = e_cj b_j k_u + rho_cj b_j t_uv + d_cj b_j k_v,

and keeps its link busy, with r_uv in the place of t_uv, for R_c[j, u, v]. `none` is a codec with rho = 1, e = d = 0. A
transfer uses the one with the least X_c; of equal ones `none`, and then the first of the chain.

The time of both nodes is part of the transfer, though it is their processors that spend it: so a plan that rests on a
codec is never thought to be faster than its parts one after the other, and a node that is busy with its stage all the
time becomes slower by e and d than its stage is thought to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NONE = "none"


class CodecError(ValueError):
    """A codec's numbers are none that one can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecCost:
    """What a codec does to the activation of every cut, as measured.

    Attributes:
        name: of the codec, as in `broker.codecs`.
        ratio: rho, B + 1 numbers above 0.
        encode_s_per_byte, decode_s_per_byte: e and d, B + 1 numbers each, per byte of the activation.
        accuracy_loss: the most of the network's accuracy, 0..1, that it costs at every cut at once; 0: it is lossless;
            None: not known.
        flops_per_s: the speed of the machine that measured; None: not known, and all machines are as fast.
    """

    name: str
    ratio: tuple[float, ...]
    encode_s_per_byte: tuple[float, ...]
    decode_s_per_byte: tuple[float, ...]
    accuracy_loss: float | None = None
    flops_per_s: float | None = None

    def __post_init__(self) -> None:
        if self.name == NONE or not self.name:
            raise CodecError(f"codec {self.name!r} needs no numbers: it is always there")
        if not len(self.ratio) == len(self.encode_s_per_byte) == len(self.decode_s_per_byte):
            raise CodecError(f"codec '{self.name}' needs as many times as ratios: one for each cut")
        numbers = (*self.ratio, *self.encode_s_per_byte, *self.decode_s_per_byte, self.accuracy_loss or 0.0)
        if not all(0 <= number < math.inf for number in numbers) or 0 in self.ratio:
            raise CodecError(f"codec '{self.name}': a ratio is above 0, and times and losses are finite and >= 0")
        if self.flops_per_s is not None and not 0 < self.flops_per_s < math.inf:
            raise CodecError(f"codec '{self.name}': flops_per_s is {self.flops_per_s!r}, it must be more than 0")

    def slowdown(self, flops_per_s: float | None) -> float:
        """k of a node of this speed; 1 where that, or the speed of the machine that measured, is not known."""
        return 1.0 if self.flops_per_s is None or not flops_per_s else self.flops_per_s / flops_per_s


def within(codecs: Sequence[CodecCost], max_accuracy_loss: float) -> tuple[CodecCost, ...]:
    """The codecs that may be used where answers may lose so much accuracy, 0..1. The loss was measured with the codec
    at every cut at once, so any plan keeps the bound, however many of its transfers use it."""
    return tuple(
        codec for codec in codecs if codec.accuracy_loss is not None and codec.accuracy_loss <= max_accuracy_loss
    )


def quickest(
    codecs: Sequence[CodecCost],
    cut: int,
    size_bytes: int,
    s_per_byte: float,
    speeds: tuple[float | None, float | None],
) -> tuple[str, float, float]:
    """The codec for one transfer.

    Args:
        s_per_byte: t_uv.
        speeds: FLOP/s of u and v; None: not known.

    Returns:
        Its name, the bytes that are sent, and X, without the overhead of the message.
    """
    best = (NONE, float(size_bytes), size_bytes * s_per_byte)
    for codec in codecs:
        sent = codec.ratio[cut] * size_bytes
        encode_s = codec.encode_s_per_byte[cut] * size_bytes * codec.slowdown(speeds[0])
        decode_s = codec.decode_s_per_byte[cut] * size_bytes * codec.slowdown(speeds[1])
        seconds = sent * s_per_byte + (encode_s + decode_s)
        if seconds < best[2]:
            best = (codec.name, sent, seconds)
    return best
