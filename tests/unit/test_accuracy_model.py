"""Accuracies that are predicted from weights: rows, trees, files, and the bundle that has them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from typer.testing import CliRunner, Result

from planner.accuracy import (
    BOTH,
    AccuracyModel,
    AccuracyModelError,
    Training,
    Variant,
    Weights,
    features,
    fit_trees,
    reach_of,
    sizes_of,
)
from stages.bundle import Bundle
from stages.graph import ModelGraph
from stages.manifest import Accuracy
from stages.weights import STATISTICS, layer_weights, statistics_of
from tests import onnx_models
from understudy.cli.prepare import prepare
from understudy.data import digits_bundle
from understudy.prediction import PredictionError, load_accuracy_model, parse_training

DIGITS = digits_bundle()
ALL = "learning_rate=0.1,epochs=40,batch_size=64,optimiser=sgd"


def weights(layers: int, seed: int = 0) -> Weights:
    random = np.random.default_rng(seed)
    table = np.stack([statistics_of(random.normal(0, 1 + layer, 200)) for layer in range(layers)])
    return Weights(statistics=table, parameters=np.full(layers, 200))


def small_model(most_layers: float = 100.0) -> AccuracyModel:
    """Accuracy falls with the share of the layers that are skipped, and by 0.01 where they have 4 bits."""
    pytest.importorskip("lightgbm", reason="pip install 'understudy[profile]'")
    random = np.random.default_rng(0)
    rows, targets = [], []
    for _ in range(400):
        first, end = sorted(random.integers(0, 21, 2).tolist())
        technique = str(random.choice(["none", "skip", "int8", "int4"])) if end > first else "none"
        variant = Variant(technique=technique, first_layer=first, end_layer=end)
        rows.append(features(weights(20), Training(epochs=3), variant, pixels=64))
        lost = 0.8 * (end - first) / 20 if technique == "skip" else 0.01 * (technique == "int4")
        targets.append(0.9 - lost)
    trees = {known: fit_trees(np.stack(rows), np.array(targets), known=known, rounds=60) for known in BOTH}
    sizes = ((1.0, 0.0, 16.0), (most_layers, 30.0, 4096.0))
    reach = {"none": 0.05, "skip": 0.2, "int8": 0.05, "int4": 0.06}
    return AccuracyModel(trees=trees, reach=dict.fromkeys(BOTH, reach), sizes=sizes, classes=10)


def run(*words: object) -> Result:
    app = typer.Typer()
    app.command()(prepare)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_layer_s_statistics_are_those_of_the_papers_table() -> None:
    found = dict(zip(STATISTICS, statistics_of(np.array([[1.0, 2.0], [3.0, 6.0]])).tolist(), strict=True))
    assert found == pytest.approx(
        {"mean": 3, "variance": 3.5, "p0": 1, "p25": 1.75, "p50": 2.5, "p75": 3.75, "p100": 6}
    )


def test_every_layer_of_a_network_is_in_one_block() -> None:
    graph = ModelGraph.load(DIGITS.model_path)
    found = layer_weights(graph)
    held = [tensor for tensor in onnx.load(DIGITS.model_path).graph.initializer if len(tensor.dims) >= 2]
    assert found.parameters.sum() == sum(math.prod(tensor.dims) for tensor in held)
    assert found.first_layer[0] == 0
    assert found.first_layer[-1] == len(found.statistics) == len(held)
    assert list(found.first_layer) == sorted(found.first_layer)


def test_networks_of_any_depth_have_rows_of_the_same_length() -> None:
    rows = [
        features(weights(layers), Training(), Variant(technique="skip", first_layer=0, end_layer=1), pixels=1024)
        for layers in (1, 3, 8, 50)
    ]
    assert len({row.shape for row in rows}) == 1


def test_an_unknown_optimiser_and_a_network_without_weights_are_refused() -> None:
    with pytest.raises(AccuracyModelError, match="sgd, adam"):
        features(weights(3), Training(optimiser="lion"), Variant(technique="none"), pixels=1)
    empty = Weights(statistics=np.zeros((0, 7)), parameters=np.zeros(0, np.int64))
    with pytest.raises(AccuracyModelError, match="no weights"):
        features(empty, Training(), Variant(technique="none"), pixels=1)


def test_the_reach_holds_95_of_100_errors() -> None:
    assert reach_of(np.arange(-50.0, 50.0)) == 48
    assert reach_of(np.array([0.3])) == 0.3


def test_a_model_says_the_same_after_it_was_written_and_read() -> None:
    model = small_model()
    again = AccuracyModel.from_json(model.to_json())
    rows = [
        features(weights(20), Training(), Variant(technique="skip", first_layer=0, end_layer=end), pixels=64)
        for end in (2, 18)
    ]
    little, much = again.predict(rows, ["skip", "skip"])
    assert [little, much] == model.predict(rows, ["skip", "skip"])
    assert little.value > much.value + 0.3
    assert little.low < little.value < little.high
    with pytest.raises(AccuracyModelError, match="'exit'"):
        again.predict(rows[:1], ["exit"])


def test_of_a_network_of_another_size_nothing_is_claimed() -> None:
    model = small_model()
    row = features(weights(20), Training(), Variant(technique="none"), pixels=224 * 224)
    (found,) = model.predict([row], ["none"])
    assert model.is_beyond(row)
    assert (found.low, found.high) == (0.0, 1.0)
    assert sizes_of(row[None])[0] == sizes_of(row[None])[1] == (20.0, math.log(4000), 224.0 * 224.0)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    for text in ("{", "[]", '{"kind": "machine-profile", "format": 1}', '{"kind": "accuracy-model", "format": 1}'):
        path.write_text(text)
        with pytest.raises(PredictionError, match="no accuracy-model"):
            load_accuracy_model(path)
    with pytest.raises(PredictionError, match="cannot read"):
        load_accuracy_model(tmp_path / "missing.json")


def test_a_bundle_without_data_says_that_its_accuracies_are_predicted(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(small_model().to_json())
    words = (
        "--accuracy-model",
        path,
        "--training",
        "learning_rate=0.1,epochs=40,batch_size=64,optimiser=sgd",
        "--nodes",
        "2-4",
    )
    result = run(DIGITS.model_path, *words, "-o", tmp_path / "d")
    assert result.exit_code == 0, result.output
    assert "predicted from the weights and not measured" in result.stdout
    manifest = Bundle.load(tmp_path / "d").manifest
    assert manifest.accuracy is not None
    assert manifest.accuracy.predicted
    assert manifest.accuracy.images == 0
    assert manifest.held_out is None
    assert {part.technique for part in manifest.parts} == {"standby", "skip"}
    for part in manifest.parts:
        assert part.accuracy is not None
        assert part.accuracy.predicted
        assert part.accuracy.low <= part.accuracy.value <= part.accuracy.high
        whole = part.technique == "standby" and not part.variant
        assert (part.accuracy == manifest.accuracy) or not whole


def test_nothing_is_predicted_for_other_classes_or_sizes_or_beside_data(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(small_model().to_json())
    onnx.save(onnx_models.resnet(2), tmp_path / "five.onnx")
    other = run(tmp_path / "five.onnx", "--accuracy-model", path, "-o", tmp_path / "a")
    assert isinstance(other.exception, PredictionError)
    assert "10 classes, this one has 5" in str(other.exception)
    path.write_text(small_model(most_layers=5.0).to_json())
    larger = run(DIGITS.model_path, "--accuracy-model", path, "-o", tmp_path / "c")
    assert isinstance(larger.exception, PredictionError)
    assert "1 to 5 layers" in str(larger.exception)
    data = ("--calibration", DIGITS.path("frames.npz"))
    both = run(DIGITS.model_path, *data, "--accuracy-model", path, "-o", tmp_path / "b")
    assert both.exit_code == 2
    assert "what can be measured is not predicted" in " ".join(both.output.split())


@pytest.mark.parametrize(
    "text",
    ["epochs", "speed=3", "epochs=many", "epochs=0", "learning_rate=inf", "epochs=40", ALL.replace("sgd", "lion")],
)
def test_a_training_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"wanted|none of"):
        parse_training(text)


def test_a_training_is_known_as_a_whole() -> None:
    known = Training(learning_rate=0.1, epochs=40, batch_size=64, optimiser="sgd")
    assert parse_training(ALL) == known
    assert parse_training(ALL.replace(",", ", ")) == known


def test_of_a_training_that_is_half_known_nothing_is_used() -> None:
    model = small_model()
    variant = Variant(technique="skip", first_layer=0, end_layer=9)
    rows = [features(weights(20), known, variant, pixels=64) for known in (Training(), Training(epochs=3))]
    one, other = model.predict(rows, ["skip", "skip"])
    assert one == other


def test_a_measured_accuracy_is_written_as_before() -> None:
    measured = Accuracy.measured(correct=9, images=10)
    assert "predicted" not in json.loads(measured.model_dump_json())
    predicted = Accuracy(value=0.5, images=0, low=0.4, high=0.6, predicted=True)
    assert Accuracy.model_validate_json(predicted.model_dump_json()) == predicted
    with pytest.raises(ValueError, match="measured on images, or predicted"):
        Accuracy(value=0.5, images=0, low=0.4, high=0.6)
