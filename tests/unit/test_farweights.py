"""Weights that are in no cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from planner.farweights import FarWeights
from planner.predictor import Predictor
from stages.farweights import PROBE, TOTALS, measure_far_weights, suitable
from stages.features import kind_of
from stages.latency import LatencyModel
from stages.layers import Layer, Operand, fused_layers
from stages.timing import OPSETS, Rounds, Timing
from tests.onnx_models import resnet
from tests.unit.latency_profiles import make_profile, roofline_law
from understudy.profilefile import read_profile, write_profile

MB = 1 << 20
FAR = FarWeights(seconds_per_byte={"dense": 1e-11}, shares=((4.0 * MB, 0.0), (16.0 * MB, 0.2), (64.0 * MB, 1.0)))


@pytest.mark.parametrize(
    ("size", "share"), [(1, 0.0), (4 * MB, 0.0), (8 * MB, 0.1), (16 * MB, 0.2), (32 * MB, 0.6), (500 * MB, 1.0)]
)
def test_the_more_weights_a_session_has_the_more_of_them_come_from_memory(size: float, share: float) -> None:
    assert FAR.share(size) == pytest.approx(share)


def test_a_byte_costs_what_it_costs_its_type() -> None:
    assert FAR.seconds("dense", 1e6, 64 * MB) == pytest.approx(1e-5)
    assert FAR.seconds("dense", 1e6, MB) == 0
    assert FAR.seconds("add", 1e6, 64 * MB) == 0


@pytest.mark.parametrize("shares", [((4.0, 0.5), (8.0, 0.2)), ((8.0, 0.0), (4.0, 1.0)), ((4.0, 1.5),)])
def test_shares_that_do_not_ascend_are_refused(shares: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        FarWeights(seconds_per_byte={}, shares=shares)


def test_a_negative_cost_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        FarWeights(seconds_per_byte={"dense": -1.0}, shares=())


class Machine:
    """Takes `near` seconds for a byte of weights, and `far` where a session has 16 MB of them or more."""

    def __init__(self, near: float, far: float) -> None:
        self._near, self._far = near, far

    def time(self, layers: Sequence[Layer], *, weight_bytes: int, rounds: Rounds) -> list[Timing]:
        rate = self._far if weight_bytes >= 16 * MB else self._near
        return [Timing(seconds=rate * layer.weight_bytes, spread=0.0, rounds=8) for layer in layers]


def dense(side: int) -> Layer:
    shapes = (1, side), (side, side)
    inputs = tuple(Operand(dtype="float32", shape=shape, static=shape[0] > 1) for shape in shapes)
    return Layer(op_type="MatMul", domain="", attributes=(), inputs=inputs, outputs=inputs[:1], opsets=OPSETS)


def test_a_machine_with_caches_is_found_out() -> None:
    found = measure_far_weights(Machine(near=1e-11, far=3e-11), [dense(256), dense(512)])
    assert found is not None
    assert found.seconds_per_byte == {"dense": pytest.approx(2e-11)}
    assert [found.share(total) for total in TOTALS] == [0, 0, 1, 1, 1]


def test_where_caches_make_no_difference_there_is_nothing_to_add() -> None:
    assert measure_far_weights(Machine(near=1e-11, far=1.01e-11), [dense(256)]) is None


def test_layers_tell_it_whose_weights_are_neither_few_nor_enormous() -> None:
    assert suitable(PROBE)
    assert [suitable(dense(side)) for side in (256, 512, 1024, 2048)] == [False, True, True, False]


def test_a_session_takes_longer_by_what_its_weights_cost_and_the_profiles_file_keeps_it(tmp_path: Path) -> None:
    far = FarWeights(seconds_per_byte={"convolution": 1e-9}, shares=((1.0, 0.0), (2.0, 1.0)))
    model = resnet(3).SerializeToString()
    write_profile(tmp_path / "far.json", make_profile({"convolution": roofline_law}, count=40, far=far))
    profile = read_profile(tmp_path / "far.json")
    assert profile.far == far
    with_it, without = (LatencyModel(Predictor(each)).session(model) for each in (profile, replace(profile, far=None)))
    convolutions = sum(layer.weight_bytes for layer in fused_layers(model) if kind_of(layer) == "convolution")
    assert with_it.seconds - without.seconds == pytest.approx(1e-9 * convolutions)
    assert with_it.low < with_it.seconds < with_it.high
