"""From output tensors to the JSON on the output subject."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from broker.activation import FrameTag
from stages.errors import FrameError
from stages.manifest import Accuracy
from stages.results import Provenance, ResultMaker, dead_letter_json, result_json
from tests.unit.builders import pipeline_spec, tensor

IMAGE = tensor("x", None, 2)


def classifier(*, top_k: int = 2, classes: int = 3, **facts: Any) -> ResultMaker:
    return ResultMaker(pipeline_spec(IMAGE, tensor("scores", None, classes), classify=True, **facts), top_k)


def scores(*rows: list[float], dtype: str = "float32") -> dict[str, Any]:
    return {"scores": np.array(rows, dtype)}


def test_the_best_classes_are_listed_best_first_with_their_labels() -> None:
    maker = classifier(labels=("cat", "dog", "owl"))
    first, second = maker.answers(scores([0.1, 0.7, 0.2], [0.5, 0.1, 0.4]), 2)
    assert first == {
        "class_index": 1,
        "label": "dog",
        "scores": [
            {"class_index": 1, "label": "dog", "score": 0.7},
            {"class_index": 2, "label": "owl", "score": 0.2},
        ],
    }
    assert isinstance(second, dict)
    assert second["label"] == "cat"


def test_without_labels_a_class_is_called_by_its_number() -> None:
    (answer,) = classifier().answers(scores([0, 0, 1]), 1)
    assert isinstance(answer, dict)
    assert answer["label"] == "2"


def test_equal_scores_are_listed_in_order_of_the_classes() -> None:
    (answer,) = classifier(top_k=3).answers(scores([0.5, 0.5, 0.5]), 1)
    assert isinstance(answer, dict)
    assert [entry["class_index"] for entry in answer["scores"]] == [0, 1, 2]


def test_no_more_classes_are_listed_than_there_are() -> None:
    (answer,) = classifier(top_k=1000).answers(scores([1, 2, 3]), 1)
    assert isinstance(answer, dict)
    assert len(answer["scores"]) == 3


def test_softmax_makes_probabilities_even_of_enormous_scores() -> None:
    (answer,) = classifier(softmax=True, top_k=3).answers(scores([1e30, 1e30, -1e30]), 1)
    assert isinstance(answer, dict)
    assert [entry["score"] for entry in answer["scores"]] == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_fail_their_own_frame_alone(softmax: bool, bad: float) -> None:
    good, broken = classifier(softmax=softmax).answers(scores([1, 2, 3], [bad, bad, bad]), 2)
    assert isinstance(good, dict)
    assert isinstance(broken, FrameError)
    assert broken.code == "not-finite"


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(4)), elements=st.floats(-1e6, 1e6, width=32)),
    st.booleans(),
)
def test_the_first_class_is_the_one_with_the_largest_score(rows: np.ndarray[Any, Any], softmax: bool) -> None:
    answers = classifier(classes=4, softmax=softmax, top_k=4).answers({"scores": rows}, len(rows))
    for row, answer in zip(rows, answers, strict=True):
        assert isinstance(answer, dict)
        listed = [entry["score"] for entry in answer["scores"]]
        assert listed == sorted(listed, reverse=True)
        assert answer["class_index"] == answer["scores"][0]["class_index"]
        if not softmax:
            assert row[answer["class_index"]] == row.max()
        else:
            assert sum(listed) == pytest.approx(1, abs=1e-5)


def test_another_model_s_outputs_are_given_as_they_are_one_frame_each() -> None:
    maker = ResultMaker(pipeline_spec(IMAGE, (tensor("y", None, 2), tensor("n", None, dtype="int64"))), 5)
    outputs = {"y": np.array([[1, 2], [3, 4]], np.float32), "n": np.array([7, 8])}
    _, second = maker.answers(outputs, 2)
    assert isinstance(second, dict)
    y, n = second["outputs"]["y"], second["outputs"]["n"]
    assert (y["dtype"], y["shape"]) == ("float32", [1, 2])
    assert np.frombuffer(base64.b64decode(y["data"]), np.float32).tolist() == [3, 4]
    assert (n["dtype"], n["shape"]) == ("int64", [1])
    assert np.frombuffer(base64.b64decode(n["data"]), np.int64).tolist() == [8]


def test_the_output_of_a_model_whose_frames_cannot_be_stacked_keeps_its_shape() -> None:
    spec = pipeline_spec(tensor("x", 2, 2), tensor("y", 3, 2), dynamic_batch=False)
    (answer,) = ResultMaker(spec, 5).answers({"y": np.ones((3, 2), np.float32)}, 1)
    assert isinstance(answer, dict)
    assert answer["outputs"]["y"]["shape"] == [3, 2]


def test_the_accuracy_to_expect_is_the_measured_one_or_unknown() -> None:
    measured = Accuracy.measured(correct=97, images=100)
    assert classifier(accuracy=measured).expected_accuracy == 0.97
    assert classifier().expected_accuracy is None


def test_a_result_says_how_it_came_about() -> None:
    tag = FrameTag("frame-1", (("node1", 0, 1700000000.5, 1.25), ("node2", 3, 1700000001.0, 2)))
    provenance = Provenance(technique="exit", exit="early", expected_accuracy=0.9, epoch=4)
    assert json.loads(result_json(tag, {"class_index": 1}, provenance, 12.34567, None)) == {
        "id": "frame-1",
        "class_index": 1,
        "technique": "exit",
        "exit": "early",
        "expected_accuracy": 0.9,
        "epoch": 4,
        "latency_ms": 12.346,
        "path": [
            {"node": "node1", "cut": 0, "at": 1700000000.5, "ms": 1.25},
            {"node": "node2", "cut": 3, "at": 1700000001.0, "ms": 2},
        ],
        "error": None,
    }


def test_an_error_is_a_code_and_a_reason() -> None:
    document = json.loads(result_json(FrameTag("a"), {}, Provenance(epoch=1), 0.0, ("timeout", "no answer")))
    assert document["error"] == {"code": "timeout", "reason": "no answer"}
    assert "class_index" not in document
    assert "outputs" not in document


@given(st.text(max_size=30))
def test_a_result_is_valid_json_whatever_the_id(frame_id: str) -> None:
    assert json.loads(result_json(FrameTag(frame_id), {}, Provenance(epoch=1), 0.0, None))["id"] == frame_id


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_dead_letter_holds_the_first_bytes_and_the_reason(kind: Any) -> None:
    payload = bytes(range(256)) * 2
    document = json.loads(dead_letter_json("a", kind(payload), "not-an-image", "it is not", 7))
    assert base64.b64decode(document.pop("first_bytes")) == payload[:256]
    expected = {"id": "a", "code": "not-an-image", "reason": "it is not", "size_bytes": 512, "withheld": 7}
    assert document == expected
