"""What `bench.scenarios` makes of a stream and of what was told of its faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.harness import write_json
from bench.scenarios.plot import draw
from bench.scenarios.report import Failed, Rehearsed, details, figures
from bench.scenarios.series import accuracy, series
from understudy.emulation.disturbance import Answer, Fault
from understudy.emulation.report import Outcome


def answer(at_s: float, technique: str = "none", *, correct: bool | None = True, latency_s: float = 0.01) -> Answer:
    return Answer(sent_s=at_s - latency_s, at_s=at_s, technique=technique, right=True, correct=correct)


def rehearsed(name: str = "kill", **more: Any) -> Rehearsed:
    told = [answer(number * 0.02) for number in range(150)]
    told += [answer(3.1 + number * 0.02, "skip", correct=number > 0) for number in range(5)]
    told += [answer(3.2 + number * 0.02) for number in range(100)]
    own = Outcome(
        published=255, answers=told, elapsed_s=5.2, cpu_busy=0.4, faults=[Fault(action="kill", who="a", at_s=3.0)]
    )
    for field, value in more.items():
        setattr(own, field, value)
    return Rehearsed(name=name, about="x", document=own.document(), slots=series(own.answers, own.elapsed_s))


def test_answers_are_counted_in_the_slot_in_which_they_came() -> None:
    told = [answer(0.0), answer(0.05, "skip"), answer(0.1, latency_s=0.03), answer(0.35), answer(0.41)]
    slots = series(told, 0.4)
    assert [slot.at_s for slot in slots] == [0.0, 0.1, 0.2, 0.3]
    assert [slot.answers for slot in slots] == [{"none": 1, "skip": 1}, {"none": 1}, {}, {"none": 1}]
    assert (slots[1].median_ms, slots[1].largest_ms) == (30.0, 30.0)
    assert (slots[2].median_ms, slots[2].labelled) == (None, 0)


def test_no_answer_is_one_empty_slot_and_no_error() -> None:
    [slot] = series([], 0.0)
    assert slot.answers == {}


def test_accuracy_is_of_the_slots_around() -> None:
    told = [answer(0.05), answer(0.15, correct=False), answer(0.25), answer(0.95)]
    shares = accuracy(series(told, 1.0), 3)
    assert shares[0] == 0.5
    assert shares[1] == pytest.approx(2 / 3)
    assert shares[5] is None
    assert shares[9] == 1.0


def test_frames_without_a_label_have_no_accuracy() -> None:
    assert accuracy(series([answer(0.05, correct=None)], 0.1), 1) == [None]


def test_headlines_are_the_worst_of_each_scenario_and_the_frames_of_all() -> None:
    twice = [Fault(action="kill", who="a", at_s=3.0), Fault(action="start", who="a", at_s=4.2)]
    found = {each.name: each for each in figures([rehearsed(faults=twice), rehearsed("pause", published=256)], [])}
    assert found["frames lost"].value == 1
    assert found["frames lost"].met is False
    assert found["degraded answers"].value == 10
    silence = found["kill: longest silence"].value
    assert isinstance(silence, float)
    assert silence == pytest.approx(120, abs=1)
    # No epoch was newer: that is not the same as an answer at once.
    assert found["kill: first answer"].met is None
    assert found["kill: first answer"].value is None


def test_a_scenario_that_could_not_be_carried_out_is_a_figure_that_is_not_met() -> None:
    failed = [Failed(name="cut", reason="no engine")]
    missed = [each for each in figures([], failed) if each.met is False]
    assert [each.value for each in missed] == [1]
    assert details([], failed)["failed"] == [{"name": "cut", "reason": "no engine"}]


def test_everything_is_json(tmp_path: Path) -> None:
    run = rehearsed()
    write_json(tmp_path / "x.json", details([run], []) | {"figures": figures([run], [])})
    [scenario] = json.loads((tmp_path / "x.json").read_text())["scenarios"]
    assert scenario["series"][31]["answers"] == {"skip": 5}
    assert scenario["published"] == 255


def test_the_picture_takes_any_number_of_scenarios(tmp_path: Path) -> None:
    plt = pytest.importorskip("matplotlib.pyplot", reason="pip install matplotlib")
    plt.switch_backend("Agg")
    for count in (1, 3):
        path = tmp_path / f"{count}.png"
        draw([rehearsed() for _ in range(count)], path, plt)
        assert path.read_bytes().startswith(b"\x89PNG")
