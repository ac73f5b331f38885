"""The work that every system is given: sub-models, frames, right answers and a window, in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.subjects import Subject, load
from stages.graph import ModelGraph
from stages.spec import PipelineSpec

Scores = NDArray[np.float32]
"""The model's output for one frame, as it is: (classes,)."""

_FILE, _SPEC, _MODEL, _SCORES = "work.json", "spec.json", "model.onnx", "scores.npy"


@dataclass(frozen=True, kw_only=True)
class Work:
    """Made once by `prepare`, read by every process with `open_work`.

    Attributes:
        folder: sub-models, the specification, scores.
        scratch: where the subject's bundle is, see `bench.subjects.load`.
        bounds: first block of each stage, and the block after the last.
        window: frames under way.
    """

    folder: Path
    subject: str
    scratch: Path
    bounds: tuple[int, ...]
    window: int

    @property
    def stages(self) -> int:
        return len(self.bounds) - 1

    def stage_path(self, stage: int) -> Path:
        """The sub-model of a stage, counted from 0."""
        return self.folder / f"{stage}.onnx"

    @property
    def model_path(self) -> Path:
        return self.folder / _MODEL

    @cached_property
    def spec(self) -> PipelineSpec:
        return PipelineSpec.from_json((self.folder / _SPEC).read_bytes())

    @cached_property
    def frames(self) -> tuple[bytes, ...]:
        """As clients publish them: files, not tensors."""
        return load(self.subject, self.scratch).frames

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """What the whole network says of every frame: (frames, classes)."""
        scores: NDArray[np.float32] = np.load(self.folder / _SCORES, allow_pickle=False)
        return scores


def prepare(
    subject: Subject,
    scores: Sequence[Sequence[float]],
    *,
    cuts: Sequence[int],
    window: int,
    scratch: Path,
    folder: Path,
) -> Work:
    """Write everything to `folder`.

    Args:
        scores: what the whole network says of every frame.
        cuts: first block of each stage, as the planner chose them.
        scratch: the folder that `subject` was loaded with.
    """
    folder.mkdir(parents=True)
    work = Work(
        folder=folder,
        subject=subject.name,
        scratch=scratch,
        bounds=(*cuts, subject.spec.blocks),
        window=window,
    )
    (folder / _FILE).write_text(json.dumps(asdict(work), default=str))
    (folder / _SPEC).write_bytes(subject.spec.to_json())
    (folder / _MODEL).write_bytes(subject.bundle.model_path.read_bytes())
    graph = ModelGraph.load(subject.bundle.model_path)
    for stage, (first, end) in enumerate(pairwise(work.bounds)):
        work.stage_path(stage).write_bytes(graph.submodel(first, end))
    np.save(folder / _SCORES, np.asarray(scores, np.float32))
    return work


def open_work(folder: Path) -> Work:
    """What `prepare` has written."""
    values = json.loads((folder / _FILE).read_text())
    return Work(
        folder=folder,
        subject=values["subject"],
        scratch=Path(values["scratch"]),
        bounds=tuple(values["bounds"]),
        window=values["window"],
    )
