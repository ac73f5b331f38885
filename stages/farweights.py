"""Measures what weights cost that are in no cache (`planner.farweights`)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from planner.farweights import FarWeights
from stages.features import kind_of
from stages.layers import Layer, Operand
from stages.timing import FAR_BYTES, OPSETS, LayerTimer, Rounds

TOTALS = tuple(FAR_BYTES << doubled for doubled in range(5))
"""Bytes of weights, from where samples are timed to more than the caches of small machines."""

ROUNDS = Rounds(least=4, most=4, warm=1, runs=1)
"""Sessions are large, and runs long."""

KINDS = ("convolution", "point-wise convolution", "grouped convolution", "dense")
"""Types of layers whose weights are most of what they read."""

LEAST_BYTES, MOST_BYTES = 512 << 10, 4 << 20

NOTEWORTHY = 0.05
"""A machine where the probe takes less than this more has no caches that samples are quicker in."""

_SIDE = 512
PROBE = Layer(
    op_type="MatMul",
    domain="",
    attributes=(),
    inputs=(Operand(dtype="float32", shape=(1, _SIDE)), Operand(dtype="float32", shape=(_SIDE, _SIDE), static=True)),
    outputs=(Operand(dtype="float32", shape=(1, _SIDE)),),
    opsets=OPSETS,
)
"""Nothing but reading weights, a megabyte."""


def suitable(layer: Layer) -> bool:
    """Whether it tells what its type's weights cost, and enough copies of it fit into a session."""
    return kind_of(layer) in KINDS and LEAST_BYTES <= layer.weight_bytes <= MOST_BYTES


def measure_far_weights(timer: LayerTimer, layers: Sequence[Layer]) -> FarWeights | None:
    """Time the probe and these layers with ever more weights, and with as many as are in no cache.

    Args:
        layers: suitable ones, some of each type.

    Returns:
        None: this machine has no caches that samples are quicker in.
    """
    probe = [timer.time([PROBE], weight_bytes=total, rounds=ROUNDS)[0] for total in TOTALS]
    seconds = [timing.seconds for timing in probe if timing is not None]
    if len(seconds) < len(TOTALS) or seconds[-1] < (1 + NOTEWORTHY) * seconds[0]:
        return None
    shares, highest = [], 0.0
    for total, value in zip(TOTALS, seconds, strict=True):
        highest = min(1.0, max(highest, (value - seconds[0]) / (seconds[-1] - seconds[0])))
        shares.append((float(total), highest))
    costs: dict[str, list[float]] = {}
    for layer in layers:
        # One at a time: they are large.
        near, far = (timer.time([layer], weight_bytes=total, rounds=ROUNDS)[0] for total in (TOTALS[0], TOTALS[-1]))
        if near is not None and far is not None:
            costs.setdefault(kind_of(layer), []).append((far.seconds - near.seconds) / layer.weight_bytes)
    return FarWeights(
        seconds_per_byte={kind: max(0.0, statistics.median(values)) for kind, values in costs.items()},
        shares=tuple(shares),
    )
