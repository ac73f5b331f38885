"""What an emulation reports of what a client saw."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from stages.graph import ModelGraph
from understudy.data import digits_bundle, digits_frames
from understudy.emulation.disturbance import Answer, Fault, disturbance, record_of, sent_again
from understudy.emulation.load import busy_share, cpu_times
from understudy.emulation.report import Outcome, text
from understudy.emulation.samples import make_samples
from understudy.events import Episode
from understudy.result import FrameFailure, Result


def answers(times: Iterable[float], technique: str = "none", *, right: bool = True, epoch: int = 0) -> list[Answer]:
    return [Answer(sent_s=at_s - 0.01, at_s=at_s, technique=technique, right=right, epoch=epoch) for at_s in times]


def episode(at: float, *nodes: str, **more: object) -> Episode:
    own: dict[str, object] = {
        "number": 1, "kind": "failure", "cause": "silent", "stage": "healed", "at": at, "nodes": nodes,
        "technique": "skip", "exit": None, "violated": (), "silence_ms": 80.0, "decided_ms": 0.4, "routed_ms": 1.0,
        "first_answer_ms": 9.0, "healed_ms": 200.0,
    }  # fmt: skip
    return Episode(**(own | more))  # type: ignore[arg-type]


def steady(first: float, last: float) -> list[float]:
    """Every 50 ms."""
    return [first + number * 0.05 for number in range(round((last - first) / 0.05))]


def test_a_silence_is_measured_and_so_is_its_end() -> None:
    seen = disturbance(answers([*steady(0, 3), *steady(4.5, 10)]), 3.0, 10.0)
    assert seen.silence_s == pytest.approx(1.5, abs=0.06)
    assert seen.healed_s == pytest.approx(1.5, abs=0.06)


def test_degraded_answers_are_not_yet_healed() -> None:
    told = [*answers(steady(0, 3)), *answers(steady(3.1, 4), "skip"), *answers(steady(4, 8))]
    seen = disturbance(told, 3.0, 8.0)
    assert seen.silence_s < 0.2
    assert seen.healed_s == pytest.approx(0.95, abs=0.06)
    assert seen.degraded == {"skip": 18}


def test_what_nobody_noticed_is_healed_at_once() -> None:
    assert disturbance(answers(steady(0, 8)), 3.0, 8.0).healed_s == 0.0


@pytest.mark.parametrize("after", [[], answers(steady(4, 8), "skip")], ids=["silent", "degraded"])
def test_what_lasts_to_the_end_is_not_healed(after: list[Answer]) -> None:
    assert disturbance([*answers(steady(0, 3)), *after], 3.0, 8.0).healed_s is None


def test_the_first_answer_and_the_first_full_one_are_those_of_newer_epochs() -> None:
    told = [
        *answers(steady(0, 3), epoch=4),
        *answers([3.02], epoch=4),  # was under way
        *answers(steady(3.1, 3.4), "skip", epoch=5),
        *answers(steady(3.4, 8), epoch=6),
    ]
    seen = disturbance(told, 3.0, 8.0)
    assert seen.first_answer_s == pytest.approx(0.1)
    assert seen.full_s == pytest.approx(0.4)
    assert (seen.degraded_right, seen.degraded.total()) == (6, 6)


def test_a_full_answer_between_degraded_ones_is_no_return_to_full_accuracy() -> None:
    told = [*answers(steady(0, 3), epoch=4), *answers([3.2], epoch=5), *answers([3.3, 3.4], "skip", epoch=6)]
    assert disturbance(told, 3.0, 3.5).full_s is None
    assert disturbance([*told, *answers([3.6], epoch=7)], 3.0, 4.0).full_s == pytest.approx(0.6)


def test_what_changed_no_plan_has_no_first_answer() -> None:
    seen = disturbance(answers(steady(0, 8), epoch=4), 3.0, 8.0)
    assert (seen.first_answer_s, seen.full_s) == (None, None)


def test_without_an_answer_before_it_nobody_knows_the_first_one_after_a_fault() -> None:
    assert disturbance(answers(steady(3.4, 8), epoch=4), 3.0, 8.0).first_answer_s is None


def test_a_silence_begins_with_the_last_answer_before_the_fault() -> None:
    assert disturbance(answers([1.0, 2.0, 2.9, 4.0, 5.0]), 3.5, 4.5).silence_s == pytest.approx(1.1)


def test_a_fault_has_the_record_of_its_own_node_and_time() -> None:
    records = [episode(100.0, "a"), episode(103.1, "b"), episode(103.12, "a", "c"), episode(109.0, "a")]
    fault = Fault(action="kill", who="a", at_s=3.0)
    found = record_of(records, fault, began_at=100.0, until_s=8.0)
    assert found is records[2]
    assert record_of(records[:2], fault, began_at=100.0, until_s=8.0) is None
    joined = [episode(103.1, "a", kind="change")]
    assert record_of(joined, fault, began_at=100.0, until_s=8.0) is None


def test_frames_that_two_failures_had_sent_again_are_counted_once() -> None:
    apart = [episode(1.0, "a", sent_again=3), episode(2.0, "b", sent_again=4)]
    assert sent_again(apart) == 7
    together = [episode(1.0, "a", sent_again=3), episode(1.1, "b", sent_again=4), episode(5.0, "c", sent_again=1)]
    assert sent_again(together) == 5
    assert sent_again([episode(1.0, "a", kind="change", sent_again=9)]) == 0


def test_a_slow_stream_is_no_silence() -> None:
    assert disturbance(answers([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), 2.5, 5.5).healed_s == 0.0


def outcome(**more: object) -> Outcome:
    own = Outcome(published=160, elapsed_s=8.0, answers=answers(steady(0, 8)), cores=2, cpu_busy=0.5)
    for name, value in more.items():
        setattr(own, name, value)
    return own


def test_a_run_in_which_every_frame_was_answered_rightly_is_kept() -> None:
    assert outcome().kept
    assert "kept: every frame was answered once" in text(outcome().document())


def test_a_degraded_answer_that_says_so_is_kept_and_a_wrong_one_is_not() -> None:
    labelled = [*answers(steady(0, 7.95)), *answers([7.96], "exit", right=False)]
    assert outcome(answers=labelled).kept
    unlabelled = [*answers(steady(0, 7.95)), *answers([7.96], right=False)]
    assert not outcome(answers=unlabelled).kept
    assert outcome(answers=unlabelled).document()["wrong"] == 1


def test_what_a_codec_that_is_allowed_may_have_changed_is_not_wrong() -> None:
    others = outcome(answers=[*answers(steady(0, 7.95)), *answers([7.96], right=False)], lossy=True)
    assert (others.kept, others.wrong) == (True, 0)
    assert others.document()["changed_by_codecs"] == 1
    assert "codecs       1 answers changed" in text(others.document())


def test_a_frame_without_an_answer_is_lost() -> None:
    own = outcome(published=161)
    assert (own.lost, own.kept) == (1, False)
    assert "1 lost" in text(own.document())


def test_a_frame_that_is_answered_twice_is_not_kept() -> None:
    assert not outcome(twice=1).kept


def test_throughput_does_not_count_the_time_that_the_first_frame_takes() -> None:
    told = answers([4.0, 5.0, 6.0, 7.0])
    assert outcome(answers=told, published=4).document()["frames_per_s"] == 1.0


def test_nothing_published_is_nothing_kept() -> None:
    assert not Outcome().kept


def test_each_fault_is_judged_until_the_next_one() -> None:
    faults = [Fault(action="kill", who="a", at_s=2.0), Fault(action="start", who="a", at_s=5.0)]
    told = answers([*steady(0, 2), *steady(3, 8)])
    document = outcome(answers=told, published=len(told), faults=faults).document()
    assert json.loads(json.dumps(document)) == document
    kill, start = document["faults"]
    assert kill["silence_ms"] == pytest.approx(1000, abs=60)
    assert start["healed_ms"] == 0.0
    assert "kill a at 2.0 s: longest silence" in text(document)


def test_steps_at_the_same_time_are_judged_together() -> None:
    faults = [Fault(action="kill", who=who, at_s=at_s) for who, at_s in (("a", 2.0), ("b", 2.2))]
    told = answers([*steady(0, 2), *steady(4, 8)])
    document = outcome(answers=told, published=len(told), faults=faults).document()
    assert [fault["silence_ms"] > 1700 for fault in document["faults"]] == [True, True]


def test_a_fault_is_told_as_the_controller_and_the_client_saw_it() -> None:
    told = [*answers(steady(0, 3), epoch=1), *answers(steady(3.1, 3.3), "skip", epoch=2)]
    told += answers(steady(3.3, 8), epoch=3)
    own = outcome(
        answers=told,
        published=len(told),
        faults=[Fault(action="kill", who="a", at_s=3.0)],
        began_at=100.0,
        episodes=[episode(103.04, "a", sent_again=2, degraded=4)],
    )
    document = own.document()
    assert json.loads(json.dumps(document)) == document
    [fault] = document["faults"]
    assert (fault["noticed_ms"], fault["journal"]["technique"], document["sent_again"]) == (40.0, "skip", 2)
    said = text(document)
    assert "kill a at 3.0 s: noticed after 40 ms; first answer after 100 ms; full plan after 300 ms" in said
    assert "2 sent again" in said


def test_accuracy_is_of_the_answers_whose_frames_have_a_label() -> None:
    known = [Answer(sent_s=0.0, at_s=at_s, technique="none", right=True, correct=at_s < 3) for at_s in (1.0, 2.0, 3.0)]
    assert "66.67% of the answers" in text(outcome(answers=known).document())
    unknown = outcome().document()
    assert unknown["accuracy"] is None
    assert "accuracy" not in text(unknown)


def test_busy_cores_are_said_to_be_what_may_limit() -> None:
    assert "the cores, not the links" in text(outcome(cpu_busy=0.97).document())
    assert "the cores, not the links" not in text(outcome(cpu_busy=0.5).document())


def test_the_share_of_the_cores_is_one_of_all() -> None:
    before = cpu_times()
    sum(range(200_000))
    share = busy_share(before, cpu_times())
    assert share is None or 0 <= share <= 1
    assert busy_share((10.0, 100.0), (40.0, 160.0)) == 0.5


def test_answers_are_held_against_the_whole_network() -> None:
    bundle = digits_bundle()
    made = make_samples(bundle, ModelGraph.load(bundle.model_path, shapes=bundle.manifest.shapes))
    labels = digits_frames()[1]
    said = [max(sample.scores, key=lambda name, own=sample: own.scores[name]) for sample in made.samples]
    assert sum(a == b for a, b in zip(said, labels, strict=False)) > 0.9 * len(said)
    for sample, index in zip(made.samples, said, strict=True):
        assert sample.is_right(Result(id="f", class_index=index))
        assert not sample.is_right(Result(id="f", class_index=(index + 1) % 10))
        assert not sample.is_right(Result(id="f", class_index=index, error=FrameFailure(code="failed", reason="x")))
    assert [sample.label for sample in made.samples] == labels[: len(made.samples)]
    assert made.seconds > 0
