"""From a model's output tensors to the JSON that is published."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.activation import FrameTag
from broker.port import Buffer
from broker.wire import Tensor
from stages.errors import FrameError
from stages.spec import PipelineSpec

_GOOD = b',"error":null}'

# One encoder for all results: json.dumps makes a new one for every call with options.
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How a result came about."""

    technique: str = "none"
    exit: str | None = None
    expected_accuracy: float | None = None
    epoch: int


class ResultMaker:
    """Makes results of one pipeline. `top_k` scores are listed for a classifier."""

    def __init__(self, spec: PipelineSpec, top_k: int) -> None:
        self._spec = spec
        self._classifies = spec.manifest.task == "classify"
        self._softmax = spec.manifest.output.softmax
        self._top_k = top_k
        accuracy = spec.manifest.accuracy
        self.expected_accuracy = None if accuracy is None else accuracy.value

    def answers(self, tensors: Mapping[str, Tensor], count: int) -> list[dict[str, Any] | FrameError]:
        """What the model says of each of `count` frames: the fields of the result that depend on it."""
        if self._classifies:
            return self._classes(tensors[self._spec.outputs[0].name], count)
        if not self._spec.dynamic_batch:
            return [{"outputs": {name: _json_tensor(tensor) for name, tensor in tensors.items()}}]
        return [
            {"outputs": {name: _json_tensor(tensor[i : i + 1]) for name, tensor in tensors.items()}}
            for i in range(count)
        ]

    def _classes(self, output: Tensor, count: int) -> list[dict[str, Any] | FrameError]:
        scores = output.reshape(count, -1).astype(np.float64)
        if self._softmax:
            with np.errstate(invalid="ignore"):  # what is not finite is answered with an error below
                scores = np.exp(scores - scores.max(axis=1, keepdims=True))
                scores /= scores.sum(axis=1, keepdims=True)
        finite = np.isfinite(scores).all(axis=1, keepdims=True).ravel().tolist()
        top = _largest(scores, min(self._top_k, scores.shape[1]))
        rows = np.arange(count)[:, None]
        values = np.round(scores[rows, top], 6).tolist()
        return [
            self._class(indices, row) if good else FrameError("not-finite", "the model's scores are not finite numbers")
            for indices, row, good in zip(top.tolist(), values, finite, strict=True)
        ]

    def _class(self, indices: Sequence[int], scores: Sequence[float]) -> dict[str, Any]:
        listed = [
            {"class_index": index, "label": self._spec.manifest.label(index), "score": score}
            for index, score in zip(indices, scores, strict=True)
        ]
        return {"class_index": indices[0], "label": listed[0]["label"], "scores": listed}


def result_json(
    tag: FrameTag, answer: Mapping[str, Any], provenance: Provenance, latency_ms: float, error: tuple[str, str] | None
) -> bytes:
    """The document on `<pipeline>.out`. Every result has the same fields, except that a classifier's has
    `class_index`, `label` and `scores`, another model's `outputs`."""
    document = {
        "id": tag.id,
        **answer,
        "technique": provenance.technique,
        "exit": provenance.exit,
        "expected_accuracy": provenance.expected_accuracy,
        "epoch": provenance.epoch,
        "latency_ms": round(latency_ms, 3),
        "path": [{"node": node, "cut": cut, "at": at, "ms": ms} for node, cut, at, ms in tag.hops],
        "error": None if error is None else {"code": error[0], "reason": error[1]},
    }
    return _JSON.encode(document).encode()


def is_good(result: Buffer) -> bool:
    """Whether a result is an answer, and no error."""
    return bytes(result[-len(_GOOD) :]) == _GOOD


def dead_letter_json(
    frame_id: str, payload: bytes | bytearray | memoryview, code: str, reason: str, withheld: int = 0
) -> bytes:
    """The document on `<pipeline>.dead`: the frame's first bytes and why it could not be processed. `withheld`: letters
    that were not sent before it, because they were too many."""
    document = {
        "id": frame_id,
        "code": code,
        "reason": reason,
        "size_bytes": len(payload),
        "first_bytes": base64.b64encode(bytes(payload[:256])).decode(),
        "withheld": withheld,
    }
    return _JSON.encode(document).encode()


def _largest(scores: NDArray[np.float64], k: int) -> NDArray[np.intp]:
    """Indices of the k largest of each row, largest first; ties in order of the index."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _json_tensor(tensor: Tensor) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(tensor).tobytes()).decode()
    return {"dtype": tensor.dtype.name, "shape": list(tensor.shape), "data": data}
