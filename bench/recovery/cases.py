"""What is served: a subject with labels, what the healthy network answers, and how a pipeline of it is started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness import agrees
from bench.prepared import Unseen
from bench.recovery.cluster import FaultyCluster, Ready
from bench.recovery.figures import Answer, Tally, tally
from bench.recovery.stream import Stream
from bench.recovery.subjects import open_subject
from bench.subjects import Subject, Tensors
from stages.engine import Engine
from stages.graph import ModelGraph
from understudy.config import UpConfig
from understudy.settings import Settings

Scores = Callable[[Answer], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A subject and its healthy scores: one row per frame. `scratch`: a folder for what is made on the way."""

    subject: Subject
    scores: tuple[tuple[float, ...], ...]
    unseen: Unseen
    settings: Settings
    scratch: Path

    @classmethod
    def of(cls, name: str, scratch: Path, settings: Settings) -> Case:
        """Raises MissingSubjectError where its data is not here."""
        subject, unseen = open_subject(name, scratch)
        graph = ModelGraph.load(subject.bundle.model_path, shapes=subject.bundle.manifest.shapes or None)
        scores = own_scores(graph, subject.inputs)
        return cls(subject=subject, scores=scores, unseen=unseen, settings=settings, scratch=scratch)

    def cluster(
        self, nodes: int, *, techniques: tuple[str, ...] | None = None, heal_after_ms: int = 0
    ) -> FaultyCluster:
        """A pipeline of so many nodes with a stage each. `techniques`: those that recovery may use; None: all.
        `heal_after_ms`: how long a bridge is kept."""
        recovery: dict[str, Any] = {} if techniques is None else {"techniques": list(techniques)}
        recovery["heal_after"] = f"{heal_after_ms}ms"
        name = f"bench-{self.subject.name}"
        raw: dict[str, Any] = {"nodes": nodes, "stages": nodes, "pipeline": name, "recovery": recovery}
        config = UpConfig.model_validate({**raw, **self.subject.served})
        return FaultyCluster(config, pipeline=name, settings=self.settings)

    def stream(self, cluster: FaultyCluster, *, rate_per_s: float) -> Stream:
        return Stream(cluster.broker_url, cluster.pipeline, self.subject.frames, rate_per_s=rate_per_s)

    def check(self, stream: Stream, own: Scores | None = None, *, ready: Ready | None = None) -> Tally:
        """What became of the frames of a stream that has ended.

        Args:
            own: the scores that an answer must agree with; None: those of the subject's network.
            ready: tells whether standbys are in full precision: then their answers must agree, too.
        """
        scores = own or (lambda answer: self.scores[answer.image])
        exact = {"none"} if ready is None or not ready.exact_standbys else {"none", "standby"}
        answers = stream.answers
        agreed = [agrees(answer.class_index, scores(answer)) for answer in answers]
        found = tally(answers, stream.seen, exact=[answer.technique in exact for answer in answers], agreed=agreed)
        doubled = [number for number, times in stream.seen.items() if times > 1]
        found.notes += [f"frame {number}: {'; '.join(stream.results[number])}" for number in doubled[:5]]
        return found


def own_scores(graph: ModelGraph, inputs: tuple[Tensors, ...]) -> tuple[tuple[float, ...], ...]:
    """What the whole network answers, one frame at a time."""
    engine = Engine.load(graph.submodel(0, len(graph.blocks)), outputs=graph.outputs)
    name = graph.outputs[0].name
    found: list[NDArray[Any]] = [np.asarray(engine.run(dict(frame))[name]).reshape(-1) for frame in inputs]
    return tuple(tuple(float(score) for score in row) for row in found)
