"""The arithmetic of the codecs' benchmark. Nothing here measures time."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from bench.codecs.__main__ import parse
from bench.codecs.measure import (
    CODECS,
    MAX_LOSS,
    MBIT_PER_S,
    CutResult,
    Measured,
    costs,
    equal_cuts,
    losses_by_cut,
    losses_together,
    planned,
)
from bench.codecs.report import details, headlines, show
from planner.chain import Chain
from planner.codec import within
from stages.calibration import CalibrationData, load_calibration
from stages.codec_cost import Blocks, CutCost, loss_of, measure_losses
from stages.graph import ModelGraph
from understudy.data import digits_bundle

BUNDLE = digits_bundle()
GRAPH = ModelGraph.load(BUNDLE.model_path, shapes=BUNDLE.manifest.shapes)
LOSS = {"fp16": loss_of(0, 0, 8000), "int8": loss_of(20, 10, 8000)}


def images(count: int) -> CalibrationData:
    data = load_calibration(BUNDLE.path("frames.npz"), BUNDLE.manifest.input, GRAPH.inputs, class_count=10)
    return data.subset(range(count))


def cut(codec: str, number: int, ratio: float) -> CutResult:
    cost = CutCost(ratio=ratio, encode_s_per_byte=1e-9, decode_s_per_byte=1e-9)
    size = GRAPH.cuts[number].size_bytes
    return CutResult(codec=codec, cut=number, size_bytes=size, cost=cost, loss=LOSS.get(codec.partition("+")[0]))  # type: ignore[arg-type]


def every_cut() -> tuple[CutResult, ...]:
    ratios = {"fp16": 0.5, "int8": 0.25, "zstd": 0.8, "fp16+zstd": 0.4, "int8+zstd": 0.2}
    return tuple(cut(codec, number, ratio) for codec, ratio in ratios.items() for number in range(1, len(GRAPH.blocks)))


def chain() -> Chain:
    base = GRAPH.chain()
    return Chain(
        name=base.name,
        cut_bytes=base.cut_bytes,
        block_memory_bytes=base.block_memory_bytes,
        block_peak_bytes=base.block_peak_bytes,
        block_flops=base.block_flops,
        codecs=costs(GRAPH, every_cut(), LOSS, 1e9),
    )


def test_at_the_break_even_a_codec_takes_as_long_as_it_saves() -> None:
    result = cut("int8", 3, 0.25)
    bandwidth = result.break_even_bytes_per_s
    assert result.size_bytes / bandwidth == pytest.approx(
        0.25 * result.size_bytes / bandwidth + result.encode_s + result.decode_s
    )


def test_a_codec_that_makes_nothing_smaller_never_pays() -> None:
    assert cut("zstd", 3, 1.0).break_even_bytes_per_s == 0


def test_the_loss_at_one_cut_is_the_same_whether_the_network_runs_from_there_or_from_the_beginning() -> None:
    data, blocks = images(60), Blocks.of(GRAPH)
    losses, accuracy = losses_by_cut(blocks, data)
    assert accuracy > 0.9
    for number in (1, 7, 13):
        assert losses["int8", number] == measure_losses(blocks, data, ["int8"], [number])[0]


def test_losses_at_several_cuts_are_those_of_lossy_codecs_alone() -> None:
    found = losses_together(Blocks.of(GRAPH), images(20), (3, 5))
    assert set(found) == {"fp16", "int8"}


def test_the_planner_is_told_every_codec_with_the_upper_end_of_its_loss() -> None:
    told = {cost.name: cost for cost in chain().codecs}
    assert set(told) == set(CODECS)
    assert told["zstd"].accuracy_loss == 0
    assert told["int8+zstd"].accuracy_loss == LOSS["int8"].high
    assert told["int8"].ratio == (1.0, *[0.25] * (len(GRAPH.blocks) - 1), 1.0)
    assert {cost.name for cost in within(chain().codecs, LOSS["fp16"].high)} == {"zstd", "fp16", "fp16+zstd"}


def test_more_freedom_never_makes_a_plan_slower_and_no_codec_is_named_where_none_is_allowed() -> None:
    plans = planned(chain(), 1e9)
    assert len(plans) == 3 * len(MBIT_PER_S)
    for none, lossless, lossy in zip(plans[::3], plans[1::3], plans[2::3], strict=True):
        assert [none.max_loss, lossless.max_loss, lossy.max_loss] == [None, 0.0, MAX_LOSS]
        assert set(none.codecs) == {"none"}
        assert set(lossless.codecs) <= {"none", "zstd"}
        assert none.bottleneck_s >= lossless.bottleneck_s >= lossy.bottleneck_s
    assert plans[2].codecs == ("int8+zstd",) * 3


def test_the_report_has_every_cut_and_its_json_is_one_document() -> None:
    one = Measured(
        name="digits",
        images=400,
        accuracy=0.99,
        cuts=every_cut(),
        plan_cuts=equal_cuts(chain()),
        at_plan=LOSS,
        at_all=LOSS,
        plans=tuple(planned(chain(), 1e9)),
    )
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as capture:
        show(console, [one])
    assert "int8+zstd" in capture.get()
    assert {figure.met for figure in headlines([one]) if figure.wanted} == {True}
    network = json.loads(json.dumps(details([one])))["networks"]["digits"]
    assert len(network["cuts"]) == len(CODECS) * (len(GRAPH.blocks) - 1)
    assert network["loss_at_all"]["int8"]["value"] == pytest.approx(10 / 8000)


def test_a_subject_without_labelled_images_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse([]).subjects == []
    with pytest.raises(SystemExit):
        parse(["resnet50"])
    assert "'resnet50' is no subject: there are resnet32, digits" in capsys.readouterr().err
