"""Walks: paths in which a node may repeat, except nodes that are *remembered*. They bound every plan from below.

Decremental state-space relaxation (Righini & Salani, Networks 51, 2008): a walk that repeats a node more often than it
is there is forbidden by remembering that node, until the best walk is a simple path. A state is (position j, memory,
class v): a stage on v begins at cut j, and the memory counts the visits to each remembered class (and the stages so
far, where their number is fixed). The memory is a number in mixed radix; all of them are handled at once as an axis.

Because a stage that fits stays feasible when it ends earlier, "v may end a stage at j" is "the farthest reach of v's
stages begun so far is at least j": positions need no loop over starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.problem import Array, Problem

Bools = NDArray[np.bool_]

STAGE_WEIGHT = 1e-12
"""Latency that each stage adds, relative to the least latency: of plans that are equally fast the one with fewer nodes
wins, and no real difference is drowned."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One stage of a walk: blocks [start, end) on a class of nodes."""

    node: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Which classes are remembered, and how the visits to them make one number.

    Attributes:
        strides: per class, what a visit adds to the number; 0: not remembered.
        size: how many numbers there are.
        allowed: per class, for each number whether one more visit is possible: (n, size).
        stages: None, or exactly so many stages are wanted; the count is the most significant digit.
        stage_stride: what each stage adds.
    """

    strides: NDArray[np.int64]
    size: int
    allowed: Bools
    stages: int | None
    stage_stride: int

    @classmethod
    def of(cls, problem: Problem, remembered: Sequence[int], stages: int | None) -> Memory:
        strides = np.zeros(problem.classes, dtype=np.int64)
        digits: list[tuple[int, int, int]] = []
        size = 1
        for node in remembered:
            radix = len(problem.members[node]) + 1
            strides[node] = size
            digits.append((node, size, radix))
            size *= radix
        stage_stride = 0
        numbers = np.arange(size)
        allowed = np.ones((problem.classes, size), dtype=bool)
        for node, stride, radix in digits:
            allowed[node] = numbers // stride % radix < radix - 1
        if stages is not None:
            stage_stride = size
            allowed = np.concatenate([np.tile(allowed, stages), np.zeros((problem.classes, size), dtype=bool)], axis=1)
            size *= stages + 1
        return cls(strides=strides, size=size, allowed=allowed, stages=stages, stage_stride=stage_stride)

    def after(self, number: int, node: int) -> int:
        return number + int(self.strides[node]) + self.stage_stride

    def enter(self, possible: Bools) -> Bools:
        """From `possible[number, v]`, a visit to v is possible with that memory before it, to the memory after it."""
        ready = possible & self.allowed.T
        if self.size == 1:
            return ready
        entered = np.zeros_like(ready)
        shifts = self.strides + self.stage_stride
        for shift in np.unique(shifts):
            columns = shifts == shift
            entered[shift:, columns] = ready[: self.size - shift, columns]
        return entered

    def final(self, numbers: Bools) -> Bools:
        """Only memories at the end of which the wanted number of stages is there."""
        if self.stages is None:
            return numbers
        masked = numbers.copy()
        masked[: self.stage_stride * self.stages] = False
        return masked


def walk_exists(problem: Problem, memory: Memory, limit_s: float) -> bool:
    """Whether a walk with every step within `limit_s` covers the chain."""
    blocks = problem.blocks
    reach = (problem.stage_s <= limit_s).sum(axis=2) + np.arange(blocks + 1)[None, :]
    links = problem.link_s <= limit_s
    first = np.zeros((memory.size, problem.classes), dtype=bool)
    first[0] = problem.source_s <= limit_s
    farthest = np.where(memory.enter(first), reach[:, 0][None, :], -1)
    for cut in range(1, blocks):
        ends = farthest >= cut
        rows = np.flatnonzero(ends.any(axis=1))
        if len(rows) == 0:
            return False
        possible = np.zeros_like(ends)
        possible[rows] = ends[rows].astype(np.float32) @ links[cut].astype(np.float32) > 0
        np.maximum(farthest, np.where(memory.enter(possible), reach[:, cut][None, :], -1), out=farthest)
    done = (farthest >= blocks) & (problem.sink_s <= limit_s)[None, :]
    return bool(memory.final(done).any())


def quickest_walk(problem: Problem, memory: Memory, limit_s: float) -> tuple[list[Visit], float] | None:
    """The walk of least latency with every step within `limit_s`, of those the one with the fewest stages; and the
    least latency. None if there is no walk."""
    plain = _Quickest(problem, memory, limit_s, extra=0.0).find()
    if plain is None:
        return None
    least = plain[1]
    weighted = _Quickest(problem, memory, limit_s, extra=STAGE_WEIGHT * least or 1.0).find()
    assert weighted is not None  # noqa: S101 - the same walks exist
    return weighted[0], least


class _Quickest:
    """Shortest paths over states, position by position; and the way back."""

    def __init__(self, problem: Problem, memory: Memory, limit_s: float, *, extra: float) -> None:
        self.problem = problem
        self.memory = memory
        self.stage = np.where(problem.stage_s <= limit_s, problem.stage_s, np.inf) + extra
        self.transfer = np.where(problem.link_s <= limit_s, problem.transfer_s, np.inf)
        self.source = np.where(problem.source_s <= limit_s, problem.source_s, np.inf)
        self.sink = np.where(problem.sink_s <= limit_s, problem.sink_s, np.inf)
        shape = (problem.blocks + 1, memory.size, problem.classes)
        self.begin = np.full(shape, np.inf)
        self.finish = np.full(shape, np.inf)

    def find(self) -> tuple[list[Visit], float] | None:
        blocks, memory = self.problem.blocks, self.memory
        first = np.full((memory.size, self.problem.classes), np.inf)
        first[0] = self.source
        self.begin[0] = self._enter(first)
        for cut in range(1, blocks + 1):
            # (cut, memory, class): ready at an earlier cut, then the stage up to here.
            self.finish[cut] = (self.begin[:cut] + self.stage[:, :cut, cut].T[:, None, :]).min(axis=0)
            if cut < blocks:
                self.begin[cut] = self._enter(self._sent(self.finish[cut], cut))
        total = self.finish[blocks] + self.sink[None, :]
        if memory.stages is not None:
            total[: memory.stage_stride * memory.stages] = np.inf
        if not np.isfinite(total).any():
            return None
        number, node = np.unravel_index(int(np.argmin(total)), total.shape)
        return self._way_back(int(number), int(node)), float(total[number, node])

    def _sent(self, finish: Array, cut: int) -> Array:
        """(memory, class u) from the cheapest sender v."""
        result = np.full_like(finish, np.inf)
        rows = np.flatnonzero(np.isfinite(finish).any(axis=1))
        for start in range(0, len(rows), 256):  # bounded: memories x n x n numbers at once
            part = rows[start : start + 256]
            result[part] = (finish[part][:, :, None] + self.transfer[cut][None]).min(axis=1)
        return result

    def _enter(self, before: Array) -> Array:
        memory = self.memory
        ready = np.where(memory.allowed.T, before, np.inf)
        if memory.size == 1:
            return ready
        entered = np.full_like(ready, np.inf)
        shifts = memory.strides + memory.stage_stride
        for shift in np.unique(shifts):
            columns = shifts == shift
            entered[shift:, columns] = ready[: memory.size - shift, columns]
        return entered

    def _way_back(self, number: int, node: int) -> list[Visit]:
        visits: list[Visit] = []
        end = self.problem.blocks
        while True:
            starts = self.begin[:end, number, node] + self.stage[node, :end, end]
            start = int(np.argmin(starts))
            visits.append(Visit(node, start, end))
            if start == 0:
                return visits[::-1]
            number -= int(self.memory.strides[node]) + self.memory.stage_stride
            sender = int(np.argmin(self.finish[start, number] + self.transfer[start, :, node]))
            node, end = sender, start
