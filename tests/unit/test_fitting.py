"""What stands in for a lost stage: runs like it, costs less, and keeps the accuracy that is claimed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.calibration import CalibrationData, load_calibration
from stages.calibration_pack import load_bundle_calibration, pack_calibration
from stages.engine import Engine
from stages.errors import CalibrationError, ModelError
from stages.fitting import FittedPart, can_skip, fit_parts, measure, part_of, quantised, skip_model
from stages.fitting.activations import Sample
from stages.fitting.chains import whole_vectors
from stages.graph import ModelGraph
from tests import onnx_models
from tests.data import data_file
from understudy.data import digits_bundle
from understudy.fitting import planned_stages

DIGITS = digits_bundle()
GRAPH = ModelGraph.load(DIGITS.model_path)
BLOCKS = len(GRAPH.blocks)
STAGES = [(0, 5), (5, 9), (9, BLOCKS)]


def images(graph: ModelGraph, count: int = 60, seed: int = 0) -> Any:
    shape = graph.inputs[0].example_shape[1:]
    return np.random.default_rng(seed).normal(0, 1, (count, *shape)).astype(np.float32)


def frames() -> Sample:
    return Sample.of(load_calibration(DIGITS.path("frames.npz"), DIGITS.manifest.input, GRAPH.inputs))


def calibration() -> CalibrationData:
    data = load_bundle_calibration(DIGITS, GRAPH)
    assert data is not None
    return data


@pytest.fixture(scope="module")
def digits_parts() -> list[FittedPart]:
    return fit_parts(GRAPH, calibration(), stages=STAGES, exits=[0, 5, 9], held_out=frames())


def of(parts: list[FittedPart], technique: str, first: int, variant: str = "") -> FittedPart:
    found = [
        p for p in parts if (p.record.technique, p.record.first_block, p.record.variant) == (technique, first, variant)
    ]
    assert len(found) == 1
    return found[0]


def accuracy(part: FittedPart) -> float:
    assert part.record.accuracy is not None
    return part.record.accuracy.value


def stage_flops(first: int, end: int) -> int:
    return sum(block.flops for block in GRAPH.blocks[first:end])


@pytest.mark.parametrize("stage", STAGES[:2])
def test_a_stand_in_keeps_most_of_the_accuracy_for_a_third_of_the_arithmetic(
    digits_parts: list[FittedPart], stage: tuple[int, int]
) -> None:
    large, small = (of(digits_parts, "stand-in", stage[0], variant) for variant in ("large", "small"))
    assert accuracy(large) > 0.96
    assert accuracy(small) > 0.9
    assert small.record.flops < large.record.flops <= 0.37 * stage_flops(*stage)
    assert large.record.memory_bytes < 0.6 * sum(block.memory_bytes for block in GRAPH.blocks[slice(*stage)])


@pytest.mark.parametrize(
    ("count", "whole"),
    [(257.3, 256), (155.0, 160), (29.0, 32), (24.0, 24), (20.4, 20), (11.0, 12), (2.9, 2), (0.3, 1), (-5.0, 1)],
)
def test_a_number_of_channels_fills_vectors_if_one_that_does_is_near(count: float, whole: int) -> None:
    assert whole_vectors(count) == whole


def test_exits_grow_better_with_depth_and_with_size(digits_parts: list[FittedPart]) -> None:
    small = [accuracy(of(digits_parts, "exit", cut, "small")) for cut in (0, 5, 9)]
    assert small == sorted(small)
    assert accuracy(of(digits_parts, "exit", 5, "large")) > accuracy(of(digits_parts, "exit", 5, "small"))
    assert accuracy(of(digits_parts, "exit", 9, "large")) > 0.97


def test_a_standby_answers_as_the_network_does(digits_parts: list[FittedPart]) -> None:
    for first, _ in STAGES:
        assert accuracy(of(digits_parts, "standby", first)) == pytest.approx(0.995)
        assert accuracy(of(digits_parts, "standby", first, "int8")) > 0.985
        assert accuracy(of(digits_parts, "standby", first, "int4")) > 0.98


def test_every_part_runs_like_its_stage_for_one_frame_and_for_seven(digits_parts: list[FittedPart]) -> None:
    for part in digits_parts:
        source = GRAPH.cuts[part.record.first_block].tensors[0]
        target = GRAPH.cuts[part.record.end_block].tensors[0]
        engine = Engine.load(part.model, outputs=(target,))
        for batch in (1, 7):
            made = engine.run({source.name: np.ones((batch, *source.example_shape[1:]), np.float32)})
            assert list(made) == [target.name]
            assert made[target.name].shape == (batch, *target.example_shape[1:])
            assert made[target.name].dtype == np.float32


def test_the_planner_reads_the_records(digits_parts: list[FittedPart]) -> None:
    part = part_of(of(digits_parts, "stand-in", 5, "large").record)
    assert part.name == "stand-in:5-9:large"
    assert part.low is not None
    assert part.accuracy is not None
    assert part.high is not None
    assert part.low < part.accuracy <= part.high


def test_the_same_images_give_the_same_bytes() -> None:
    first, second = (fit_parts(GRAPH, calibration(), stages=[(9, 11)], exits=[9]) for _ in range(2))
    assert [part.model for part in first] == [part.model for part in second]
    assert all(part.record.accuracy is None for part in first)


def test_without_labels_accuracy_is_agreement_with_the_network(digits_parts: list[FittedPart]) -> None:
    unlabelled = Sample(inputs=frames().inputs[:50])
    [standby], healthy = measure(GRAPH, [of(digits_parts, "standby", 5)], unlabelled)
    assert healthy.value == 1
    assert not healthy.labelled
    assert accuracy(standby) == 1


# ---- other networks ------------------------------------------------------------------------------------------------


def test_a_network_that_ends_in_softmax_gets_exits_that_give_probabilities() -> None:
    graph = ModelGraph.from_model(onnx_models.resnet(4), name="small")
    x = images(graph)
    notes: list[str] = []
    parts = fit_parts(graph, x, stages=[(1, 3)], exits=[2], held_out=x, on_note=notes.append)
    assert {part.record.technique for part in parts} == {"stand-in", "skip", "standby", "exit"}
    assert notes == []
    model = next(part.model for part in parts if part.record.technique == "exit")
    cut = graph.cuts[2].tensors[0]
    scores = Engine.load(model, outputs=graph.outputs).run({cut.name: np.ones((3, *cut.example_shape[1:]), np.float32)})
    assert scores["scores"].sum(axis=1) == pytest.approx(1)


def inverted_residual() -> Any:
    """Two blocks of MobileNetV2's kind, the first of stride 2, a pool and a classifier."""
    net = onnx_models.Net(seed=2)
    limits = [net.constant(np.float32(value)) for value in (0, 6)]
    x = net.relu(net.conv("image", 3, 8))
    for stride, channels in ((2, 12), (1, 12)):
        width = 8 if stride == 2 else 12
        wide = net.op("Clip", net.op("Conv", x, net.weight(24, width, 1, 1), kernel_shape=[1, 1]), *limits)
        depth = {"group": 24, "kernel_shape": [3, 3], "pads": [1] * 4, "strides": [stride] * 2}
        wide = net.op("Clip", net.op("Conv", wide, net.weight(24, 1, 3, 3), **depth), *limits)
        narrow = net.op("Conv", wide, net.weight(channels, 24, 1, 1), kernel_shape=[1, 1])
        x = narrow if stride == 2 else net.op("Add", narrow, x)
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.named("scores", "Gemm", x, net.weight(12, 4))
    return net.model({"image": ["batch", 3, 16, 16]}, {"scores": ["batch", 4]})


def test_depthwise_blocks_with_strides_and_projections_are_thinned_too() -> None:
    graph = ModelGraph.from_model(inverted_residual(), name="mobile")
    ends = [at for at, cut in enumerate(graph.cuts) if cut.tensors[0].example_shape[1] in (8, 12)]
    stage = (ends[0], ends[-1] if ends[-1] < len(graph.blocks) else ends[-2])
    parts = fit_parts(graph, images(graph, 200), stages=[stage], exits=[], held_out=images(graph, 200, seed=1))
    large = next(part for part in parts if part.record.variant == "large")
    assert large.record.flops < 0.6 * sum(block.flops for block in graph.blocks[slice(*stage)])
    assert accuracy(large) > 0.8


def test_a_tensor_model_gets_stand_ins_that_come_close_and_no_exits() -> None:
    net = onnx_models.Net()
    x = "x"
    for _ in range(4):
        x = net.relu(net.op("MatMul", x, net.weight(16, 16)))
    net.named("y", "MatMul", x, net.weight(16, 6))
    graph = ModelGraph.from_model(net.model({"x": ["batch", 5, 16]}, {"y": ["batch", 5, 6]}), name="rows")
    notes: list[str] = []
    parts = fit_parts(graph, images(graph, 300), stages=[(1, 2)], exits=[2], held_out=None, on_note=notes.append)
    assert {part.record.technique for part in parts} == {"stand-in", "skip", "standby"}
    assert "no exit at cut 2" in notes[0]


def test_a_model_that_nothing_can_be_fitted_for_still_has_standbys() -> None:
    graph = ModelGraph.from_model(onnx_models.unet(), name="unet")
    notes: list[str] = []
    stages = [(index, index + 1) for index in range(len(graph.blocks))]
    parts = fit_parts(graph, images(graph, 20), stages=stages, exits=[], on_note=notes.append)
    assert {"standby"} <= {part.record.technique for part in parts}
    assert any("not one float32 tensor" in note or "no stand-in" in note for note in notes)


# ---- skips and quantised copies --------------------------------------------------------------------------------------


def test_skipping_passes_on_what_comes_in() -> None:
    cut = GRAPH.cuts[2].tensors[0]
    x = images(GRAPH, 2)
    value = np.broadcast_to(x, (2, *cut.example_shape[1:])).astype(np.float32)
    made = Engine.load(skip_model(GRAPH, 2, 4), outputs=GRAPH.cuts[4].tensors).run({cut.name: value})
    np.testing.assert_array_equal(made[GRAPH.cuts[4].tensors[0].name], value)


def test_what_changes_its_shape_cannot_be_skipped() -> None:
    assert can_skip(GRAPH, 1, 4)
    assert not can_skip(GRAPH, 0, 4)
    with pytest.raises(ModelError, match=r"\[0, 4\).*cannot be skipped.*comes in"):
        skip_model(GRAPH, 0, 4)


def test_quantised_copies_are_a_quarter_and_an_eighth_of_the_stage() -> None:
    whole = len(GRAPH.submodel(9, 12))
    assert len(quantised(GRAPH, 9, 12, 8)) < 0.32 * whole
    assert len(quantised(GRAPH, 9, 12, 4)) < 0.2 * whole


# ---- what is refused, and the plumbing -------------------------------------------------------------------------------


def test_stages_and_data_that_cannot_be_are_refused() -> None:
    with pytest.raises(ModelError, match="14 blocks"):
        fit_parts(GRAPH, images(GRAPH, 5), stages=[(3, 99)], exits=[])
    with pytest.raises(CalibrationError, match="no image"):
        fit_parts(GRAPH, images(GRAPH, 5)[:0], stages=[(3, 4)], exits=[])
    siamese = ModelGraph.from_model(onnx_models.siamese(), name="twins")
    with pytest.raises(ModelError, match="one input"):
        fit_parts(siamese, images(GRAPH, 5), stages=[(0, 1)], exits=[])


def test_calibration_images_survive_packing_bit_by_bit(tmp_path: Path) -> None:
    data = load_calibration(DIGITS.path("frames.npz"), DIGITS.manifest.input, GRAPH.inputs, max_images=20)
    (tmp_path / "c.npz").write_bytes(pack_calibration(data))
    again = load_calibration(tmp_path / "c.npz", DIGITS.manifest.input, GRAPH.inputs)
    assert again.count == 20
    assert again.labels is not None
    assert again.labels.tolist() == [index % 10 for index in range(20)]
    np.testing.assert_array_equal(again.read(7), data.read(7))


def test_a_fifth_is_held_out_where_no_other_data_is_given() -> None:
    data = load_calibration(DIGITS.path("frames.npz"), DIGITS.manifest.input, GRAPH.inputs)
    fit, judge = data.divided()
    assert (fit.count, judge.count) == (320, 80)
    seen = {fit.raw(index) for index in range(fit.count)}
    assert not any(judge.raw(index) in seen for index in range(judge.count))
    with pytest.raises(CalibrationError, match="too few"):
        data.subset([0, 1]).divided()


def test_stages_of_every_plan_and_single_blocks_are_prepared_for() -> None:
    stages = planned_stages(GRAPH, range(2, 4))
    assert {(index, index + 1) for index in range(BLOCKS)} <= set(stages)
    assert sum(1 for first, _ in stages if first == 0) == 3


def test_the_bundle_of_the_digits_has_parts_for_four_nodes() -> None:
    parts = DIGITS.manifest.parts
    for first, end in planned_stages(GRAPH, [4], single=False):
        mine = [
            p for p in parts if p.first_block == first and p.end_block == end and p.technique in ("stand-in", "exit")
        ]
        assert mine
        assert all(p.file in DIGITS.manifest.files for p in mine)
    assert sum(record.bytes for record in DIGITS.manifest.files.values()) < 3e6


def test_the_cifar_network_bridges_a_block_with_little_loss() -> None:
    paths = [data_file(name) for name in ("resnet32_cifar10_jpeg.onnx", "cifar10_train.npz", "cifar10_test_public.npz")]
    if any(path is None for path in paths):
        pytest.skip("needs the CIFAR-10 data, see UNDERSTUDY_DATA")
    from bench.fitting import load

    graph = ModelGraph.load(paths[0])  # type: ignore[arg-type]
    fit, test = (load(path, graph, count) for path, count in zip(paths[1:], (600, 600), strict=True))  # type: ignore[arg-type]
    parts, healthy = measure(graph, fit_parts(graph, fit, stages=[(8, 9)], exits=[]), test)
    losses = {p.record.technique: healthy.value - accuracy(p) for p in parts if p.record.variant in ("", "large")}
    assert losses["stand-in"] < 0.025
    assert losses["stand-in"] < losses["skip"]
