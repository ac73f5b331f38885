"""Greedy, partition and placement jointly: from the source forward, as many blocks as fit, then over the best link.

The papers compare with a "greedy joint partitioning-placement algorithm" of which the details are not ours; this one is
our own design. From a first node on, each node takes the longest stage that fits its memory, and the next one is the
unused node to which its link is the fastest and which has room for the next block.
"""

from __future__ import annotations

from math import inf

from bench.planner.cost import Costs, Part, Parts


def greedy_first(costs: Costs) -> Parts | None:
    """From the node that is nearest to the source; where all are equally near, the one with the fastest link out."""
    usable = [node for node in range(costs.nodes) if costs.reach(0, node) > 0]
    if not usable:
        return None
    return _from(costs, min(usable, key=lambda node: (costs.source_s(node), -max(costs.link[node]), node)))


def greedy_best(costs: Costs) -> Parts | None:
    """From every node once; the best of the plans."""
    plans = [plan for node in range(costs.nodes) if (plan := _from(costs, node)) is not None]
    return min(plans, key=costs.bottleneck_s, default=None)


def _from(costs: Costs, first: int) -> Parts | None:
    """The greedy plan that begins on this node; None where it gets stuck."""
    parts: list[Part] = []
    unused = set(range(costs.nodes))
    node, start = first, 0
    while True:
        end = costs.reach(start, node)
        if end == start:
            return None
        parts.append(Part(start, end, node))
        unused.discard(node)
        if end == costs.blocks:
            return tuple(parts) if costs.bottleneck_s(parts) < inf else None
        rates = costs.link[node]
        following = [other for other in unused if rates[other] > 0 and costs.fits(end, end + 1, other)]
        if not following:
            return None
        node, start = min(following, key=lambda other: (-rates[other], other)), end
