"""The journal: what a failure's record says, and when it is news."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recovery.contingency import choose_for
from recovery.journal import KEPT_RECORDS, Journal, Record
from recovery.objectives import Choice, Objectives
from tests.unit.recovery_cases import EXIT, STANDBY, make_setup


class Story:
    """A journal, its news, and a clock that the test turns."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.news: list[dict[str, Any]] = []
        self.journal = Journal(clock=lambda: self.now_s, on_news=lambda record: self.news.append(record.document()))

    def failure(self, *nodes: str, counted: tuple[int, int] = (0, 0)) -> Record:
        return self.journal.begin("failure", "silent", nodes, counted=counted, silence_s=0.09)

    def bridge(self, record: Record, epoch: int, choice: Choice | None = None) -> None:
        found = choice or choose_for(make_setup(STANDBY), frozenset("b"))
        assert found is not None
        exit_name = next((hop.part.name for hop in found.option.hops if hop.part.technique == "exit"), "")
        decided_s = self.now_s
        self.now_s += 0.002
        self.journal.bridged(record, found, epoch=epoch, exit_name=exit_name, decided_s=decided_s)

    def head(self, active: int, answered: int, counted: tuple[int, int] = (0, 0), latency_s: float = 0.0) -> None:
        self.journal.head_says(active_epoch=active, answered_epoch=answered, counted=counted, latency_s=latency_s)

    @property
    def stages(self) -> list[str]:
        return [document["stage"] for document in self.news]


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_failure_is_told_step_by_step_with_the_time_that_each_took(story: Story) -> None:
    record = story.failure("b", counted=(3, 1))
    story.now_s += 0.001
    story.bridge(record, epoch=2)
    story.now_s += 0.004
    story.head(active=2, answered=1)
    story.head(active=2, answered=2, latency_s=0.02)
    story.now_s += 0.4
    story.journal.planned(3)
    story.head(active=2, answered=2, latency_s=0.03)
    story.head(active=3, answered=2, counted=(8, 11))
    assert story.stages == ["detected", "bridged", "answering", "healed"]
    document = story.news[-1]
    assert (document["technique"], document["bridge_epoch"], document["heal_epoch"]) == ("standby", 2, 3)
    assert document["silence_ms"] == 90
    assert [document[f"{step}_ms"] for step in ("decided", "routed", "first_answer", "healed")] == [1, 3, 7, 407]
    assert document["measured"] == {"latency_ms": 30, "downtime_ms": 7}
    assert document["frames"] == {"sent_again": 5, "degraded": 10}
    assert document["estimates"]["accuracy"] == 0.9
    assert json.loads(json.dumps(document)) == document


def test_nothing_is_known_yet_when_a_failure_is_noticed(story: Story) -> None:
    story.failure("c", "b")
    [document] = story.news
    assert (document["kind"], document["cause"], document["nodes"], document["stage"]) == (
        "failure",
        "silent",
        ["b", "c"],
        "detected",
    )
    assert (document["technique"], document["exit"], document["estimates"]) == ("repartition", None, None)
    assert (document["bridge_epoch"], document["first_answer_ms"], document["healed_ms"]) == (None, None, None)


def test_an_exit_and_what_it_violates_are_named(story: Story) -> None:
    wishes = Objectives(min_accuracy=0.8, techniques=frozenset({"exit"}))
    choice = choose_for(make_setup(EXIT, objectives=wishes), frozenset("b"))
    assert choice is not None
    record = story.failure("b")
    story.bridge(record, 2, choice)
    assert (story.news[-1]["technique"], story.news[-1]["exit"]) == ("exit", "exit:2-6")
    assert story.news[-1]["violated"] == ["min_accuracy"]


def test_a_failure_without_a_bridge_is_answered_by_the_heal(story: Story) -> None:
    story.failure("b")
    story.journal.planned(2)
    story.now_s += 0.5
    story.head(active=2, answered=1)
    story.head(active=2, answered=2)
    document = story.news[-1]
    assert (document["stage"], document["technique"]) == ("healed", "repartition")
    assert (document["healed_ms"], document["first_answer_ms"]) == (500, 500)


def test_a_second_failure_before_the_heal_has_its_own_record_and_one_plan_heals_both(story: Story) -> None:
    one = story.failure("b")
    story.bridge(one, 2)
    two = story.failure("c")
    assert story.journal.open is two
    story.bridge(two, 3)
    story.head(active=3, answered=3)
    assert (one.stage, two.stage) == ("answering", "answering")
    story.journal.planned(4)
    story.head(active=4, answered=3)
    assert [record.document()["heal_epoch"] for record in (one, two)] == [4, 4]
    assert story.journal.open is None


def test_what_is_healed_is_not_touched_by_what_comes_later(story: Story) -> None:
    one = story.failure("b")
    story.bridge(one, 2)
    story.journal.planned(3)
    story.head(active=3, answered=3, counted=(1, 1))
    before = one.document()
    two = story.failure("c")
    story.journal.planned(5)
    story.head(active=5, answered=5, counted=(9, 9), latency_s=1.0)
    assert one.document() == before
    assert two.number == 2


def test_what_changes_nothing_is_no_news(story: Story) -> None:
    record = story.failure("b")
    story.bridge(record, 2)
    story.head(active=2, answered=2)
    told = len(story.news)
    for _ in range(5):
        story.head(active=2, answered=2, latency_s=0.02)
    assert len(story.news) == told


def test_the_oldest_records_are_let_go(story: Story) -> None:
    for _ in range(KEPT_RECORDS + 5):
        story.failure("b")
    assert len(story.journal.records) == KEPT_RECORDS
    assert story.journal.records[0].number == 6
