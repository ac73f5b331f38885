"""A quick search for any simple path within a time limit: depth first, along states from which a walk leads on.

It finds plans where the exact search has run out of time or memory. If it has looked at everything and found none,
there is none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from planner.problem import Problem
from planner.walk import Bools, Visit

MAX_STATES = 4000


class OutOfStatesError(Exception):
    """More states would have to be looked at than were allowed."""


def dive(
    problem: Problem, limit_s: float, stages: int | None, may_go_on: Callable[[int], bool] | None = None
) -> list[Visit] | None:
    """A simple path with every step within `limit_s`; None: there is none.

    Args:
        may_go_on: told how many states were looked at, every now and then; by default up to `MAX_STATES`.

    Raises:
        OutOfStatesError: none was found in the states that were allowed.
    """
    return _Dive(problem, limit_s, stages, may_go_on or (lambda states: states <= MAX_STATES)).find()


class _Dive:
    def __init__(self, problem: Problem, limit_s: float, stages: int | None, may_go_on: Callable[[int], bool]) -> None:
        self.problem = problem
        self.stages = stages
        blocks = problem.blocks
        self.reach = (problem.stage_s <= limit_s).sum(axis=2) + np.arange(blocks + 1)[None, :]
        self.links = problem.transfer_s <= limit_s
        self.source = problem.source_s <= limit_s
        self.sink = problem.sink_s <= limit_s
        self.leads_on = self._backwards()
        self.left = [len(group) for group in problem.members]
        self.may_go_on = may_go_on
        self.states = 0
        self.dead: set[tuple[int, int, tuple[int, ...]]] = set()

    def _backwards(self) -> Bools:
        """leads_on[j, v]: from a stage on v that begins at cut j a walk leads to the end."""
        blocks, classes = self.problem.blocks, self.problem.classes
        leads_on = np.zeros((blocks + 1, classes), dtype=bool)
        ends = np.zeros((blocks + 1, classes), dtype=bool)  # ends[j, v]: a stage on v may end at j
        ends[blocks] = self.sink
        for cut in range(blocks - 1, -1, -1):
            for node in range(classes):
                leads_on[cut, node] = ends[cut + 1 : self.reach[node, cut] + 1, node].any()
            if cut:
                ends[cut] = (self.links[cut] & leads_on[cut][None, :]).any(axis=1)
        return leads_on

    def find(self) -> list[Visit] | None:
        # Far-reaching nodes first: they leave the least to do.
        for node in np.argsort(-self.reach[:, 0], kind="stable").tolist():
            if self.source[node] and self.leads_on[0, node]:
                path = self._extend(node, 0, 1)
                if path is not None:
                    return path
        return None

    def _extend(self, node: int, start: int, count: int) -> list[Visit] | None:
        blocks = self.problem.blocks
        self.left[node] -= 1
        key = (node, start, tuple(self.left))
        try:
            if key in self.dead or (self.stages is not None and count > self.stages):
                return None
            self.states += 1
            if self.states % 100 == 0 and not self.may_go_on(self.states):
                raise OutOfStatesError
            farthest = int(self.reach[node, start])
            if farthest >= blocks and self.sink[node] and self.stages in (None, count):
                return [Visit(node, start, blocks)]
            for end in range(min(farthest, blocks - 1), start, -1):
                following = np.flatnonzero(self.links[end, node] & self.leads_on[end])
                for other in following[np.argsort(-self.reach[following, end], kind="stable")].tolist():
                    if self.left[other] > 0:
                        rest = self._extend(other, end, count + 1)
                        if rest is not None:
                            return [Visit(node, start, end), *rest]
            self.dead.add(key)
            return None
        finally:
            self.left[node] += 1
