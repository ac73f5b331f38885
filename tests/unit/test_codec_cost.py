"""What codecs do to a model's activations: measured on the digits network, and what the planner is told of it."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from broker.codecs import CODECS
from planner.chain import Chain
from stages.calibration import CalibrationData, load_calibration
from stages.chain import chain_of
from stages.codec_cost import Blocks, loss_of, measure_codecs, measure_cut, measure_losses
from stages.graph import ModelGraph
from stages.manifest import CodecRecord, Manifest
from understudy.data import digits_bundle

BUNDLE = digits_bundle()


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    return ModelGraph.load(BUNDLE.model_path, shapes=BUNDLE.manifest.shapes)


@pytest.fixture(scope="module")
def data(graph: ModelGraph) -> CalibrationData:
    found = load_calibration(BUNDLE.path("frames.npz"), BUNDLE.manifest.input, graph.inputs, class_count=10)
    return found.subset(range(200))


@pytest.fixture(scope="module")
def records(graph: ModelGraph, data: CalibrationData) -> dict[str, CodecRecord]:
    return {record.codec: record for record in measure_codecs(graph, data, classifies=True)}


def chain_with(graph: ModelGraph, *records: CodecRecord) -> Chain:
    return chain_of(graph, BUNDLE.manifest.model_copy(update={"codecs": records}))


def test_every_codec_is_measured_at_every_cut_and_the_ends_stay_as_they_are(
    graph: ModelGraph, records: dict[str, CodecRecord]
) -> None:
    assert tuple(records) == CODECS[1:]
    for record in records.values():
        assert len(record.ratio) == len(graph.cuts)
        assert {record.ratio[0], record.ratio[-1]} == {1.0}
        for times in (record.encode_s_per_byte, record.decode_s_per_byte):
            assert (times[0], times[-1]) == (0.0, 0.0)
            assert all(0 < seconds < 1e-3 for seconds in times[1:-1])
        assert record.flops_per_s > 1e6


def test_the_measured_ratios_are_those_that_each_codec_promises(records: dict[str, CodecRecord]) -> None:
    for cut in range(1, len(records["zstd"].ratio) - 1):
        assert records["fp16"].ratio[cut] == 0.5
        assert 0.25 < records["int8"].ratio[cut] < 0.35
        assert records["zstd"].ratio[cut] <= 1.0
        assert records["int8+zstd"].ratio[cut] <= records["int8"].ratio[cut]
        assert records["fp16+zstd"].ratio[cut] <= records["fp16"].ratio[cut]


def test_the_loss_is_that_of_the_lossy_half_and_lossless_codecs_have_none(records: dict[str, CodecRecord]) -> None:
    assert records["zstd"].loss is None
    for lossy in ("fp16", "int8"):
        loss = records[lossy].loss
        assert loss is not None
        assert loss == records[f"{lossy}+zstd"].loss
        assert (loss.images, loss.labelled) == (200, True)
        assert loss.low <= loss.value <= loss.high < 0.1


def test_the_planner_is_told_the_upper_end_of_the_loss_and_0_of_what_is_lossless(
    graph: ModelGraph, records: dict[str, CodecRecord]
) -> None:
    costs = {codec.name: codec for codec in chain_with(graph, *records.values()).codecs}
    assert costs["zstd"].accuracy_loss == 0
    loss = records["int8"].loss
    assert loss is not None
    assert costs["int8"].accuracy_loss == max(0.0, loss.high)
    assert costs["int8"].ratio == records["int8"].ratio


def test_without_scores_for_classes_lossy_codecs_are_never_known_to_keep_a_bound(
    graph: ModelGraph, data: CalibrationData
) -> None:
    found = measure_codecs(graph, data.subset(range(2)), classifies=False)
    costs = {codec.name: codec.accuracy_loss for codec in chain_with(graph, *found).codecs}
    assert costs == {"zstd": 0.0, "fp16": None, "fp16+zstd": None, "int8": None, "int8+zstd": None}


def test_without_labels_the_loss_is_one_of_answers_that_change(graph: ModelGraph, data: CalibrationData) -> None:
    unlabelled = CalibrationData(
        path=data.path, count=data.count, labels=None, classes=None, read=data.read, raw=data.raw
    )
    (none,) = measure_losses(Blocks.of(graph), unlabelled, ["none"])
    assert (none.value, none.labelled) == (0.0, False)


def test_a_codec_at_no_cut_costs_nothing_and_one_that_ruins_the_numbers_costs_much(
    graph: ModelGraph, data: CalibrationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = Blocks.of(graph)
    assert measure_losses(blocks, data, ["int8"], at=[])[0].value == 0
    monkeypatch.setattr("stages.codec_cost.codecs.decode", lambda tensor, name="": np.zeros(tensor.shape, tensor.dtype))
    (ruined,) = measure_losses(blocks, data, ["int8"], at=[5])
    assert ruined.value > 0.5
    assert ruined.low > 0.4


def test_a_cut_s_bytes_are_the_sums_of_its_tensors() -> None:
    zeros = {"x": np.zeros((1, 1000), np.float32), "y": np.zeros((1, 1000), np.int32)}
    assert measure_cut([zeros], "fp16").ratio == 0.75  # the integers stay
    assert measure_cut([zeros, zeros], "zstd").ratio < 0.02


@pytest.mark.parametrize(
    ("worse", "better", "images", "low", "high"),
    [(0, 0, 1000, -0.0039, 0.0039), (10, 0, 1000, 0.0040, 0.0183), (0, 10, 1000, -0.0183, -0.0040)],
)
def test_the_interval_of_a_loss_is_that_of_the_difference(
    worse: int, better: int, images: int, low: float, high: float
) -> None:
    loss = loss_of(worse, better, images)
    assert loss.value == pytest.approx((worse - better) / images)
    assert (loss.low, loss.high) == (pytest.approx(low, abs=3e-4), pytest.approx(high, abs=3e-4))


def test_numbers_that_were_measured_for_other_cuts_are_not_used(
    graph: ModelGraph, records: dict[str, CodecRecord]
) -> None:
    other = records["zstd"].model_copy(
        update=dict.fromkeys(("ratio", "encode_s_per_byte", "decode_s_per_byte"), (1.0,) * 3)
    )
    assert [codec.name for codec in chain_with(graph, other, records["int8"]).codecs] == ["int8"]


def test_a_bundle_keeps_what_was_measured_and_one_without_it_is_still_one(records: dict[str, CodecRecord]) -> None:
    draft = BUNDLE.manifest.model_copy(update={"codecs": tuple(records.values())})
    assert Manifest.model_validate_json(draft.to_json()).codecs == draft.codecs
    assert BUNDLE.manifest.codecs == ()


@pytest.mark.parametrize(
    "change",
    [{"codec": "none"}, {"codec": "gzip"}, {"ratio": [1.0]}, {"ratio": [0.0] * 15}, {"flops_per_s": 0.0}],
    ids=str,
)
def test_a_record_that_cannot_be_is_refused(records: dict[str, CodecRecord], change: dict[str, object]) -> None:
    document = {**records["zstd"].model_dump(mode="json"), **change}
    with pytest.raises(ValidationError):
        CodecRecord.model_validate(document, strict=False)
