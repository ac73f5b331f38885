"""The demo, and the way from a model of one's own to a pipeline."""

from __future__ import annotations

import json

import pytest

from tests.integration.conftest import Digits
from tests.integration.harness import Shell


def test_the_demo_splits_the_network_because_no_node_can_hold_it_and_reports_its_accuracy(shell: Shell) -> None:
    outcome = shell.run("demo", "--seconds", "1", "--no-kill", "--json", timeout_s=60)
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["accuracy"] >= 0.98
    assert document["expected_accuracy"] >= 0.98
    assert (document["lost"], document["errors"], document["answered_twice"]) == (0, 0, 0)
    assert document["published"] == document["answered"] > 100
    assert document["frames_per_s"] > 50
    assert 0 < document["latency_ms"]["median"] <= document["latency_ms"]["p95"]
    assert len(document["stages"]) >= 3
    assert (document["failures"], document["picture"]) == ([], None)
    assert shell.left_behind() == []


def test_the_demo_kills_two_nodes_loses_no_frame_and_draws_a_picture(shell: Shell) -> None:
    pytest.importorskip("matplotlib")
    outcome = shell.run("demo", "--seconds", "4", "--rate", "200", "--picture", "demo.svg", "--json", timeout_s=100)
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["published"] == document["answered"]
    assert (document["lost"], document["errors"], document["answered_twice"]) == (0, 0, 0)
    first, second = document["failures"]
    assert first["node"] != second["node"]
    for failure in (first, second):
        assert failure["technique"] in ("standby", "stand-in", "skip", "exit", "repartition")
        assert 0 < failure["first_answer_ms"] <= failure["healed_ms"]
        assert failure["bridged"]["frames"] > 0 or failure["technique"] == "repartition"
        assert failure["controller"]["nodes"] == [failure["node"]]
    assert document["picture"] == "demo.svg"
    assert "node" in (shell.folder / "demo.svg").read_text()
    assert shell.left_behind() == []


def test_the_demo_prints_a_summary_for_people(shell: Shell) -> None:
    outcome = shell.run("demo", "--seconds", "1", "--nodes", "3", timeout_s=60)
    assert outcome.code == 0, outcome.err
    assert "0 lost, 0 answered twice" in outcome.out
    assert "accuracy" in outcome.out
    assert "throughput" in outcome.out
    assert "killed" in outcome.out
    assert "ms after the kill" in outcome.out
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("name", ["demo.txt", "missing/demo.png"])
def test_a_picture_that_cannot_be_written_is_said_before_anything_is_started(shell: Shell, name: str) -> None:
    outcome = shell.run("demo", "--picture", name)
    assert outcome.code == 2
    assert f"--picture {name}" in outcome.err


def test_a_bundle_that_a_user_prepares_from_labelled_images_is_served_with_its_accuracy(
    shell: Shell, digits: Digits
) -> None:
    data = shell.folder / "data"
    for i, (frame, label) in enumerate(zip(digits.frames[:100], digits.labels[:100], strict=True)):
        (data / str(label)).mkdir(parents=True, exist_ok=True)
        (data / str(label) / f"{i}.png").write_bytes(frame)
    numbers = ["--mean", "0.3", "--std", "0.38", "--calibration", "data"]
    made = shell.run("prepare", str(digits.bundle / "model.onnx"), *numbers, "--name", "mine", "-o", "mine")
    assert made.code == 0, made.err
    with shell.up("--bundle", "mine", "--nodes", "2", "--stages", "2") as running:
        assert running.pipeline == "mine"
        outcome = shell.run("publish", "mine", "data", "--json")
    results = [json.loads(line) for line in outcome.out.splitlines()]
    assert len(results) == 100
    right = sum(f"/{result['label']}/" in f"/{result['file']}" for result in results) / 100
    assert right >= 0.97
    assert all(result["expected_accuracy"] == pytest.approx(right) for result in results)
