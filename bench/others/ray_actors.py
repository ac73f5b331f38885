"""One Ray actor for each stage; a call takes the reference to the result of the stage before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bench.others.ray_cluster import ANSWER_S, cluster, processes
from bench.others.work import Scores, Work


class RayActors:
    """The program that calls the actors: it holds a reference for each frame under way."""

    polling: Sequence[int] = ()

    def __init__(self, actors: Sequence[Any], actor_pids: Sequence[int]) -> None:
        self._actors = actors
        self._actor_pids = actor_pids
        self._references: deque[Any] = deque()

    def pids(self) -> Mapping[str, int]:
        return processes(self._actor_pids)

    def send(self, frame: bytes) -> None:
        value: Any = frame
        for actor in self._actors:
            value = actor.run.remote(value)
        self._references.append(value)

    def receive(self) -> Scores:
        import ray

        scores: Scores = ray.get(self._references.popleft(), timeout=ANSWER_S)
        return scores


@contextmanager
def start(work: Work) -> Iterator[RayActors]:
    with cluster(work) as (actors, actor_pids):
        yield RayActors(actors, actor_pids)
