"""What a client sees of a failure: when the first answer came, by what, how good, and when all was well again."""

from __future__ import annotations

import json

import pytest

from understudy.demo import Outcome, stage_lines, victim
from understudy.demoview import outage_line, summary_view
from understudy.result import Result
from understudy.timeline import Outage, Timeline, bins, rolling_accuracy


def result(technique: str = "none", epoch: int = 1, *, says: int = 7, expected: float | None = 0.99) -> Result:
    ends_at = "exit:4-14" if technique == "exit" else None
    return Result(id="f", class_index=says, technique=technique, epoch=epoch, expected_accuracy=expected, exit=ends_at)


@pytest.fixture
def bridged() -> Timeline:
    """Frames of a 7 every 10 ms; a kill at 100 ms, one straggler, an exit from 130 ms to 160 ms, the new plan then."""
    timeline = Timeline()
    for at in range(11):
        timeline.answered(at / 100, result(), 7)
    timeline.killed(0.101, "node3")
    timeline.answered(0.105, result(), 7)
    for at, says in ((0.13, 7), (0.14, 1), (0.15, 7), (0.16, 7)):
        timeline.answered(at, result("exit", 2, says=says, expected=0.9), 7)
    timeline.answered(0.17, result(epoch=3), 7)
    timeline.answered(0.27, result(epoch=3), 7)
    return timeline


def test_the_first_answer_after_a_kill_is_the_first_that_the_recovery_made_possible(bridged: Timeline) -> None:
    [outage] = bridged.outages
    assert outage.first_answer_s == pytest.approx(0.029)
    assert (outage.technique, outage.exit) == ("exit", "exit:4-14")


def test_answers_by_the_technique_are_counted_and_compared_with_what_they_promised(bridged: Timeline) -> None:
    [outage] = bridged.outages
    assert (outage.bridged, outage.measured, outage.expected) == (4, 0.75, pytest.approx(0.9))


def test_all_is_well_with_the_first_answer_of_a_full_plan(bridged: Timeline) -> None:
    assert bridged.outages[0].healed_s == pytest.approx(0.069)


def test_the_longest_pause_is_that_between_the_kill_and_the_heal(bridged: Timeline) -> None:
    assert bridged.outages[0].pause_s == pytest.approx(0.025)  # from the straggler on; the later 100 ms are not its


def test_an_answer_that_is_late_from_the_plan_before_does_not_count_as_healed(bridged: Timeline) -> None:
    outage = bridged.killed(0.3, "node2")
    bridged.answered(0.31, result(epoch=3), 7)
    assert (outage.first_answer_s, outage.healed_s) == (None, None)


def test_a_failure_without_a_way_around_is_answered_by_the_new_plan() -> None:
    timeline = Timeline()
    timeline.answered(0.0, result(), 7)
    outage = timeline.killed(0.1, "node1")
    timeline.answered(0.4, result(epoch=2), 7)
    assert (outage.technique, outage.bridged) == ("repartition", 0)
    assert outage.first_answer_s == outage.healed_s == outage.pause_s == pytest.approx(0.3)
    assert outage_line(outage).plain == "node1 killed -> new plan in 300.0 ms"


def test_the_line_of_an_outage_grows_with_what_has_come(bridged: Timeline) -> None:
    assert outage_line(Outage(node="a", killed_s=0.0, epoch_before=1)).plain == "a killed -> ..."
    assert outage_line(bridged.outages[0]).plain == "node3 killed -> exit:4-14 in 29.0 ms -> healed in 69.0 ms"


def test_the_summary_as_json_has_every_figure(bridged: Timeline) -> None:
    outcome = Outcome(published=18, elapsed_s=0.5, timeline=bridged)
    document = json.loads(json.dumps(outcome.document()))
    assert (document["answered"], document["lost"], document["answered_twice"]) == (18, 0, 0)
    [failure] = document["failures"]
    assert failure["node"] == "node3"
    assert failure["first_answer_ms"] == pytest.approx(29.0)
    assert failure["bridged"] == {"frames": 4, "accuracy": 0.75, "expected_accuracy": pytest.approx(0.9)}


def test_a_frame_without_an_answer_is_lost_and_a_run_without_answers_has_a_summary() -> None:
    outcome = Outcome(published=3)
    assert outcome.document()["lost"] == 3
    assert outcome.document()["accuracy"] is None
    assert summary_view(outcome).row_count == 2


# ---- for the picture -----------------------------------------------------------------------------------------------


def test_bins_count_the_answers_of_their_time_by_technique(bridged: Timeline) -> None:
    assert [piece.counts for piece in bins(bridged.answers, 0.1, 0.006, 0.306)] == [
        {"none": 11},
        {"exit": 4, "none": 1},
        {"none": 1},
    ]


def test_bins_leave_out_what_came_before_and_after(bridged: Timeline) -> None:
    assert sum(piece.frames for piece in bins(bridged.answers, 0.01, 0.125, 0.165)) == 4


def test_the_rolling_accuracy_of_a_way_around_a_failure_is_not_mixed_with_that_of_the_plan(bridged: Timeline) -> None:
    points = rolling_accuracy(bridged.answers, 3, 2)
    assert [point.at_s for point in points] == [answer.at_s for answer in bridged.answers]
    assert {point.share for point in points if point.technique == "none"} == {1.0}
    assert [point.share for point in points if point.bridge == 2] == [
        0.5,
        0.5,
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
    ]


def test_nothing_to_draw_is_no_error() -> None:
    assert rolling_accuracy([], 10, 5) == []
    assert [piece.frames for piece in bins([], 0.05, 0.0, 0.1)] == [0, 0]


# ---- whom to kill, and when ----------------------------------------------------------------------------------------


def node(name: str, first: int, *, alive: bool = True, head: bool = False) -> dict[str, object]:
    return {"name": name, "alive": alive, "head": head, "stages": [[first, first + 2]]}


def test_the_node_to_kill_is_in_the_middle_and_neither_dead_nor_the_head() -> None:
    nodes = [node("a", 0, head=True), node("b", 2), node("d", 6), node("c", 4)]
    assert victim({"nodes": nodes}) == "c"
    assert victim({"nodes": [nodes[0], node("b", 2), node("c", 4, alive=False), node("d", 6)]}) == "b"


def test_there_is_nobody_to_kill_where_the_head_is_alone() -> None:
    assert victim({"nodes": [node("a", 0, head=True)]}) is None
    assert victim({"nodes": []}) is None


def test_the_stages_are_listed_in_their_order() -> None:
    assert stage_lines({"nodes": [node("b", 2), node("a", 0)]}) == ["a: blocks 0-1", "b: blocks 2-3"]
    codecs = [{"cut": 2, "to": "b", "codec": "int8"}]
    told = stage_lines({"nodes": [node("b", 2), node("a", 0)], "codecs": codecs})
    assert told == ["a: blocks 0-1", "b: blocks 2-3, by int8"]
