"""Is there a simple path with every step within a limit? Decided exactly, depth first.

A state is (visits so far, last class), where the visits count how often each class was used, as one number in mixed
radix. What is known of a state is the set of cuts at which its last stage may end, as bits of an integer; a state is
entered again only with cuts that it has not had. Cuts are left out from which no walk leads on, and those that are so
early that all nodes that are left could not hold, or not compute in time, what remains.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property

import numpy as np

from planner.problem import Problem
from planner.walk import Bools, Visit

MAX_STATES = 2000
CHECK_EVERY = 50


class OutOfStatesError(Exception):
    """More states would have to be looked at than were allowed: there may be a path, or not."""


def find_path(
    problem: Problem, limit_s: float, stages: int | None, may_go_on: Callable[[int], bool] | None = None
) -> list[Visit] | None:
    """A simple path with every step within `limit_s`; None: there is none, which is proven.

    Args:
        may_go_on: told how many states were looked at, every now and then; by default up to `MAX_STATES`.

    Raises:
        OutOfStatesError: none was found in the states that were allowed.
    """
    return _Paths(problem, limit_s, stages, may_go_on or (lambda states: states <= MAX_STATES)).find()


class _Paths:
    def __init__(self, problem: Problem, limit_s: float, stages: int | None, may_go_on: Callable[[int], bool]) -> None:
        self.problem = problem
        self.limit_s = limit_s
        self.stages = stages
        self.may_go_on = may_go_on
        blocks = problem.blocks
        self.reach = (problem.stage_s <= limit_s).sum(axis=2) + np.arange(blocks + 1)[None, :]
        self.links = problem.link_s <= limit_s
        self.source = problem.source_s <= limit_s
        self.sink = problem.sink_s <= limit_s
        self.leads_on = self._backwards()
        self.radices = [len(group) + 1 for group in problem.members]
        self.strides = np.cumprod([1, *self.radices[:-1]], dtype=object).tolist()
        self.seen: dict[tuple[int, int], int] = {}
        self.earliest: dict[int, int] = {}
        self.states = 0

    def find(self) -> list[Visit] | None:
        # Far-reaching nodes first: they leave the least to do.
        for node in np.argsort(-self.reach[:, 0], kind="stable").tolist():
            if self.source[node] and self.leads_on[0, node]:
                path = self._extend(self.strides[node], node, {0: self.stage_bits[node][0]}, 1)
                if path is not None:
                    return path
        return None

    def _extend(self, visits: int, node: int, ends: dict[int, int], count: int) -> list[Visit] | None:
        """Go on from a stage on `node` that begins at one of the keys of `ends`, and may end at the bits beside it."""
        blocks = self.problem.blocks
        floor = self._earliest_cut(visits)
        possible = 0
        for bits in ends.values():
            possible |= bits
        possible = possible >> floor << floor
        known = self.seen.get((visits, node), 0)
        possible &= ~known
        if not possible:
            return None
        if possible >> blocks & 1 and self.stages in (None, count):
            return [self._visit(node, ends, blocks)]
        self.seen[visits, node] = known | possible
        self.states += 1
        if self.states % CHECK_EVERY == 0 and not self.may_go_on(self.states):
            raise OutOfStatesError
        if count == self.stages:
            return None
        for other, starts in self._following(visits, node, possible):
            rest = self._extend(visits + self.strides[other], other, starts, count + 1)
            if rest is not None:
                return [self._visit(node, ends, rest[0].start), *rest]
        return None

    def _following(self, visits: int, node: int, possible: int) -> list[tuple[int, dict[int, int]]]:
        """The classes that may come next, each with the ends of its stage by its start; the farthest-reaching first."""
        found: list[tuple[int, int, dict[int, int]]] = []
        for other in range(self.problem.classes):
            if visits // self.strides[other] % self.radices[other] == self.radices[other] - 1:
                continue
            cuts = possible & self.link_bits[node][other]
            starts: dict[int, int] = {}
            union = 0
            while cuts:
                cut = (cuts & -cuts).bit_length() - 1
                cuts &= cuts - 1
                starts[cut] = self.stage_bits[other][cut]
                union |= starts[cut]
            if union:
                found.append((union, -other, starts))
        found.sort(key=lambda item: item[:2], reverse=True)
        return [(-other, starts) for _, other, starts in found]

    def _visit(self, node: int, ends: dict[int, int], end: int) -> Visit:
        start = next(start for start, bits in ends.items() if bits >> end & 1)
        return Visit(node, start, end)

    @cached_property
    def link_bits(self) -> list[list[int]]:
        """[u][v]: the cuts that may cross from u to v, and from which a walk leads on at v."""
        blocks, classes = self.problem.blocks, self.problem.classes
        bits = [[0] * classes for _ in range(classes)]
        for cut in range(1, blocks):
            for one, other in np.argwhere(self.links[cut] & self.leads_on[cut][None, :]).tolist():
                bits[one][other] |= 1 << cut
        return bits

    @cached_property
    def stage_bits(self) -> list[list[int]]:
        """[v][i]: where a stage on v that begins at cut i may end, if something can follow there."""
        blocks = self.problem.blocks
        result = []
        for node in range(self.problem.classes):
            useful = 1 << blocks if self.sink[node] else 0
            for bits in self.link_bits[node]:
                useful |= bits
            ends = [(1 << int(self.reach[node, cut]) + 1) - (1 << cut + 1) for cut in range(blocks)]
            result.append([max(end, 0) & useful for end in ends])
        return result

    def _backwards(self) -> Bools:
        """leads_on[j, v]: from a stage on v that begins at cut j a walk leads to the end."""
        blocks, classes = self.problem.blocks, self.problem.classes
        leads_on = np.zeros((blocks + 1, classes), dtype=bool)
        nearest_end = np.full(classes, -1)
        for cut in range(blocks, -1, -1):
            if cut < blocks:
                # Ends are met from the right: if any useful end is in reach, the nearest is.
                leads_on[cut] = (nearest_end >= 0) & (nearest_end <= self.reach[:, cut])
            ends = self.sink if cut == blocks else (self.links[cut] & leads_on[cut][None, :]).any(axis=1)
            if cut:
                nearest_end = np.where(ends, cut, nearest_end)
        return leads_on

    def _earliest_cut(self, visits: int) -> int:
        """The first cut after which the nodes that are not used yet could hold, and compute in time, what is left."""
        known = self.earliest.get(visits)
        if known is None:
            left = [
                radix - 1 - visits // stride % radix for stride, radix in zip(self.strides, self.radices, strict=True)
            ]
            room = sum(count * size for count, size in zip(left, self.problem.room_bytes, strict=True) if count)
            speed = sum(count * size for count, size in zip(left, self.problem.flops_per_s, strict=True) if count)
            work = speed * self.limit_s if np.isfinite(speed) else np.inf  # also where nothing takes any time
            known = max(
                bisect_left(self.problem.bytes_left, -room * SLACK), bisect_left(self.problem.flops_left, -work * SLACK)
            )
            self.earliest[visits] = known
        return known


SLACK = 1 + 1e-9
"""Sums of floating-point numbers may be a little off: never leave out a cut for that."""
