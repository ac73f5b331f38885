"""A result as the client library gives it: the fields of the JSON on the output subject."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.errors import UnderstudyError
from broker.port import Buffer


class ResultError(UnderstudyError):
    """What came as a result is not one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One of the top classes."""

    class_index: int
    label: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PathHop:
    """Where the frame was: `node` took it at `cut`, was done at `at` (seconds since 1970, that node's clock) and had it
    for `ms` milliseconds."""

    node: str
    cut: int
    at: float
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFailure:
    """Why a frame has no answer. `code` is a constant of docs/protocol.md, `reason` a sentence."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One frame's result.

    Attributes:
        id: the frame's id.
        class_index, label, scores: of a classifier; None, None and () otherwise.
        outputs: of any other model: its output arrays by name.
        technique: `none` in normal running, else what recovery did about a failure.
        exit: the exit at which the answer ended; None in normal running.
        expected_accuracy: what the bundle measured for answers that come about this way; None if unknown.
        epoch: of the plan that the frame followed.
        latency_ms: from its arrival at the head to its result.
        path: the hops that it made.
        error: None, or why there is no answer.
    """

    id: str
    class_index: int | None = None
    label: str | None = None
    scores: tuple[Score, ...] = ()
    outputs: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    technique: str = "none"
    exit: str | None = None
    expected_accuracy: float | None = None
    epoch: int = 0
    latency_ms: float = 0.0
    path: tuple[PathHop, ...] = ()
    error: FrameFailure | None = None


def parse_result(data: Buffer) -> Result:
    """Read the JSON of a result.

    Raises:
        ResultError: it is not one.
    """
    try:
        document = json.loads(bytes(data))
        error = document.get("error")
        return Result(
            id=document["id"],
            class_index=document.get("class_index"),
            label=document.get("label"),
            scores=tuple(_score(score) for score in document.get("scores", ())),
            outputs={name: _array(tensor) for name, tensor in document.get("outputs", {}).items()},
            technique=document["technique"],
            exit=document["exit"],
            expected_accuracy=document["expected_accuracy"],
            epoch=document["epoch"],
            latency_ms=document["latency_ms"],
            path=tuple(_hop(hop) for hop in document["path"]),
            error=None if error is None else FrameFailure(code=error["code"], reason=error["reason"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ResultError(f"not a result: {bytes(data[:80])!r} ({type(error).__name__}: {error})") from error


# Field by field: a newer head may have added some, which are ignored.


def _score(values: Mapping[str, Any]) -> Score:
    return Score(class_index=values["class_index"], label=values["label"], score=values["score"])


def _hop(values: Mapping[str, Any]) -> PathHop:
    return PathHop(node=values["node"], cut=values["cut"], at=values["at"], ms=values["ms"])


def to_document(result: Result) -> dict[str, Any]:
    """The result as JSON values, as on the output subject."""
    document = {name: value for name, value in asdict(replace(result, outputs={})).items() if name != "outputs"}
    if result.class_index is None:
        for name in ("class_index", "label", "scores"):
            del document[name]
    if result.outputs:
        document["outputs"] = {name: _tensor(array) for name, array in result.outputs.items()}
    return document


def _tensor(array: NDArray[Any]) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def _array(tensor: Mapping[str, Any]) -> NDArray[Any]:
    data = base64.b64decode(tensor["data"], validate=True)
    return np.frombuffer(data, dtype=np.dtype(tensor["dtype"])).reshape(tensor["shape"])
