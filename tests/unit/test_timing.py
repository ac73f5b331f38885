from __future__ import annotations

import pytest

from stages.features import kind_of
from stages.layers import Layer, Operand
from stages.timing import EMPTY, REFERENCE, LayerTimer, Rounds, estimate


def test_a_slow_phase_that_strikes_the_reference_alike_is_divided_out() -> None:
    quiet = [1.0] * 8
    seconds, spread = estimate([2.0, 2.0, 4.0, 4.0, 2.0, 2.0, 6.0, 6.0], [1, 1, 2, 2, 1, 1, 3, 3], 1.0)
    assert (seconds, spread) == (2.0, 0.0)
    assert estimate([2.0] * 8, quiet, 1.0) == (2.0, 0.0)


def test_what_strikes_the_layer_alone_is_passed_over_while_it_strikes_less_than_most_runs() -> None:
    seconds, _ = estimate([2.0, 9.0, 2.0, 2.0, 7.0, 2.0, 2.0, 5.0], [1.0] * 8, 1.0)
    assert seconds == 2.0


def test_halves_that_differ_are_the_spread() -> None:
    _, spread = estimate([2.0, 3.0, 2.0, 3.0], [1.0] * 4, 1.0)
    assert spread == pytest.approx(1.0 / 2.0)


def test_one_round_says_nothing_of_its_repeatability() -> None:
    assert estimate([2.0], [1.0], 1.0) == (2.0, 1.0)


def test_layers_are_timed_and_one_that_cannot_be_run_is_left_out() -> None:
    lost = Layer(
        op_type="NoSuchOperator", domain="", attributes=(), inputs=EMPTY.inputs, outputs=EMPTY.outputs, opsets=()
    )
    part = Layer(**{**{name: getattr(EMPTY, name) for name in Layer.__slots__}, "whole": False})
    timer = LayerTimer(rounds=Rounds(least=2, most=4, runs=1))
    timed = timer.time([REFERENCE, lost, part, EMPTY])
    assert timed[1] is timed[2] is None
    assert timed[0] is not None
    assert timed[3] is not None
    assert timed[0].seconds > timed[3].seconds > 0
    assert 2 <= timed[0].rounds <= 4
    assert timer.stage_s >= timer.overhead_s > 0


def test_the_reference_is_a_convolution_of_known_size() -> None:
    assert kind_of(REFERENCE) == "convolution"
    assert REFERENCE.inputs[0] == Operand(dtype="float32", shape=(1, 16, 32, 32))
