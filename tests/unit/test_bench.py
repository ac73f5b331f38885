"""The arithmetic of the benchmarks. Nothing here measures time."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import bench
from bench import harness
from bench.delivery import __main__ as delivery
from bench.delivery.bare import Bare
from bench.delivery.comparison import BARE, TENSORS, Comparison, Side, by_place, net_s, wanted
from bench.delivery.models import make_subject, scores_of, side_of
from bench.delivery.stage import subject_of, take
from bench.pipeline import CLIENT, SERVER, Streamed, client_window
from bench.subjects import MissingSubjectError, data_file, load
from bench.throughput import parse
from broker.activation import Activation, FrameTag
from stages.flow import Flow

FOLDER = Path(bench.__file__).parent

COMMANDS = sorted(
    ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts).removesuffix(".__main__")
    for path in FOLDER.rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text()
)


@dataclass(frozen=True)
class Hop:
    cut: int
    at: float
    ms: float


def test_a_summary_is_the_median_with_interpolated_quartiles() -> None:
    summary = harness.summarise([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (summary.q1, summary.median, summary.q3, summary.count) == (2.0, 3.0, 4.0, 5)
    assert summary.spread == pytest.approx(2 / 3)


def test_a_single_measurement_is_its_own_summary() -> None:
    summary = harness.summarise([7.0])
    assert (summary.q1, summary.median, summary.q3, summary.spread) == (7.0, 7.0, 7.0, 0.0)


def test_nothing_measured_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        harness.summarise([])


def test_a_ratio_is_taken_pair_by_pair_so_that_a_slow_round_cancels() -> None:
    # In the second round the machine was four times slower for both sides.
    ratio = harness.ratios([90.0, 22.5, 90.0], [100.0, 25.0, 100.0])
    assert ratio.median == pytest.approx(0.9)
    assert ratio.spread == pytest.approx(0.0)


def test_sides_of_different_length_are_not_paired() -> None:
    with pytest.raises(ValueError, match="zip"):
        harness.ratios([1.0], [1.0, 2.0])


@pytest.mark.parametrize(("stages", "cores", "threads"), [(1, 2, 1), (2, 2, 2), (4, 2, 2), (4, 8, 4)])
def test_the_reference_may_use_as_many_threads_as_the_pipeline_can(stages: int, cores: int, threads: int) -> None:
    assert harness.reference_threads(stages, cores) == threads


def test_a_gap_is_the_time_from_done_on_one_node_to_taken_on_the_next() -> None:
    # Done at 10.000 s; the next had it for 2 ms and was done at 10.0025 s: it took it at 10.0005 s.
    path = [Hop(0, 10.0, 3.0), Hop(5, 10.0025, 2.0), Hop(9, 10.0045, 1.2)]
    assert harness.gaps_us(path) == pytest.approx({5: 500.0, 9: 800.0}, abs=0.1)


def test_one_stage_has_no_gap_and_no_crossing() -> None:
    assert harness.gaps_us([Hop(0, 10.0, 3.0)]) == {}
    assert harness.crossings(1) == 0


def test_every_message_between_nodes_is_a_crossing_the_way_back_to_the_head_too() -> None:
    assert [harness.crossings(stages) for stages in (2, 3, 4)] == [2, 3, 4]


def test_what_is_neither_in_stages_nor_between_them_is_the_head() -> None:
    path = [Hop(0, 10.0, 3.0), Hop(5, 10.0025, 2.0)]
    assert harness.outside_us(6.0, path) == pytest.approx(500.0, abs=0.1)


def test_cpu_per_hop_is_what_more_stages_cost_more_divided_by_the_crossings() -> None:
    assert harness.cpu_per_hop_us(250e-6, 150e-6, 4) == pytest.approx(25.0)
    assert harness.cpu_per_hop_us(150e-6, 150e-6, 1) is None


def test_the_reference_s_best_class_agrees_and_so_does_a_tie_by_rounding() -> None:
    scores = [0.1, 0.45, 0.45 - 5e-5]
    assert harness.agrees(1, scores)
    assert harness.agrees(2, scores)
    assert not harness.agrees(0, scores)
    assert not harness.agrees(None, scores)


def test_the_client_fills_the_pipeline_but_does_not_queue_large_frames_for_seconds() -> None:
    assert client_window(Flow(window=256, batch=32), 4) == 320
    assert client_window(Flow(window=41, batch=1), 4) == 16


def test_processes_report_the_cpu_and_memory_of_this_one() -> None:
    assert harness.cpu_s(os.getpid()) > 0
    assert harness.rss_bytes(os.getpid()) > 1 << 20
    assert harness.cores() >= 1


def test_a_process_that_has_ended_counts_as_nothing() -> None:
    assert harness.cpu_s(2**22 + 1) == 0.0
    assert harness.rss_bytes(2**22 + 1) == 0


def test_results_are_written_as_json_with_summaries_as_objects(tmp_path: Path) -> None:
    path = tmp_path / "results" / "throughput.json"
    harness.write_json(path, {"ratio": harness.summarise([0.5, 1.0, 1.5])})
    assert '"median": 1.0' in path.read_text()


def test_a_missing_data_folder_names_the_file_and_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_DATA", str(tmp_path))
    with pytest.raises(MissingSubjectError, match=r"net\.onnx is not in .*UNDERSTUDY_DATA"):
        data_file("net.onnx")


def test_the_digits_frames_decode_to_the_model_s_input(tmp_path: Path) -> None:
    subject = load("digits", tmp_path)
    (name,) = (tensor.name for tensor in subject.spec.inputs)
    assert subject.decode(subject.frames[0])[name].shape == (1, 1, 8, 8)
    assert subject.spec.dynamic_batch


def test_stages_are_read_as_a_sorted_list_without_repeats() -> None:
    assert parse(["--stages", "4,1,4"]).stages == [1, 4]


@pytest.mark.parametrize("text", ["0", "two", "1,,2"])
def test_wrong_stages_are_refused_with_the_option_s_name(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--stages", text])
    assert "--stages" in capsys.readouterr().err


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(20, 0, -1)]
    assert harness.percentile(values, 0.5) == 10.0
    assert harness.percentile(values, 0.95) == 19.0
    assert harness.percentile([7.0], 0.95) == 7.0
    assert math.isnan(harness.percentile([], 0.5))


def activation(*ids: str, side: int = 2) -> Activation:
    tensors = {"x": np.zeros((len(ids), 1, side, side), np.float32)}
    return Activation(epoch=1, cut=1, frames=tuple(FrameTag(name) for name in ids), tensors=tensors)


def test_a_bare_stage_joins_what_waits_up_to_the_batch_and_keeps_the_order() -> None:
    queue = deque([activation("a"), activation("b", "c"), activation("d")])
    assert [[frame.id for frame in one.frames] for one in take(queue, 3)] == [["a"], ["b", "c"]]
    assert [[frame.id for frame in one.frames] for one in take(queue, 3)] == [["d"]]
    assert not queue


def test_a_bare_stage_takes_a_message_that_is_larger_than_its_batch_and_joins_no_frames_of_other_sizes() -> None:
    queue = deque([activation("a", "b"), activation("c"), activation("d", side=3)])
    assert len(take(queue, 1)) == 1
    assert len(take(queue, 8)) == 1


def test_activations_go_along_the_bare_chain_and_come_out_at_its_end() -> None:
    assert [subject_of(cut, 3) for cut in range(4)] == ["bare.in", "bare.1", "bare.2", "bare.out"]


@pytest.mark.parametrize(("size", "side"), [(12_000, 8), (600_000, 56), (1, 1)])
def test_a_frame_has_about_the_size_that_was_asked_for(size: int, side: int) -> None:
    assert side_of(size) == side


def test_the_delivery_model_has_as_many_blocks_as_stages_cuts_of_one_size_and_frames_of_several_classes(
    tmp_path: Path,
) -> None:
    subject = make_subject(12_000, 3, tmp_path)
    assert subject.spec.blocks == 3
    assert {subject.spec.cut_bytes(cut) for cut in range(3)} == {12_288}
    assert subject.spec.dynamic_batch
    assert not subject.slow
    assert len({scores.index(max(scores)) for scores in scores_of(subject)}) > 1


def test_cpu_time_is_summed_by_where_frames_are() -> None:
    used = {CLIENT: 1.0, SERVER: 2.0, "controller": 4.0, "node1": 8.0, "node2": 16.0, "node3": 32.0}
    places = by_place(used, head="node2", nodes=("node1", "node2", "node3"))
    assert places == {"client": 1.0, "server": 2.0, "head": 16.0, "other nodes": 40.0, "controller": 4.0}


def test_what_time_costs_is_not_a_frame_s() -> None:
    used, awake = {"controller": 9.0, "node1": 3.0, CLIENT: 1.0}, {"controller": 0.1, "node1": 0.25}
    assert net_s(used, awake, elapsed_s=4.0, handling=("node1", CLIENT)) == pytest.approx(3.0)


def test_a_mode_is_compared_with_the_bare_chain_of_the_same_round(tmp_path: Path) -> None:
    def side(name: str, *rates: int) -> Side:
        rounds = [Streamed(frames=rate, elapsed_s=1.0, cpu_s={"node1": 0.5}, others_s=0.0, wrong=0) for rate in rates]
        return Side(name=name, runs=runs, streamed=rounds)

    subject = make_subject(12_000, 2, tmp_path)
    runs = Bare(subject, [], None, window=1, pids={"node1": 1}, edges=True)  # type: ignore[arg-type]
    sides = [side(BARE, 100, 50), side("at-least-once", 90, 45), side(TENSORS, 180, 90)]
    run = Comparison(subject=subject, stages=2, window=1, batch=1, sides=sides)
    assert run.ratio("at-least-once").median == pytest.approx(0.9)
    assert run.ratio("at-least-once", TENSORS).median == pytest.approx(0.5)
    assert run.cpu_ratio("at-least-once").median == pytest.approx(0.9)
    assert [one.name for one in run.modes] == ["at-least-once"]


def test_small_and_large_frames_have_wishes_of_their_own_for_at_least_once_alone() -> None:
    assert [wanted("at-least-once", size) for size in (12_288, 602_112)] == [0.9, 0.97]
    assert wanted("durable", 12_288) is None


def test_delivery_is_measured_for_all_modes_and_two_sizes_of_frames_unless_told_otherwise() -> None:
    options = delivery.parse([])
    assert (options.frames, options.stages) == ([12_000, 600_000], 3)
    assert options.mode == ["at-least-once", "durable", "ordered"]
    assert delivery.parse(["--mode", "durable", "--frames", "1MB"]).frames == [1_000_000]


@pytest.mark.parametrize("arguments", [["--frames", "large"], ["--stages", "1"]])
def test_wrong_sizes_and_a_single_stage_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        delivery.parse(arguments)
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_how_it_is_used(command: str) -> None:
    argv = [sys.executable, "-m", command, "--help"]
    done = subprocess.run(argv, cwd=FOLDER.parent, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python -m {command}" in done.stdout
