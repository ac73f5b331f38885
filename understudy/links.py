"""Links from measurements, without any I/O: who measures with whom and when, and what a cluster file says of it.

The star's model is that of `planner.cluster`: t_uv = 1 / up_u + 1 / down_v seconds per byte. With a_u = 1 / up_u and
b_v = 1 / down_v it is linear, and fitted by least squares of the relative errors, under a, b > 0, by minimising over a
and over b in turn (each has a closed form; the problem is convex). Measured pairs determine a and b but for one number,
which can be added to all a and taken from all b: it is chosen such that uplinks and downlinks are alike on average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pair = tuple[str, str]
"""From, to."""

MAX_SWEEPS = 20_000
TOLERANCE = 1e-10
FLOOR = 1e-3
"""No link is taken for more than so many times faster than the fastest pair: 1 / FLOOR."""


def rounds(names: Sequence[str]) -> list[list[Pair]]:
    """Rounds of disjoint pairs, in which everybody meets everybody once: n - 1 of them, n where n is odd.

    The circle method: the first stays, the others move on by one place; who faces the empty place has a rest.
    """
    places: list[str | None] = [*names, *([None] if len(names) % 2 else [])]
    found: list[list[Pair]] = []
    for turn in range(len(places) - 1):
        circle = [places[0], *places[1 + turn :], *places[1 : 1 + turn]]
        half = len(circle) // 2
        facing = zip(circle[:half], reversed(circle[half:]), strict=True)
        found.append([(one, other) for one, other in facing if one is not None and other is not None])
    return found


def fit_star(names: Sequence[str], bytes_per_s: Mapping[Pair, float]) -> tuple[list[float], list[float]]:
    """Bytes per second up from and down to each node. 0 where a node has no measured pair in that direction."""
    seconds = np.array([[_seconds(bytes_per_s.get((u, v), 0.0)) for v in names] for u in names])
    known: NDArray[np.bool_] = np.asarray(seconds > 0)
    if not known.any():
        return [0.0] * len(names), [0.0] * len(names)
    unit = float(seconds[known].min())
    seconds = seconds / unit
    weights = np.where(known, 1.0 / np.where(known, seconds, 1.0) ** 2, 0.0)
    up, down = _fit(seconds, weights)
    return _speeds(up, np.any(known, axis=1), unit), _speeds(down, np.any(known, axis=0), unit)


def cluster_document(
    nodes: Mapping[str, int | None],
    bytes_per_s: Mapping[Pair, float],
    alone_bytes_per_s: Mapping[Pair, float],
    *,
    topology: str,
    overhead_s: float,
    max_payload_bytes: int,
) -> dict[str, Any]:
    """What a cluster file holds. `nodes`: memory limits by name. A pair that was not measured is no link: 0.

    A mesh gets the rates of messages one behind the other; a star is fitted to those of a message that is alone, since
    such a message crosses its uplink before it crosses its downlink.
    """
    names = list(nodes)
    links: dict[str, Any]
    if topology == "star":
        up, down = fit_star(names, alone_bytes_per_s)
        links = {"up_bytes_per_s": [*map(_rounded, up)], "down_bytes_per_s": [*map(_rounded, down)]}
    else:
        rows = [[_rounded(bytes_per_s.get((u, v), 0.0)) if u != v else 0 for v in names] for u in names]
        links = {"bandwidth_bytes_per_s": rows}
    return {
        "topology": topology,
        "nodes": [{"name": name, "memory_bytes": memory, "flops_per_s": None} for name, memory in nodes.items()],
        **links,
        "message_overhead_s": float(f"{overhead_s:.3g}"),
        "max_payload_bytes": max_payload_bytes,
    }


def _seconds(bytes_per_s: float) -> float:
    return 1.0 / bytes_per_s if bytes_per_s > 0 else 0.0


def _fit(seconds: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """a and b, in units of the fastest pair's time. Without weight in a row or column, it is the floor."""
    per_row, per_column = weights.sum(axis=1), weights.sum(axis=0)
    target = (weights * seconds).sum(axis=1), (weights * seconds).sum(axis=0)
    a, b = np.full(len(seconds), 0.5), np.full(len(seconds), 0.5)
    for _ in range(MAX_SWEEPS):
        before = a
        a = np.maximum((target[0] - weights @ b) / np.maximum(per_row, 1e-300), FLOOR)
        b = np.maximum((target[1] - weights.T @ a) / np.maximum(per_column, 1e-300), FLOOR)
        if np.abs(a - before).max() <= TOLERANCE * a.max():
            break
    has_row, has_column = per_row > 0, per_column > 0
    shift = (b[has_column].mean() - a[has_row].mean()) / 2
    shift = min(max(shift, FLOOR - a[has_row].min()), b[has_column].min() - FLOOR)
    return a + shift, b - shift


def _speeds(seconds: NDArray[np.float64], known: NDArray[np.bool_], unit: float) -> list[float]:
    return [1.0 / (float(value) * unit) if has else 0.0 for value, has in zip(seconds, known, strict=True)]


def _rounded(bytes_per_s: float) -> int:
    """Four digits: more are noise."""
    return int(float(f"{bytes_per_s:.4g}"))
