"""The stage that all systems run: decode where it is the first, then the sub-model in onnxruntime on one thread."""

from __future__ import annotations

from collections.abc import Mapping

from bench.others.work import Scores, Work
from broker.wire import Tensor
from stages.decode import decode_frame
from stages.engine import Engine


class Stage:
    """Stage number `stage` of the work, counted from 0."""

    def __init__(self, work: Work, stage: int) -> None:
        self._spec = work.spec
        self._engine = Engine.load(work.stage_path(stage).read_bytes(), outputs=work.spec.cuts[work.bounds[stage + 1]])
        self._engine.warm_up(work.spec.cuts[work.bounds[stage]])

    def decode(self, frame: bytes | memoryview) -> dict[str, Tensor]:
        """What a client sends becomes the model's inputs."""
        spec = self._spec
        return decode_frame(frame, spec.manifest.input, spec.inputs, dynamic_batch=spec.dynamic_batch)

    def run(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._engine.run(tensors)


def scores_of(work: Work, tensors: Mapping[str, Tensor]) -> Scores:
    """The output of the last stage as the model's scores."""
    scores: Scores = tensors[work.spec.outputs[0].name].reshape(-1)
    return scores
