"""Random partition, random placement: what both of SEIFER's papers are first compared with.

Our reading: nodes in random order, each takes a uniformly drawn number of blocks among those that fit it, until the
chain is covered. A draw that runs out of nodes, or needs a link that is not there, is thrown away and drawn again.
"""

from __future__ import annotations

from math import inf

import numpy as np

from bench.planner.cost import Costs, Part, Parts

ATTEMPTS = 200


def random_plan(costs: Costs, rng: np.random.Generator, *, plans: int = 1) -> Parts | None:
    """The best of so many random plans; None where too many draws in a row gave none."""
    best: tuple[float, Parts] | None = None
    for _ in range(plans):
        drawn = _draw_plan(costs, rng)
        if drawn is None:
            break
        if best is None or drawn[0] < best[0]:
            best = drawn
    return None if best is None else best[1]


def _draw_plan(costs: Costs, rng: np.random.Generator) -> tuple[float, Parts] | None:
    for _ in range(ATTEMPTS):
        parts = _draw(costs, rng)
        if parts is not None:
            value = costs.bottleneck_s(parts)
            if value < inf:
                return value, parts
    return None


def _draw(costs: Costs, rng: np.random.Generator) -> Parts | None:
    parts: list[Part] = []
    start = 0
    for node in rng.permutation(costs.nodes).tolist():
        reach = costs.reach(start, node)
        if reach == start:
            continue
        end = int(rng.integers(start + 1, reach + 1))
        parts.append(Part(start, end, node))
        if end == costs.blocks:
            return tuple(parts)
        start = end
    return None
