"""The arithmetic of `bench.continuer`: divisions of images, paths of parts, and what the scheduler is judged by."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench.continuer import accuracy_report
from bench.continuer.accuracy import KINDS, Answers, Found, divide
from bench.continuer.accuracy_model import folds, predict_left_out, scores
from bench.continuer.emulated import Emulated, forced_options
from bench.continuer.histories import History, HistoryError, load_all, table
from bench.continuer.scheduler import SETS, score, telling
from bench.continuer.scheduler_measure import answers
from bench.recovery.hindsight import Forced
from planner.accuracy import Variant
from planner.part import Part, stage_part
from recovery.estimates import Timings
from stages.engine import Engine
from stages.graph import ModelGraph
from understudy.data import digits_bundle

PART = Part(technique="stand-in", first_block=1, end_block=2, variant="small")


def of_images(right: np.ndarray, healthy: np.ndarray) -> Answers:
    return Answers(right=right, same=right == healthy, healthy=healthy)


def test_a_part_that_is_right_where_the_network_is_has_no_anchored_error() -> None:
    healthy = np.random.default_rng(1).random(400) < 0.7
    (found,) = divide([PART], of_images(healthy[None], healthy), 50, "labelled")
    assert found.anchored == pytest.approx(0.0, abs=1e-12)
    assert found.raw > 0.01
    assert found.covered == 1.0


def test_the_widened_interval_covers_fresh_images_95_times_of_100() -> None:
    random = np.random.default_rng(2)
    right = random.random((40, 1000)) < 0.8
    found = divide([PART] * 40, of_images(right, np.ones(1000, bool)), 200, "labelled")
    assert np.mean([one.covered_fresh for one in found]) == pytest.approx(0.95, abs=0.02)
    assert np.mean([one.covered for one in found]) < 0.9


def test_images_on_which_network_and_part_are_better_alike_mislead_only_the_raw_error() -> None:
    random = np.random.default_rng(3)
    healthy = random.random(4000) < 0.8
    right = healthy & (random.random(4000) < 0.75)
    seen_healthy = np.ones(4000, bool)
    seen = of_images((random.random(4000) < 0.75)[None], seen_healthy)
    (found,) = divide([PART], of_images(right[None], healthy), 20, "training images", seen)
    assert found.raw > 0.2
    assert found.anchored < 0.05


def test_a_path_answers_as_its_parts_do_one_after_the_other() -> None:
    graph = ModelGraph.load(digits_bundle().model_path)
    chain, blocks = graph.chain(), len(graph.blocks)
    paths = [[stage_part(chain, 0, cut), stage_part(chain, cut, blocks)] for cut in range(1, blocks)]
    shape = graph.inputs[0].example_shape[1:]
    inputs = np.random.default_rng(4).random((7, *shape), dtype=np.float32)
    found = answers(graph, lambda part: graph.submodel(part.first_block, part.end_block), paths, inputs)
    whole = Engine.load(graph.submodel(0, blocks), outputs=graph.outputs)
    name = graph.outputs[0].name
    own = [np.asarray(whole.run({graph.inputs[0].name: one[None]})[name]).argmax() for one in inputs]
    assert len(found) == blocks - 1
    for classes in found.values():
        assert classes.tolist() == own


def forced(technique: str, accuracy: float, latency_ms: float) -> Forced:
    return Forced(
        role="2 nodes node01",
        technique=technique,  # type: ignore[arg-type]
        times=9,
        estimated_accuracy=accuracy,
        accuracy=accuracy,
        accuracy_noise=0.0,
        estimated_latency_ms=latency_ms,
        latency_ms=latency_ms,
        latency_noise_ms=0.0,
        estimated_downtime_ms=latency_ms,
        downtime_ms=latency_ms,
        downtime_noise_ms=0.0,
    )


def test_each_set_of_techniques_is_scored_on_its_own() -> None:
    rows = [forced("standby", 0.9, 5.0), forced("exit", 0.7, 2.0), forced("skip", 0.5, 4.0)]
    found = score(rows)
    assert set(found) == set(SETS)
    assert all(one.decisions == one.same == 36 for one in found.values())
    assert {one.technique for one in found["the paper's"].forced} == {"exit", "skip"}


def test_an_instance_tells_something_where_a_wrong_choice_would_be_seen() -> None:
    rows = [forced("exit", 0.7, 2.0), forced("skip", 0.5, 4.0)]
    assert telling(rows) == 1.0
    assert telling([replace(one, accuracy_noise=1.0) for one in rows]) == 0.0
    assert math.isnan(telling(rows[:1]))


def test_every_technique_goes_around_the_lost_node() -> None:
    bundle = digits_bundle()
    emulated = Emulated.of(bundle, ModelGraph.load(bundle.model_path), 4)
    stages = [stage_part(emulated.chain, stage.first_block, stage.end_block).name for stage in emulated.plan.stages]
    setup = emulated.setup("speed", dict.fromkeys(stages, 0.001), Timings())
    found = forced_options(setup)
    assert set(found) == {node.name for node in emulated.nodes} == set(emulated.survivors)
    for lost, ways in found.items():
        assert {"standby", "exit", "repartition"} <= set(ways)
        for technique, option in ways.items():
            assert option.technique == technique
            assert lost not in option.nodes
            assert option.accuracy is not None


def test_latencies_that_are_told_are_used_and_others_follow_from_the_speed() -> None:
    bundle = digits_bundle()
    emulated = Emulated.of(bundle, ModelGraph.load(bundle.model_path), 2)
    stages = [stage_part(emulated.chain, stage.first_block, stage.end_block) for stage in emulated.plan.stages]
    times = {part.name: 0.25 for part in stages}
    for source in ("speed", "calibrated"):
        setup = emulated.setup(source, times, Timings())  # type: ignore[arg-type]
        assert setup.estimates.part_s(stages[0], "node01") == pytest.approx(0.25)
    slower = emulated.setup("calibrated", {**times, stages[0].name: 0.5}, Timings())
    assert slower.estimates.part_s(stages[0], "node02") == 0.5


VARIANTS = (Variant(technique="none"), Variant(technique="skip", first_layer=1, end_layer=3))


def history(name: str, network: str, family: str = "resnet", checkpoints: int = 4) -> History:
    """Accuracy grows with the spread of the weights; a skip costs a fifth of it."""
    random = np.random.default_rng(len(name))
    made = History(
        facts={
            "name": name,
            "network": network,
            "family": family,
            "pixels": 16,
            "learning_rate": 0.1,
            "batch_size": 32,
            "optimiser": "sgd",
        },
        parameters=np.full(5, 100),
        variants=VARIANTS,
    )
    for checkpoint in range(checkpoints):
        accuracy = 0.2 + 0.6 * checkpoint / checkpoints + 0.01 * random.random()
        made.epochs.append(checkpoint + 1.0)
        made.statistics.append(np.full((5, 7), accuracy))
        made.accuracies.append(np.array([accuracy, 0.8 * accuracy]))
    return made


def test_a_history_is_the_same_after_it_was_written_and_read(tmp_path: Path) -> None:
    written = history("run1", "small")
    written.save(tmp_path / "run1.npz")
    (found,) = load_all(tmp_path)
    assert found.facts == written.facts
    assert found.variants == VARIANTS
    assert found.epochs == written.epochs
    assert np.allclose(found.accuracies, written.accuracies)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run1.npz"]


def test_what_is_no_history_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"bench\.continuer\.training makes them"):
        load_all(tmp_path)
    (tmp_path / "x.npz").write_bytes(b"PK")
    with pytest.raises(HistoryError, match=r"x\.npz"):
        load_all(tmp_path)


def test_no_group_is_on_both_sides_and_every_row_is_tried_once() -> None:
    groups = np.array([f"run{index % 7}" for index in range(100)])
    tried = np.zeros(100)
    for fitted, out in folds(groups):
        assert not set(groups[fitted]) & set(groups[out])
        tried += out
    assert (tried == 1).all()


def test_one_family_alone_cannot_be_tried_on_another() -> None:
    assert list(folds(np.array(["resnet"] * 5))) == []


def test_trees_learn_from_other_runs_what_the_weights_say() -> None:
    pytest.importorskip("lightgbm", reason="pip install 'understudy[profile]'")
    rows = table([history(f"run{index:03}", f"net{index % 3}", checkpoints=8) for index in range(10)])
    assert len(rows.targets) == 10 * 8 * len(VARIANTS)
    found = {one.technique: one for one in scores(rows, "run", predict_left_out(rows, "run"))}
    assert set(found) == {"all", "none", "skip"}
    assert found["all"].r2 > 0.9
    assert found["none"].rows == 80


def test_the_headlines_of_accuracies_are_of_all_parts_and_of_each_technique() -> None:
    random = np.random.default_rng(5)
    healthy = random.random(600) < 0.9
    exits = Part(technique="exit", first_block=1, end_block=2, variant="small")
    answers_of = of_images(np.stack([healthy, random.random(600) < 0.5]), healthy)
    errors = {kind: divide([PART, exits], answers_of, 20, kind, answers_of) for kind in KINDS}
    found = Found(
        network="resnet32", nodes=4, healthy=0.9, calibration_images=300, fresh_images=300, divisions=20, errors=errors
    )
    figures = {figure.name: figure for figure in accuracy_report.figures([found])}
    assert figures["ResNet-32, stand-in: accuracy error, anchored"].met
    assert not figures["ResNet-32, exit: accuracy error, anchored"].met
    accuracy_report.show(Console(quiet=True), [found], "")
