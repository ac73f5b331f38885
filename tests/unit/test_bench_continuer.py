"""What the benchmark of latency adds up, with runs that are made up. Nothing here measures time."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bench.continuer.__main__ import parse
from bench.continuer.cases import Case, Network, network
from bench.continuer.latency import Outcome, outcomes
from bench.continuer.report import document, groups, show
from bench.jobs import FULL
from planner.predictor import Predictor
from planner.score import Score
from stages.graph import ModelGraph
from stages.latency import LatencyModel, stage_session
from tests.data import data_file
from tests.onnx_models import resnet
from tests.unit.latency_profiles import make_profile, roofline_law

pytest.importorskip("lightgbm", reason="the extra 'profile' is not installed")

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
    variation=2,
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


def test_where_all_layers_take_the_same_time_r2_is_not_given() -> None:
    same = replace(SCORE, kind="reshape", r2=-0.01, variation=0.05)
    figures = {figure["name"]: figure for figure in document([SCORE, same], [outcome(1.0)])["figures"]}
    assert (figures["R2 reshape"]["value"], figures["R2 reshape"]["met"]) == (None, None)
    console = Console(record=True, width=120, file=io.StringIO())
    show(console, [SCORE, same], [outcome(1.0)])
    shown = console.export_text()
    assert "reshape: all take the same time within 5%" in shown
    assert "-0.01" not in shown


def test_runs_of_what_is_loaded_correct_it_and_the_stages_of_another_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything takes twice as long as a profile without noise says."""
    graph = ModelGraph.from_model(resnet(3), name="net")
    blocks = len(graph.blocks)
    deployed, other = ((0, 1), (1, blocks)), ((0, 2), (2, blocks))
    sessions = {f"stage:{first}-{end}": stage_session(graph, first, end) for first, end in (*deployed, *other)}
    case = Case(technique="repartition", nodes=2, lost=0, sessions=("stage:0-2", f"stage:2-{blocks}"))
    subject = Network(name="net", graph=graph, sessions=sessions, deployed={2: deployed}, cases=(case,))
    profile = make_profile({"convolution": roofline_law}, count=40)
    model = LatencyModel(Predictor(profile))
    twice = {name: 2 * model.session(session.model).seconds for name, session in sessions.items()}
    monkeypatch.setattr(
        "bench.continuer.latency.measure_sessions",
        lambda _, runs, **__: {name: [s] * runs for name, s in twice.items()},
    )
    (found,) = outcomes(subject, profile, runs=4)
    assert found.measured_s == pytest.approx(2 * found.predicted_s)
    assert found.calibrated_s == pytest.approx(found.measured_s)
    assert found.repeat == 0


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


def test_among_all_benchmarks_it_runs_what_needs_no_training_histories(tmp_path: Path) -> None:
    job = next(job for job in FULL if job.name == "continuer")
    module, *arguments = job.command(tmp_path)[1:]
    options = parse(arguments)
    assert module == "bench.continuer"
    assert options.only == ["latency", "scheduler", "accuracy"]
    assert (options.quick, options.json, options.plot) == (False, job.json(tmp_path), job.plot(tmp_path))
