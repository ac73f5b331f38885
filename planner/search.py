"""The plan with the least bottleneck, then the least latency, then the fewest nodes; with a proof where time allows.

The bottleneck of an optimal plan is one of finitely many values: the times of stages and links. For a set of
remembered nodes R (see `planner.walk`) let T_R be the least of them for which a walk exists: T_R bounds every plan from
below, and grows with R. The quickest walk at T_R is looked at: if it is a simple path it is a plan whose bottleneck
equals the bound. If not, the nodes that it repeats are remembered, and T_R is found anew, from where it was upwards.

SEIFER (arXiv 2304.11941, section IV) partitions first and places afterwards, with colour coding for the paths, within
9.2 % of the optimum; "the farthest reachable prefix wins" is wrong where links are unequal.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from planner.paths import MAX_STATES, OutOfStatesError, find_path
from planner.plan import GaveUpError
from planner.problem import Array, Problem
from planner.walk import Memory, Visit, quickest_walk, walk_exists

MAX_CELLS = 1_500_000
"""Largest memory size x classes x cuts of a walk's states: about 40 MB, and a tenth of a second a pass. Above it,
deciding paths is quicker."""

INSIST_FACTOR = 4
"""So much more memory is used where nothing else has decided."""

BISECT_STATES = 60_000

QUICKEN_S = 0.02
"""How long a plan whose bottleneck is proven is made quicker, beyond the first attempt."""

LAST_MOMENT_S = 0.5
"""How long a search that is out of time may still look for any plan at all."""

ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A simple path, and what is known of the best one. `lower_bound_s` bounds the objective."""

    visits: tuple[Visit, ...]
    lower_bound_s: float


class Search:
    """One search. `stages`: exactly so many; `deadline_s` on `clock`."""

    def __init__(
        self,
        problem: Problem,
        *,
        stages: int | None,
        deadline_s: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._problem = problem
        self._stages = stages
        self._deadline_s = deadline_s
        self._clock = clock
        self._max_cells = MAX_CELLS
        self._remembered: list[int] = []
        self._values = candidates(problem)

    def least_bottleneck(self) -> Found | None:
        """None: there is no plan at all, which is proven too.

        Raises:
            GaveUpError: time ran out before a plan was found.
        """
        if len(self._values) == 0 or not self._exists(len(self._values) - 1):
            return None
        low, path, decided = self._climb(0)
        if low >= len(self._values):
            return None
        if path is None:
            path, low = self._bisect(low, low if decided else None, None, BISECT_STATES)
            if path is None:
                return None
            if self._index_of(path) > low and self._clock() < self._deadline_s:
                path, low = self._insist(path, low)
        bound = float(self._values[low])
        if self._index_of(path) <= low:
            path = self._quicken(path, bound)
        return Found(visits=tuple(path), lower_bound_s=bound)

    def least_latency(self) -> Found | None:
        """The same for the sum of all steps. Raises GaveUpError likewise."""
        found = self._quickest_path(np.inf, self._deadline_s)
        if found is None:
            return None
        path, bound = found
        path = path or self._any_path()
        return None if path is None else Found(visits=tuple(path), lower_bound_s=bound)

    def _insist(self, path: list[Visit], low: int) -> tuple[list[Visit], int]:
        """What is left undecided: remember more, and then decide with all the time that is left."""
        self._max_cells *= INSIST_FACTOR
        low, found, decided = self._climb(low)
        if found is not None:
            return found, low
        best, low = self._bisect(low, low if decided else None, path, None)
        return best or path, low

    def _climb(self, low: int) -> tuple[int, list[Visit] | None, bool]:
        """Raise the bound by remembering nodes, while memory for that is left and no path is decided.

        Returns:
            The least candidate that may be the optimum; a path at it, or None; whether it is decided that there is
            none at it.
        """
        while True:
            found = self._least_index(low)
            if found is None:
                return len(self._values), None, True  # what remained possible repeated nodes
            low = found
            bound = float(self._values[low])
            try:
                path = find_path(self._problem, bound * (1 + ROUNDING), self._stages)
                return low, path, True
            except OutOfStatesError:
                walk = quickest_walk(self._problem, self._memory(), bound * (1 + ROUNDING))
            assert walk is not None  # noqa: S101 - _least_index saw one
            repeated = self._repeated(walk[0])
            if not repeated:
                return low, walk[0], True
            if self._clock() > self._deadline_s or not self._remember(repeated):
                return low, None, False

    def _bisect(
        self, low: int, without: int | None, best: list[Visit] | None, max_states: int | None
    ) -> tuple[list[Visit] | None, int]:
        """The best path, by deciding candidates between `low` and a first path; and the least candidate that is not
        proven to have none.

        Args:
            without: a candidate that is proven to have none.
            best: a first path, if one is known.
            max_states: give a candidate up after so many; None: at the deadline.
        """
        proven = low if without is None else without + 1
        best = best or self._any_path()
        if best is None:
            return None, proven

        def may_go_on(states: int) -> bool:
            in_time = self._clock() < self._deadline_s and (max_states is None or states <= max_states)
            return states <= MAX_STATES or in_time

        low, high = proven, self._index_of(best)
        while low < high:
            middle = (low + high) // 2
            try:
                path = find_path(self._problem, float(self._values[middle]), self._stages, may_go_on)
            except OutOfStatesError:
                low = middle + 1
                continue
            if path is None:
                low = proven = middle + 1
            else:
                best, high = path, self._index_of(path)
        return best, min(proven, high)

    def _quicken(self, path: list[Visit], bound: float) -> list[Visit]:
        """A path with the same bottleneck and less latency: the least, if a little time is enough to find it."""
        deadline_s = min(self._deadline_s, self._clock() + QUICKEN_S)
        found = self._quickest_path(bound * (1 + ROUNDING), deadline_s)
        return path if found is None or found[0] is None else found[0]

    def _quickest_path(self, limit_s: float, deadline_s: float) -> tuple[list[Visit] | None, float] | None:
        """Remember nodes until the quickest walk with every step within `limit_s` is a path.

        Returns:
            The path, or None where time or memory ran out before; and a latency that no path is below. None: there is
            not even a walk.
        """
        while True:
            walk = quickest_walk(self._problem, self._memory(), limit_s)
            if walk is None:
                return None
            visits, bound = walk
            repeated = self._repeated(visits)
            if not repeated:
                return visits, bound
            if self._clock() > deadline_s or not self._remember(repeated):
                return None, bound

    def _any_path(self) -> list[Visit] | None:
        """Any plan at all, until the deadline, and for a moment where that is over. None: proven, there is none."""
        deadline_s = max(self._deadline_s, self._clock() + LAST_MOMENT_S)
        limit_s = float(self._values[-1])
        try:
            return find_path(
                self._problem, limit_s, self._stages, lambda n: n <= MAX_STATES or self._clock() < deadline_s
            )
        except OutOfStatesError:
            raise GaveUpError(
                "no plan was found in the time allowed, and it is not known whether there is one: allow more with "
                "--time-limit, or add memory"
            ) from None

    def _memory(self) -> Memory:
        return Memory.of(self._problem, self._remembered, self._stages)

    def _exists(self, index: int) -> bool:
        return walk_exists(self._problem, self._memory(), float(self._values[index]))

    def _least_index(self, low: int) -> int | None:
        """The least candidate at or above `low` for which a walk exists; the answer is near `low` as a rule."""
        high, step = low, 1
        while not self._exists(high):
            low = high + 1
            if low >= len(self._values):
                return None
            high = min(high + step, len(self._values) - 1)
            step *= 4
        while low < high:
            middle = (low + high) // 2
            if self._exists(middle):
                high = middle
            else:
                low = middle + 1
        return low

    def _repeated(self, visits: Sequence[Visit]) -> list[int]:
        """Classes that the walk visits more often than there are nodes, the worst first."""
        counts = Counter(visit.node for visit in visits)
        excess = {node: count - len(self._problem.members[node]) for node, count in counts.items()}
        return sorted((node for node, more in excess.items() if more > 0), key=lambda node: (-excess[node], node))

    def _remember(self, nodes: Sequence[int]) -> bool:
        """Remember the worst of them, up to two at once; False where memory would grow beyond the bound."""
        for count in (2, 1):
            grown = [*self._remembered, *nodes[:count]]
            size = (self._stages or 0) + 1
            for node in grown:
                size *= len(self._problem.members[node]) + 1
            if size * self._problem.classes * (self._problem.blocks + 1) <= self._max_cells:
                self._remembered = grown
                return True
        return False

    def _index_of(self, visits: Sequence[Visit]) -> int:
        return int(np.searchsorted(self._values, bottleneck(self._problem, visits) * (1 - ROUNDING)))


def candidates(problem: Problem) -> Array:
    """All values that a bottleneck can have, ascending."""
    inner = problem.link_s[1 : problem.blocks]
    arrays = (problem.stage_s, inner, problem.source_s, problem.sink_s)
    return np.unique(np.concatenate([array[np.isfinite(array)].ravel() for array in arrays]))


def durations(problem: Problem, visits: Sequence[Visit]) -> list[float]:
    """Seconds of every step in order: source, stage, transfer, stage, ..., sink. Their sum is the latency."""
    return _steps(problem, visits, problem.transfer_s)


def busy(problem: Problem, visits: Sequence[Visit]) -> list[float]:
    """How long each step keeps its processor, or the slowest of its links, from the next frame. The longest is the
    bottleneck."""
    return _steps(problem, visits, problem.link_s)


def bottleneck(problem: Problem, visits: Sequence[Visit]) -> float:
    return max(busy(problem, visits))


def _steps(problem: Problem, visits: Sequence[Visit], between: Array) -> list[float]:
    seconds = [float(problem.source_s[visits[0].node])]
    for index, visit in enumerate(visits):
        seconds.append(float(problem.stage_s[visit.node, visit.start, visit.end]))
        if index + 1 < len(visits):
            seconds.append(float(between[visit.end, visit.node, visits[index + 1].node]))
    return [*seconds, float(problem.sink_s[visits[-1].node])]
