"""What the benchmark of latency adds up, with runs that are made up. Nothing here measures time."""

from __future__ import annotations

import pytest

from bench.continuer.__main__ import parse
from bench.continuer.cases import Case, network
from bench.continuer.latency import Outcome, factor
from bench.continuer.report import document, groups
from planner.latency import Calibration
from planner.score import Score
from tests.data import data_file

SCORE = Score(
    kind="dense",
    fitted=80,
    held_out=20,
    r2=0.99,
    r2_log=0.9,
    r2_roofline=0.5,
    mse_s2=1e-9,
    error=0.1,
    covered=1,
    noise=0,
)


def outcome(predicted_s: float, calibrated_s: float = 1.0, technique: str = "exit") -> Outcome:
    case = Case(technique=technique, nodes=4, lost=1, sessions=("stage:0-2",))  # type: ignore[arg-type]
    return Outcome(
        network="net",
        case=case,
        predicted_s=predicted_s,
        low_s=0.9 * predicted_s,
        high_s=1.1 * predicted_s,
        calibrated_s=calibrated_s,
        measured_s=1.0,
        repeat=0.01,
    )


def test_errors_are_averaged_per_technique_whatever_their_sign() -> None:
    (found,) = groups([outcome(1.2, 1.01), outcome(0.9, 0.99)])
    assert (found.cases, found.error) == (2, pytest.approx(0.15))
    assert found.calibrated_error == pytest.approx(0.01)
    assert found.covered == 0


def test_the_figures_say_what_is_wanted_and_whether_it_is_met() -> None:
    figures = {figure["name"]: figure for figure in document([SCORE], [outcome(1.04, 1.02)])["figures"]}
    assert figures["R2 dense"]["met"]
    assert figures["unseen net exit"]["met"]
    assert not figures["calibrated net exit"]["met"]
    assert set(figures["R2 dense"]) == {"name", "value", "unit", "wanted", "met", "note"}


def test_a_stage_has_the_factor_of_its_blocks_and_a_part_that_of_the_network() -> None:
    calibration = Calibration(factors=(1.0, 2.0, 2.0), weights=(2.0, 1.0, 1.0), spread=0.02)
    assert factor(calibration, "stage:1-3") == 2.0
    assert factor(calibration, "exit:1-3:pool") == 1.5


@pytest.mark.skipif(data_file("resnet32_cifar10_jpeg.onnx") is None, reason="the CIFAR networks are not here")
def test_with_a_node_for_every_block_each_loss_can_be_repaired_and_what_keeps_its_shape_skipped() -> None:
    subject = network("ResNet-32", (), each_block=True)
    blocks = len(subject.graph.blocks)
    repaired = [case for case in subject.cases if case.technique == "repartition"]
    skipped = [case for case in subject.cases if case.technique == "skip"]
    assert [case.lost for case in repaired] == list(range(blocks))
    assert len(skipped) == sum(block.skippable for block in subject.graph.blocks)
    for case in skipped:
        assert len(case.sessions) == blocks
        assert f"stage:{case.lost}-{case.lost + 1}" not in case.sessions
    assert {name for case in subject.cases for name in case.sessions} <= set(subject.sessions)


def test_the_command_line_has_a_short_form() -> None:
    assert parse(["--only", "latency", "--quick"]).quick
