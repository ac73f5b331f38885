"""The textbook exact method, for the clock: dynamic programming over (cut, set of used nodes, last node).

2^n x n x B states with n x B ways on from each, in plain Python: fine up to about ten nodes.
"""

from __future__ import annotations

from math import inf

from bench.planner.cost import Costs, Part, Parts

State = tuple[int, int, int]
"""The cut at which a stage has ended, the used nodes as bits, and its node."""


def naive(costs: Costs) -> Parts | None:
    best: dict[State, tuple[float, State | None]] = {}
    by_cut: list[list[State]] = [[] for _ in range(costs.blocks + 1)]

    def improve(state: State, value: float, before: State | None) -> None:
        known = best.get(state)
        if known is None:
            by_cut[state[0]].append(state)
        if known is None or value < known[0]:
            best[state] = (value, before)

    reach = [[costs.reach(start, node) for node in range(costs.nodes)] for start in range(costs.blocks)]
    for node in range(costs.nodes):
        for end in range(1, reach[0][node] + 1):
            value = max(costs.source_s(node), costs.compute_s(0, end, node))
            if value < inf:
                improve((end, 1 << node, node), value, None)
    for cut in range(1, costs.blocks):
        for state in by_cut[cut]:
            _, used, last = state
            value = best[state][0]
            for node in range(costs.nodes):
                if used >> node & 1:
                    continue
                arrived = max(value, costs.transfer_s(cut, last, node))
                if arrived == inf:
                    continue
                for end in range(cut + 1, reach[cut][node] + 1):
                    improve((end, used | 1 << node, node), max(arrived, costs.compute_s(cut, end, node)), state)
    ends = [(max(best[state][0], costs.sink_s(state[2])), state) for state in by_cut[costs.blocks]]
    value, state = min(ends, default=(inf, (0, 0, 0)))
    return _way_back(best, state) if value < inf else None


def _way_back(best: dict[State, tuple[float, State | None]], last: State) -> Parts:
    parts: list[Part] = []
    state: State | None = last
    while state is not None:
        before = best[state][1]
        parts.append(Part(before[0] if before is not None else 0, state[0], state[2]))
        state = before
    return tuple(reversed(parts))
