from __future__ import annotations

import builtins
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner import boosting
from planner.latency import SUM_SPREAD, Calibration, StageRuns, block_seconds, session_latency
from planner.predictor import Prediction, Predictor, conformal
from planner.profile import Profile, ProfileError, Sample
from planner.roofline import Roofline, non_negative_least_squares
from planner.score import r2, scores, split, tune
from tests.unit.latency_profiles import convolution_row, make_profile, roofline_law, strided_law

pytest.importorskip("lightgbm", reason="the extra 'profile' is not installed")


def rows(count: int, seed: int = 9) -> list[dict[str, float]]:
    random = np.random.default_rng(seed)
    return [convolution_row(random) for _ in range(count)]


def test_a_roofline_finds_the_law_that_made_the_times() -> None:
    random = np.random.default_rng(0)
    flops, activations, weights = (random.uniform(1e3, 1e7, 50) for _ in range(3))
    found = Roofline.fit(flops, activations, weights, 3e-6 + flops / 1e11 + activations / 1e10)
    assert found.least_s >= 1.5e-6
    assert found.coefficients == pytest.approx((3e-6, 1e-11, 1e-10, 0), rel=1e-6, abs=1e-20)


def test_a_coefficient_that_would_be_negative_is_nought() -> None:
    matrix = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    assert non_negative_least_squares(matrix, np.array([3.0, 2.0, 1.0])) == pytest.approx([2.0, 0.0])


def test_a_known_law_is_learnt_on_layers_that_were_held_out() -> None:
    profile = make_profile({"convolution": strided_law}, count=400)
    (score,) = scores(profile)
    assert (score.fitted, score.held_out) == (320, 80)
    assert score.r2 > 0.98
    assert score.r2_log > 0.98
    assert score.r2 > score.r2_roofline


def test_beyond_the_samples_time_goes_on_with_the_operations_and_the_interval_is_wider() -> None:
    predictor = Predictor(make_profile({"convolution": roofline_law}))
    row = rows(1)[0] | {"flops": 1e12, "work": 1e12, "bytes_in": 1e8, "bytes_out": 1e8}
    (far,) = predictor.predict("convolution", [row])
    (near,) = predictor.predict("convolution", rows(1))
    assert far.seconds == pytest.approx(roofline_law(row), rel=0.2)
    assert (near.within, far.within) == (True, False)
    assert far.high / far.seconds >= (near.high / near.seconds) ** 2 * 0.999


def test_each_layout_has_a_law_of_its_own() -> None:
    fast = make_profile({"max pool": roofline_law}, count=60)
    slow = make_profile({"max pool": lambda row: 40 * roofline_law(row)}, count=60, seed=1)
    at = fast.feature_names.index("blocked")
    blocked = [replace(s, features=(*s.features[:at], 1.0, *s.features[at + 1 :])) for s in fast.samples]
    predictor = Predictor(replace(fast, samples=(*blocked, *slow.samples)))
    row = rows(1)[0]
    (plain,), (quick,) = (predictor.predict("max pool", [row | {"blocked": layout}]) for layout in (0.0, 1.0))
    assert plain.seconds == pytest.approx(40 * roofline_law(row), rel=0.05)
    assert quick.seconds == pytest.approx(roofline_law(row), rel=0.05)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    profile = make_profile({"convolution": strided_law}, count=400, noise=0.1)
    (score,) = scores(profile)
    assert 0.85 <= score.covered <= 1.0


def test_the_same_profile_gives_the_same_predictions() -> None:
    profile = make_profile({"convolution": strided_law}, noise=0.05)
    first, second = (Predictor(profile).predict("convolution", rows(20)) for _ in range(2))
    assert first == second


def test_a_type_that_was_never_profiled_is_guessed_from_operations_and_bytes_and_says_so() -> None:
    predictor = Predictor(make_profile({"convolution": roofline_law}))
    row = rows(1)[0]
    (guess,) = predictor.predict("Einsum", [row])
    assert not guess.profiled
    assert guess.seconds == pytest.approx(roofline_law(row), rel=0.05)
    assert guess.high / guess.seconds >= 3
    assert guess.seconds / guess.low >= 3


def test_a_type_with_few_samples_has_its_own_law_but_counts_as_guessed() -> None:
    slow = make_profile({"LRN": lambda row: 50 * roofline_law(row)}, count=8).samples
    profile = make_profile({"convolution": roofline_law})
    row = rows(1)[0]
    (guess,) = Predictor(replace(profile, samples=(*profile.samples, *slow))).predict("LRN", [row])
    assert not guess.profiled
    assert guess.seconds == pytest.approx(50 * roofline_law(row), rel=0.05)


def test_a_transferred_profile_is_scaled_by_the_ratio_of_each_type() -> None:
    profile = make_profile({"convolution": roofline_law, "dense": roofline_law})
    other = replace(profile, ratios={"convolution": 2.0, "dense": 4.0}, ratio_spreads={"convolution": 0.3})
    here, there = Predictor(profile), Predictor(other)
    for kind, ratio in (("convolution", 2.0), ("dense", 4.0), ("Einsum", 3.0)):
        (before,), (after,) = here.predict(kind, rows(1)), there.predict(kind, rows(1))
        assert after.seconds == pytest.approx(ratio * before.seconds)
    (wide,) = there.predict("convolution", rows(1))
    assert wide.high / wide.seconds >= math.exp(0.3)


def test_settings_are_searched_on_the_samples_that_are_not_held_out_and_the_same_each_time() -> None:
    pytest.importorskip("optuna", reason="the extra 'profile' is not installed")
    profile = make_profile({"convolution": strided_law}, count=60)
    found = tune(profile, trials=3)
    assert found == tune(profile, trials=3)
    assert set(found["convolution"]) == set(boosting.DEFAULTS)
    fitted, held_out = split(profile)
    assert not {sample.index for sample in fitted.samples} & {sample.index for sample in held_out.samples}


def test_without_lightgbm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "lightgbm":
            raise ImportError(name)
        return load(name, *rest, **more)

    monkeypatch.setattr("importlib.import_module", refuse)
    predictor = Predictor(make_profile({"convolution": roofline_law}, count=20))
    with pytest.raises(boosting.MissingPackageError, match=r"lightgbm.*pip install 'understudy\[profile\]'"):
        predictor.predict("convolution", rows(1))


def test_a_profile_with_impossible_numbers_is_refused() -> None:
    sample = Sample(kind="dense", features=(1.0,), seconds=0.0)
    with pytest.raises(ProfileError, match="negative or not finite"):
        Profile(machine={}, feature_names=("flops",), overhead_s=0, samples=(sample,))
    with pytest.raises(ProfileError, match="1 features, 2 are named"):
        Profile(machine={}, feature_names=("flops", "bytes_in"), overhead_s=0, samples=(replace(sample, seconds=1),))
    with pytest.raises(ProfileError, match="have no blocked, bytes_in"):
        Predictor(Profile(machine={}, feature_names=("flops",), overhead_s=0, samples=(replace(sample, seconds=1),)))
    with pytest.raises(ProfileError, match="no samples"):
        Predictor(Profile(machine={}, feature_names=(), overhead_s=0, samples=()))


def test_a_conformal_bound_is_exceeded_by_one_in_twenty() -> None:
    assert conformal(np.arange(1.0, 100.0)) == 95
    assert conformal(np.array([1.0, 2.0])) == 2


def test_r2_is_one_for_the_truth_and_nought_for_its_mean() -> None:
    truth = np.array([1.0, 2.0, 6.0])
    assert r2(truth, truth) == 1
    assert r2(truth, [3.0, 3.0, 3.0]) == 0


def layer(seconds: float, width: float = 0.1, **facts: Any) -> Prediction:
    return Prediction(kind="dense", seconds=seconds, low=seconds - width, high=seconds + width, **facts)


def test_a_session_is_its_overhead_and_its_layers_and_different_layers_errors_do_not_add_up() -> None:
    found = session_latency([(layer(1.0), 2), (layer(3.0, 0.3, profiled=False), 1)], 0.5)
    assert found.seconds == 5.5
    assert found.by_kind == {"dense": 5.0}
    assert found.unprofiled == ("dense",)
    assert found.high - found.seconds == pytest.approx(math.hypot(SUM_SPREAD * 5.5, 0.2, 0.3))


def test_the_cost_of_borders_cancels_in_the_blocks_seconds() -> None:
    blocks, border = (1.0, 2.0, 3.0), (0.0, 0.5, 0.2, 0.0)
    prefixes = [0.0] + [sum(blocks[:end]) + border[end] for end in (1, 2, 3)]
    suffixes = [sum(blocks[start:]) + border[start] for start in (0, 1, 2)] + [0.0]
    assert block_seconds(prefixes, suffixes) == pytest.approx(blocks)


def test_blocks_seconds_add_up_to_the_whole_and_none_is_negative() -> None:
    found = block_seconds([0.0, 3.0, 2.0], [2.0, 0.1, 0.0])
    assert min(found) >= 0
    assert sum(found) == pytest.approx(2.0)


def test_a_calibration_scales_what_is_deployed_and_other_stages_of_the_same_blocks() -> None:
    runs = [
        StageRuns(first_block=0, end_block=2, predicted_s=2.0, runs_s=[2.2, 2.2, 2.2, 9.9]),
        StageRuns(first_block=2, end_block=3, predicted_s=1.0, runs_s=[1.5]),
    ]
    found = Calibration.of((1.0, 1.0, 1.0), runs)
    assert found.factor(0, 2) == pytest.approx(1.1)
    assert found.factor(2, 3) == pytest.approx(1.5)
    assert found.factor(1, 3) == pytest.approx(1.3)
    with pytest.raises(ValueError, match="a run of every stage"):
        Calibration.of((1.0,), [])
