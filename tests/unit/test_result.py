"""A result as a client sees it: what the head publishes is read back, what is no result is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.activation import FrameTag
from stages.results import Provenance, ResultMaker, result_json
from tests.unit.builders import pipeline_spec, tensor
from understudy.result import FrameFailure, PathHop, Result, ResultError, Score, parse_result, to_document

TAG = FrameTag("mine", (("node1", 0, 1700000000.5, 1.25),))


def published(answer: dict[str, Any], error: tuple[str, str] | None = None) -> bytes:
    """What the head publishes."""
    return result_json(TAG, answer, Provenance(expected_accuracy=0.9, epoch=3), 12.5, error)


def classified() -> bytes:
    spec = pipeline_spec(tensor("x", None, 2), tensor("y", None, 2), classify=True, labels=("cat", "dog"))
    (answer,) = ResultMaker(spec, 2).answers({"y": np.array([[0.25, 0.75]], np.float32)}, 1)
    assert isinstance(answer, dict)
    return published(answer)


def computed() -> bytes:
    spec = pipeline_spec(tensor("x", None, 2), (tensor("y", None, 2), tensor("n", None, dtype="int64")))
    (answer,) = ResultMaker(spec, 2).answers({"y": np.ones((1, 2), np.float32), "n": np.array([7])}, 1)
    assert isinstance(answer, dict)
    return published(answer)


def test_a_classification_is_read_with_all_that_is_known_of_it() -> None:
    assert parse_result(classified()) == Result(
        id="mine",
        class_index=1,
        label="dog",
        scores=(Score(class_index=1, label="dog", score=0.75), Score(class_index=0, label="cat", score=0.25)),
        expected_accuracy=0.9,
        epoch=3,
        latency_ms=12.5,
        path=(PathHop(node="node1", cut=0, at=1700000000.5, ms=1.25),),
    )


def test_outputs_are_read_as_arrays() -> None:
    result = parse_result(computed())
    assert (result.class_index, result.label, result.scores) == (None, None, ())
    assert result.outputs["y"].tolist() == [[1, 1]]
    assert result.outputs["n"].dtype == np.int64
    assert result.outputs["n"].tolist() == [7]


def test_a_frame_that_failed_says_why() -> None:
    result = parse_result(published({}, ("timeout", "no answer")))
    assert result.error == FrameFailure(code="timeout", reason="no answer")
    assert result.class_index is None


@pytest.mark.parametrize("data", [classified(), computed()], ids=["class", "outputs"])
def test_a_result_is_printed_as_it_was_published(data: bytes) -> None:
    assert json.loads(json.dumps(to_document(parse_result(data)))) == json.loads(data)


def test_a_frame_that_failed_is_printed_as_it_was_published() -> None:
    data = published({}, ("timeout", "no answer"))
    assert json.loads(json.dumps(to_document(parse_result(data)))) == json.loads(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"5",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        classified()[:-1],
        classified().replace(b'"epoch"', b'"epoc"'),
        classified().replace(b'"path":[{', b'"path":[5,{'),
        classified().replace(b'"ms":', b'"milliseconds":'),
        classified().replace(b'"score":', b'"points":'),
        classified().replace(b'"error":null', b'"error":"no"'),
        computed().replace(b'"float32"', b'"float99"'),
        computed().replace(b'"float32"', b'"object"'),
        computed().replace(b'"shape":[1,2]', b'"shape":[1,3]'),
        computed().replace(b'"shape":[1,2]', b'"shape":[%d]' % (1 << 70)),
        computed().replace(b'"data":"', b'"data":"?'),
    ],
)
def test_what_is_no_result_is_refused_and_shown(data: bytes) -> None:
    with pytest.raises(ResultError, match=r"^not a result: "):
        parse_result(data)


def test_json_that_is_nested_without_end_is_refused_like_anything_else() -> None:
    with pytest.raises(ResultError):
        parse_result(b"[" * 100_000)


@given(st.binary(max_size=60), st.integers(0, 2000), st.integers(0, 255))
def test_arbitrary_and_damaged_results_are_read_or_refused_and_nothing_else(
    data: bytes, place: int, value: int
) -> None:
    damaged = bytearray(computed())
    damaged[place % len(damaged)] = value
    for candidate in (data, bytes(damaged)):
        with contextlib.suppress(ResultError):
            parse_result(candidate)
