"""Links from measurements, without any I/O: who measures with whom and when, and what a cluster file says of it.

The star's model is that of `planner.cluster`: t_uv = 1 / up_u + 1 / down_v seconds per byte. With a_u = 1 / up_u and
b_v = 1 / down_v it is linear, and fitted by least squares of the relative errors, under a, b > 0, by minimising over a
and over b in turn (each has a closed form; the problem is convex). Measured pairs determine a and b but for one number
c, which can be added to all a and taken from all b. The rate of messages one behind the other tells it, since both
links carry at the same time: r_uv = max(a_u + c, b_v - c) seconds per byte, again by least squares of the relative
errors. Where that leaves several numbers, the one that makes uplinks and downlinks most alike on average is taken.
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
SAME_ERROR = 1e-6
"""Mean squared relative errors that differ by less are the same."""

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


def fit_star(
    names: Sequence[str], alone_bytes_per_s: Mapping[Pair, float], bytes_per_s: Mapping[Pair, float]
) -> tuple[list[float], list[float]]:
    """Bytes per second up from and down to each node. 0 where a node has no measured pair in that direction.

    Args:
        alone_bytes_per_s: of a message that is alone on its way.
        bytes_per_s: of messages one behind the other.
    """
    seconds = _matrix(names, alone_bytes_per_s)
    known: NDArray[np.bool_] = np.asarray(seconds > 0)
    if not known.any():
        return [0.0] * len(names), [0.0] * len(names)
    unit = float(seconds[known].min())
    up, down = _fit(seconds / unit, _weights(seconds / unit))
    shift = _shift(up, down, _matrix(names, bytes_per_s) / unit, known)
    up, down = up + shift, down - shift
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

    A mesh gets the rates of messages one behind the other; a star is fitted to both kinds of rates.
    """
    names = list(nodes)
    links: dict[str, Any]
    if topology == "star":
        up, down = fit_star(names, alone_bytes_per_s, bytes_per_s)
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


def _matrix(names: Sequence[str], bytes_per_s: Mapping[Pair, float]) -> NDArray[np.float64]:
    """Seconds per byte, row u from node u: (n, n); 0 where it was not measured."""
    rates = np.array([[bytes_per_s.get((u, v), 0.0) for v in names] for u in names])
    return np.where(rates > 0, 1.0 / np.where(rates > 0, rates, 1.0), 0.0)


def _weights(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """With which squared errors are relative ones; 0 where nothing was measured."""
    return np.where(seconds > 0, 1.0 / np.where(seconds > 0, seconds, 1.0) ** 2, 0.0)


def _fit(seconds: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """a and b but for c, in units of the fastest pair's time. Without weight in a row or column, it is the floor."""
    per_row, per_column = weights.sum(axis=1), weights.sum(axis=0)
    target = (weights * seconds).sum(axis=1), (weights * seconds).sum(axis=0)
    a, b = np.full(len(seconds), 0.5), np.full(len(seconds), 0.5)
    for _ in range(MAX_SWEEPS):
        before = a
        a = np.maximum((target[0] - weights @ b) / np.maximum(per_row, 1e-300), FLOOR)
        b = np.maximum((target[1] - weights.T @ a) / np.maximum(per_column, 1e-300), FLOOR)
        if np.abs(a - before).max() <= TOLERANCE * a.max():
            break
    return a, b


def _shift(
    a: NDArray[np.float64], b: NDArray[np.float64], slowest: NDArray[np.float64], known: NDArray[np.bool_]
) -> float:
    """c. `slowest`: r, (n, n), 0 where it was not measured; `known`: the pairs by which a and b were fitted."""
    has_row, has_column = known.any(axis=1), known.any(axis=0)
    low, high = FLOOR - float(a[has_row].min()), float(b[has_column].min()) - FLOOR
    alike = min(max((b[has_column].mean() - a[has_row].mean()) / 2, low), high)
    rows, columns = np.nonzero(known & (slowest > 0))
    a_uv, b_uv, r_uv = a[rows], b[columns], slowest[rows, columns]
    weights = _weights(r_uv)
    # Between two of the numbers at which an uplink becomes the slower one, the error is a parabola.
    turns = (b_uv - a_uv) / 2
    edges = np.unique(np.clip([low, high, alike, *turns], low, high))
    starts, ends = edges[:-1, None], edges[1:, None]
    is_up = turns[None, :] <= starts
    wanted = np.where(is_up, r_uv - a_uv, b_uv - r_uv) @ weights / max(float(weights.sum()), 1e-300)
    tried = np.concatenate([edges, np.clip(wanted, starts[:, 0], ends[:, 0])])
    errors = ((np.maximum(a_uv + tried[:, None], b_uv - tried[:, None]) - r_uv) ** 2) @ weights
    best = tried[errors <= errors.min() + SAME_ERROR * max(1, len(rows))]
    return float(best[np.argmin(np.abs(best - alike))])


def _speeds(seconds: NDArray[np.float64], known: NDArray[np.bool_], unit: float) -> list[float]:
    return [1.0 / (float(value) * unit) if has else 0.0 for value, has in zip(seconds, known, strict=True)]


def _rounded(bytes_per_s: float) -> int:
    """Four digits: more are noise."""
    return int(float(f"{bytes_per_s:.4g}"))
