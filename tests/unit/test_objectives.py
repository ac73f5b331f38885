"""Which option is the best for given thresholds and weights."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.objectives import Choice, Objectives, Terms, Weights, choose, rank
from recovery.options import Label, Option, Repartition, options, repartition
from tests.unit.recovery_cases import cases, every_option, wishes


def option(technique: Label, accuracy: float, latency_s: float = 0.02, pause_s: float = 0.008) -> Option:
    return Option(
        hops=(),
        head="a",
        technique=technique,
        accuracy=accuracy,
        low=None,
        high=None,
        expected=accuracy,
        latency_s=latency_s,
        pause_s=pause_s,
    )


STANDBY = option("standby", 0.9, 0.030)
STAND_IN = option("stand-in", 0.85, 0.022)
EXIT = option("exit", 0.6, 0.010)
REPARTITION = option("repartition", 0.9, 0.025, 0.4)


def best(*listed: Option, **wanted: Any) -> Choice:
    choice = choose(listed, Objectives(**wanted))
    assert choice is not None
    return choice


# ---- the default -----------------------------------------------------------------------------------------------------


def test_by_default_the_most_accurate_bridge_wins() -> None:
    assert best(EXIT, REPARTITION, STAND_IN, STANDBY).option == STANDBY
    assert best(EXIT, REPARTITION, STAND_IN).option == STAND_IN
    assert best(EXIT, STANDBY).option == STANDBY


def test_by_default_a_less_exact_answer_now_wins_over_waiting_for_the_heal() -> None:
    assert best(EXIT, REPARTITION).option == EXIT


def test_without_options_there_is_no_choice() -> None:
    assert choose([], Objectives()) is None


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        (Weights(accuracy=1, latency=0, downtime=0), STANDBY),
        (Weights(accuracy=0, latency=1, downtime=0), EXIT),
        (Weights(accuracy=1, latency=1, downtime=0), STAND_IN),
    ],
)
def test_the_weights_decide(weights: Weights, wanted: Option) -> None:
    assert best(STANDBY, STAND_IN, EXIT, weights=weights).option == wanted


def test_the_score_is_the_weighted_mean_of_the_min_max_terms() -> None:
    listed = [option("standby", 0.9, 0.5), option("skip", 0.7, 0.2), option("exit", 0.5, 0.1)]
    listed.append(option("repartition", 0.9, 0.4, 0.4))
    weights = Weights(accuracy=2, latency=1, downtime=1)
    by_technique = {
        choice.option.technique: choice for choice in rank(listed, Objectives(weights=weights), least_span=Terms())
    }
    assert by_technique["standby"].terms == Terms(accuracy=0, latency=1, downtime=0)
    skip = by_technique["skip"]
    assert skip.terms.accuracy == pytest.approx(0.5)
    assert skip.terms.latency == pytest.approx(0.25)
    assert skip.score == pytest.approx((2 * 0.5 + 0.25) / 4)
    assert by_technique["repartition"].terms.downtime == 1


def test_what_is_the_same_for_all_counts_nothing() -> None:
    listed = [option("standby", 0.9, 0.5), option("skip", 0.9, 0.5)]
    assert {choice.terms for choice in rank(listed, Objectives(), least_span=Terms())} == {Terms()}


def test_an_option_that_another_beats_in_everything_does_not_change_the_choice_between_the_others() -> None:
    weights = Weights(accuracy=1, latency=1.2, downtime=0)
    for listed in [STANDBY, EXIT], [STANDBY, EXIT, option("skip", 0.1, 0.03)]:
        assert best(*listed, weights=weights).option == EXIT


def test_a_difference_of_milliseconds_is_not_made_to_look_large() -> None:
    listed = [option("standby", 0.9, 0.0202), option("exit", 0.6, 0.0200)]
    assert best(*listed, weights=Weights(accuracy=1, latency=2, downtime=0)).option.technique == "standby"


def test_of_equal_options_the_one_that_changes_the_answer_least_wins() -> None:
    assert best(option("exit", 0.9), option("skip", 0.9), option("standby", 0.9)).option.technique == "standby"


# ---- thresholds ------------------------------------------------------------------------------------------------------


def test_thresholds_are_hard() -> None:
    listed = (STANDBY, STAND_IN, EXIT, REPARTITION)
    assert best(*listed, max_latency_s=0.025).option == STAND_IN
    assert best(*listed, max_latency_s=0.015).option == EXIT
    assert best(STAND_IN, EXIT, REPARTITION, min_accuracy=0.88).option == REPARTITION
    assert (
        best(REPARTITION, EXIT, max_downtime_s=0.1, weights=Weights(accuracy=1, latency=0, downtime=0)).option == EXIT
    )
    assert best(*listed, max_latency_s=0.025).violated == ()


def test_where_nothing_keeps_the_thresholds_the_least_violation_wins_and_is_named() -> None:
    choice = best(EXIT, REPARTITION, min_accuracy=0.8, max_downtime_s=0.1)
    assert choice.option == EXIT
    assert choice.violated == ("min_accuracy",)
    assert choice.violation == pytest.approx(0.25)
    worse = best(option("exit", 0.1), option("skip", 0.2, 0.4), min_accuracy=0.8, max_latency_s=0.1)
    assert worse.option.technique == "exit"


def test_a_threshold_that_is_met_exactly_is_kept() -> None:
    assert best(option("exit", 0.3), min_accuracy=0.1 + 0.2).violated == ()


# ---- techniques ------------------------------------------------------------------------------------------------------


def test_a_technique_that_is_not_allowed_is_not_chosen() -> None:
    choice = best(STANDBY, STAND_IN, EXIT, techniques=frozenset({"exit", "stand-in"}))
    assert choice.option == STAND_IN
    assert best(option("none", 0.9), EXIT, techniques=frozenset()).option.technique == "none"


def test_where_only_a_repartition_is_left_it_is_chosen_though_it_is_not_allowed() -> None:
    choice = best(STANDBY, REPARTITION, techniques=frozenset({"exit"}))
    assert choice.option == REPARTITION
    assert choice.violated == ("techniques",)
    assert choose([STANDBY], Objectives(techniques=frozenset({"exit"}))) is None


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"min_accuracy": 1.1}, "min_accuracy is 1.1"),
        ({"max_codec_loss": 1.1}, "max_codec_loss is 1.1"),
        ({"max_latency_s": 0.0}, "max_latency_s is 0.0"),
        ({"max_downtime_s": float("nan")}, "max_downtime_s is nan"),
        ({"techniques": frozenset({"magic"})}, "technique 'magic' is not one of none, standby"),
    ],
)
def test_impossible_objectives_are_refused(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objectives(**wanted)


@pytest.mark.parametrize("weights", [(0, 0, 0), (-1, 1, 1), (float("inf"), 1, 1)])
def test_impossible_weights_are_refused(weights: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        Weights(accuracy=weights[0], latency=weights[1], downtime=weights[2])


# ---- properties ------------------------------------------------------------------------------------------------------


def listed_for(case: Any, objectives: Objectives, *, brute_force: bool) -> list[Option]:
    estimates, placed, nodes = case
    alive = frozenset(nodes)
    if brute_force:
        allowed = [place for place in placed if objectives.allows(place.part.technique)]
        found = every_option(allowed, alive, "a", estimates)
    else:
        blocks, techniques = estimates.chain.blocks, objectives.techniques
        found = options(placed, blocks, alive, estimates, head="a", techniques=techniques)
    return [*found, repartition(Repartition(load_bytes=1000, latency_s=0.05), "a", estimates)]


@given(cases(), wishes())
def test_the_pruned_enumeration_leads_to_the_choice_that_all_paths_lead_to(case: Any, objectives: Objectives) -> None:
    one, other = (choose(listed_for(case, objectives, brute_force=brute), objectives) for brute in (False, True))
    assert one is not None
    assert other is not None
    assert one.violation == pytest.approx(other.violation, abs=1e-9)
    assert one.score == pytest.approx(other.score, abs=1e-9)
    assert one.option.expected == pytest.approx(other.option.expected)


@given(cases(), wishes(), st.randoms(use_true_random=False))
def test_a_choice_keeps_every_threshold_that_some_option_keeps_with_the_others(
    case: Any, objectives: Objectives, chance: random.Random
) -> None:
    listed = listed_for(case, objectives, brute_force=False)
    choice = choose(listed, objectives)
    assert choice is not None
    assert objectives.allows(choice.option.technique)
    if any(not candidate.violated for candidate in rank(listed, objectives)):
        assert choice.violated == ()
        assert objectives.min_accuracy is None or choice.option.expected >= objectives.min_accuracy - 1e-6
        assert objectives.max_latency_s is None or choice.option.latency_s <= objectives.max_latency_s + 1e-6
        assert objectives.max_downtime_s is None or choice.option.downtime_s <= objectives.max_downtime_s + 1e-6
    chance.shuffle(listed)
    assert choose(listed, objectives) == choice
