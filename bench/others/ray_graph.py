"""The same actors as a compiled graph: bound once to channels in shared memory, and called without Ray's scheduler."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from bench.others.ray_cluster import ANSWER_S, cluster, processes
from bench.others.work import Scores, Work

SPARE_BYTES = 64 << 10
"""Of a channel, beside the tensors: what serialising them adds."""


class RayGraph:
    """The program that puts frames in and takes scores out."""

    def __init__(self, graph: Any, actor_pids: Sequence[int]) -> None:
        self._graph = graph
        self._actor_pids = actor_pids
        self._references: deque[Any] = deque()

    @property
    def polling(self) -> Sequence[int]:
        """The stages look at their channels in a loop."""
        return self._actor_pids

    def pids(self) -> Mapping[str, int]:
        return processes(self._actor_pids)

    def send(self, frame: bytes) -> None:
        self._references.append(self._graph.execute(frame))

    def receive(self) -> Scores:
        scores: Scores = self._references.popleft().get(timeout=ANSWER_S)
        return scores


@contextmanager
def start(work: Work) -> Iterator[RayGraph]:
    with cluster(work) as (actors, actor_pids):
        from ray.dag import InputNode

        with InputNode() as frame:
            last: Any = frame
            for actor in actors:
                last = actor.run.bind(last)
        largest = max(work.spec.cut_bytes(cut) for cut in work.bounds)
        graph = last.experimental_compile(
            _max_inflight_executions=work.window, _buffer_size_bytes=largest + SPARE_BYTES
        )
        try:
            yield RayGraph(graph, actor_pids)
        finally:
            for pid in actor_pids:  # the driver may have stopped them
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            graph.teardown(kill_actors=True)
