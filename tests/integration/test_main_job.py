"""The main job: real digits through a network that is cut into stages on four processes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import onnxruntime
import pytest

import understudy
from tests.integration.conftest import Digits
from tests.integration.harness import Up
from tests.integration.stranger import Stranger, pixels
from understudy.result import Result

NODES = ["node1", "node2", "node3", "node4"]


@pytest.fixture
async def results(pipeline: Up, digits: Digits) -> list[Result]:
    """All held-out digits through the client library, in the order of the frames."""
    async with understudy.connect(pipeline.url, "digits") as client:
        return [result async for result in client.stream(digits.frames)]


@pytest.fixture(scope="session")
def reference(digits: Digits) -> list[int]:
    """What plain onnxruntime says of each digit; (pixel / 255 - 0.3) / 0.38 is what the bundle's manifest tells."""
    session = onnxruntime.InferenceSession(digits.bundle / "model.onnx", providers=["CPUExecutionProvider"])
    images = np.stack([pixels(frame) for frame in digits.frames])[:, np.newaxis].astype(np.float32)
    (scores,) = session.run(None, {"input": (images / np.float32(255) - np.float32(0.3)) / np.float32(0.38)})
    return [int(index) for index in scores.argmax(axis=1)]


def test_four_nodes_share_the_network_in_four_stages_without_a_gap(pipeline: Up) -> None:
    stages = sorted(tuple(stage) for node in pipeline.document["nodes"] for stage in node["stages"])
    assert len(stages) == 4
    assert stages[0][0] == 0
    assert all(end == start for (_, end), (start, _) in pairwise(stages))


async def test_held_out_digits_are_recognised_in_the_order_in_which_they_were_sent(
    results: list[Result], digits: Digits
) -> None:
    assert len(results) == len(digits.labels) == 400
    right = [result.class_index == label for result, label in zip(results, digits.labels, strict=True)]
    assert sum(right) / len(right) >= 0.98


async def test_every_answer_is_that_of_the_whole_network_in_plain_onnxruntime(
    results: list[Result], reference: list[int]
) -> None:
    assert [result.class_index for result in results] == reference


async def test_results_say_how_they_came_about(results: list[Result], pipeline: Up) -> None:
    assert {result.technique for result in results} == {"none"}
    assert {result.exit for result in results} == {None}
    assert {result.epoch for result in results} == {pipeline.document["epoch"]}
    accuracy = results[0].expected_accuracy
    assert accuracy is not None
    assert accuracy >= 0.98
    for result in results:
        assert [hop.node for hop in result.path] == NODES
        assert [hop.at for hop in result.path] == sorted(hop.at for hop in result.path)
        assert 0 < result.latency_ms < 60_000


async def test_a_label_and_probabilities_come_with_the_answer(results: list[Result]) -> None:
    for result in results:
        assert result.label == str(result.class_index)
        assert result.scores[0].class_index == result.class_index
        scores = [score.score for score in result.scores]
        assert scores == sorted(scores, reverse=True)
        assert 0 < sum(scores) <= 1.00001


async def test_an_unordered_stream_gives_the_result_of_each_frame_exactly_once(pipeline: Up, digits: Digits) -> None:
    frames = [understudy.Frame(content=frame, id=f"loose-{i}") for i, frame in enumerate(digits.frames)]
    async with understudy.connect(pipeline.url, "digits") as client:
        results = [result async for result in client.stream(frames, ordered=False, window=100)]
    assert Counter(result.id for result in results) == Counter(frame.id for frame in frames)
    by_id = {result.id: result.class_index for result in results}
    right = [by_id[f"loose-{i}"] == label for i, label in enumerate(digits.labels)]
    assert sum(right) / len(right) >= 0.98


async def test_whoever_listens_to_the_output_hears_one_result_for_each_frame(
    pipeline: Up, digits: Digits, client_of_its_own: Stranger
) -> None:
    ids = [f"heard-{i}" for i in range(len(digits.frames))]
    async with understudy.connect(pipeline.url, "digits") as client:
        frames = [understudy.Frame(content=frame, id=own) for own, frame in zip(ids, digits.frames, strict=True)]
        async for _ in client.stream(frames):
            pass
    assert await client_of_its_own.count("heard-0", good_frame=digits.frames[0]) == 1
    heard = [result["id"] for result in client_of_its_own.results if result["id"].startswith("heard-")]
    assert heard == ids


async def test_two_clients_get_their_own_results_only(pipeline: Up, digits: Digits) -> None:
    async with (
        understudy.connect(pipeline.url, "digits") as one,
        understudy.connect(pipeline.url, "digits") as other,
    ):
        first, second = one.stream(digits.frames[:50]), other.stream(digits.frames[50:100])
        pairs = [(await anext(first), await anext(second)) for _ in range(50)]
    assert [mine.class_index for mine, _ in pairs].count(None) == 0
    right = sum(
        (mine.class_index == digits.labels[i]) + (its.class_index == digits.labels[50 + i])
        for i, (mine, its) in enumerate(pairs)
    )
    assert right >= 98
