"""The arithmetic of `bench.recovery`: what is made of answers, and how it is judged."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bench.recovery.figures import Answer, Spread, lateness_s, longest_silence_s, tally, verdict, weights
from bench.recovery.hindsight import Forced, compare
from bench.recovery.paths import spans
from bench.recovery.versions import swapped


def answer(number: int, sent_s: float = 0.0, latency_s: float = 0.002, **facts: object) -> Answer:
    made = Answer(number=number, image=0, sent_s=sent_s, done_s=sent_s + latency_s, technique="none", class_index=1)
    return replace(made, **facts)


def test_the_spread_of_nothing_is_not_a_number() -> None:
    spread = Spread.of([])
    assert spread.count == 0
    assert math.isnan(spread.p95)


def test_the_longest_silence_reaches_into_the_time_that_is_looked_at() -> None:
    done = [0.0, 0.1, 0.2, 1.0, 1.1]
    assert longest_silence_s(done, 0.3, 0.9) == pytest.approx(0.8)
    assert longest_silence_s(done, 1.0, 1.1) == pytest.approx(0.1)
    assert longest_silence_s(done, 1.0, 3.0) == pytest.approx(1.9)


def test_lateness_compares_the_slowest_frame_around_a_change_with_the_second_before() -> None:
    healthy = [answer(i, sent_s=8.0 + i / 100) for i in range(100)]
    around = [answer(100 + i, sent_s=9.0 + i / 100) for i in range(200)]
    around[120] = replace(around[120], done_s=around[120].sent_s + 0.05)
    assert lateness_s([*healthy, *around], 10.0) == pytest.approx(0.048)
    assert math.isnan(lateness_s(around, 10.0))


def test_lost_doubled_and_wrong_frames_are_counted() -> None:
    answers = [
        answer(0),
        answer(1, error="FrameTimeoutError"),
        answer(2),
        answer(3, technique="exit"),
        answer(4),
        answer(5),
    ]
    found = tally(
        answers,
        {0: 1, 2: 2, 3: 1, 4: 1},
        exact=[a.technique == "none" for a in answers],
        agreed=[True, False, True, False, False, True],
    )
    assert (found.sent, found.answered, found.lost, found.doubled) == (6, 5, 1, 1)
    assert (found.wrong, found.degraded, found.unseen) == (1, 1, 1)
    assert found.faults == 3
    assert any("frame 4" in note for note in found.notes)


def test_tallies_add_up() -> None:
    one = tally([answer(0)], {0: 1}, exact=[True], agreed=[True])
    other = tally([answer(0)], {0: 3}, exact=[True], agreed=[False])
    one.add(other)
    assert (one.sent, one.doubled, one.wrong) == (2, 1, 1)


def test_a_verdict_needs_a_measurement() -> None:
    assert verdict(10.0, 50.0) == "yes"
    assert verdict(60.0, 50.0) == "no"
    assert verdict(0.995, 0.99, least=True) == "yes"
    assert verdict(math.nan, 50.0) == "-"


def test_the_weights_are_the_papers_36() -> None:
    triples = weights()
    assert len(set(triples)) == 36
    assert all(sum(triple) == pytest.approx(1.0) for triple in triples)
    assert {min(triple) for triple in triples} <= {0.1, 0.2, 0.3}


def test_a_result_s_path_becomes_runs_of_blocks() -> None:
    assert spans([("a", 0), ("b", 3), ("a", 5)], 14) == [("a", 0, 3), ("b", 3, 5), ("a", 5, 14)]


def test_the_second_version_of_a_model_never_answers_as_the_first() -> None:
    scores = [0.0, 0.0, 1.0, 0.0]
    assert max(range(4), key=lambda i: swapped(scores)[i]) == 0
    assert swapped(swapped(scores)) == tuple(scores)


def forced(technique: str, accuracy: float, downtime_ms: float, noise_ms: float = 0.0) -> Forced:
    return Forced(
        role="0-3",
        technique=technique,  # type: ignore[arg-type]
        times=9,
        estimated_accuracy=accuracy,
        accuracy=accuracy,
        accuracy_noise=0.0,
        estimated_latency_ms=2.0,
        latency_ms=2.0,
        latency_noise_ms=0.0,
        estimated_downtime_ms=downtime_ms,
        downtime_ms=downtime_ms,
        downtime_noise_ms=noise_ms,
    )


def test_hindsight_agrees_where_the_estimates_were_right() -> None:
    found = compare([forced("standby", 0.9, 10.0), forced("exit", 0.7, 10.0), forced("repartition", 0.9, 250.0)])
    assert found.decisions == found.same == found.as_good == 36


def test_hindsight_sees_a_choice_that_was_worse_than_it_had_to_be() -> None:
    bad = replace(forced("stand-in", 0.9, 10.0), accuracy=0.5)
    found = compare([bad, forced("exit", 0.7, 10.0)])
    assert found.same < found.decisions
    assert found.regret > 0.1


def test_what_is_within_the_noise_is_as_good() -> None:
    chosen = replace(forced("stand-in", 0.9, 10.0, noise_ms=2.0), downtime_ms=11.0)
    found = compare([chosen, replace(forced("exit", 0.9, 10.5, noise_ms=2.0), downtime_ms=10.0)])
    assert found.same == 0
    assert found.as_good == found.decisions
