"""Cluster state: what each event changes, and what it leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.control import Bye
from planner.plan import Plan, Stage
from recovery.state import Activated, ClusterState, Event, Heard, Left, NoPlan, Planned, Told, alive, apply, usable
from tests.unit.builders import beat

EMPTY = ClusterState(pipeline="digits")
PLAN = Plan(stages=(Stage(first_block=0, end_block=2, node="a"),))
PLANNED = Planned(plan=PLAN, head="a")


def after(*events: Event, state: ClusterState = EMPTY) -> ClusterState:
    for event in events:
        state = apply(state, event)
    return state


def heard(node: str, now_s: float = 0.0, **changes: Any) -> Heard:
    return Heard(beat=beat(node, **changes), now_s=now_s)


def names(views: Any) -> list[str]:
    return [view.beat.node for view in views]


def test_an_event_makes_a_new_state_and_leaves_the_old_one_alone() -> None:
    state = after(heard("a"))
    assert names(alive(state, 0.0)) == ["a"]
    assert EMPTY.nodes == {}


def test_the_living_are_listed_by_name_whatever_the_order_in_which_they_came() -> None:
    assert names(alive(after(heard("c"), heard("a"), heard("b")), 0.0)) == ["a", "b", "c"]


def test_a_silent_node_is_not_alive_and_is_again_when_it_is_heard() -> None:
    state = after(heard("a", 0.0))
    assert names(alive(state, 60.0)) == []
    assert names(alive(after(heard("a", 60.0), state=state), 60.0)) == ["a"]


def test_a_long_silence_is_not_taken_for_the_normal_rhythm() -> None:
    regular = [heard("a", number / 10) for number in range(20)]
    state = after(*regular, heard("a", 500.0))
    assert names(alive(state, 500.4)) == ["a"]
    assert names(alive(state, 500.7)) == []


def test_a_node_that_says_goodbye_is_gone_at_once() -> None:
    state = after(heard("a"), heard("b"), Left(bye=Bye(node="a", incarnation="a-1")))
    assert names(alive(state, 0.0)) == ["b"]


def test_the_goodbye_of_an_earlier_incarnation_does_not_remove_the_new_one() -> None:
    state = after(heard("a", incarnation="new"), Left(bye=Bye(node="a", incarnation="old")))
    assert names(alive(state, 0.0)) == ["a"]


def test_the_goodbye_of_a_node_that_nobody_knows_changes_nothing() -> None:
    assert after(Left(bye=Bye(node="x", incarnation="1"))) == EMPTY


def test_a_node_that_comes_back_after_its_goodbye_is_alive() -> None:
    state = after(heard("a"), Left(bye=Bye(node="a", incarnation="a-1")), heard("a", 1.0, incarnation="a-2"))
    assert names(alive(state, 1.0)) == ["a"]


def test_a_node_that_started_anew_has_been_told_nothing() -> None:
    state = after(heard("a"), PLANNED, Told(node="a", epoch=1, now_s=5.0), heard("a", 6.0, incarnation="a-2"))
    assert (state.nodes["a"].told_epoch, state.nodes["a"].told_at_s) == (0, 0.0)


def test_what_a_node_was_told_is_kept_while_it_lives() -> None:
    state = after(heard("a"), PLANNED, Told(node="a", epoch=1, now_s=5.0), heard("a", 5.1, assigned_epoch=1))
    assert (state.nodes["a"].told_epoch, state.nodes["a"].told_at_s) == (1, 5.0)
    assert state.nodes["a"].beat.assigned_epoch == 1


@pytest.mark.parametrize(("pipeline", "ours"), [("", True), ("digits", True), ("other", False)])
def test_nodes_of_other_pipelines_are_no_concern_of_ours(pipeline: str, ours: bool) -> None:
    state = after(heard("a", pipeline=pipeline))
    assert names(alive(state, 0.0)) == (["a"] if ours else [])


def test_a_node_that_failed_to_load_is_alive_but_not_usable_until_it_starts_anew() -> None:
    failed = heard("a", 1.0, pipeline="digits", assigned_epoch=1, failure="no memory")
    state = after(heard("a"), PLANNED, failed)
    assert names(alive(state, 1.0)) == ["a"]
    assert names(usable(state, 1.0)) == []
    assert list(state.broken.values()) == ["a: no memory"]
    assert names(usable(after(heard("a", 1.0, incarnation="a-2"), state=state), 1.0)) == ["a"]


def test_a_node_that_failed_stays_out_when_it_reports_no_failure_any_more() -> None:
    failed = heard("a", 1.0, pipeline="digits", assigned_epoch=1, failure="no memory")
    state = after(heard("a"), PLANNED, failed, heard("a", 1.1, pipeline="digits", assigned_epoch=1))
    assert names(usable(state, 1.1)) == []


@pytest.mark.parametrize("changes", [{"assigned_epoch": 7}, {"pipeline": "other"}])
def test_a_failure_that_concerns_another_epoch_or_pipeline_breaks_nothing(changes: dict[str, Any]) -> None:
    failed = {"pipeline": "digits", "assigned_epoch": 1, "failure": "no memory", **changes}
    assert after(heard("a"), PLANNED, heard("a", 1.0, **failed)).broken == {}


def test_each_plan_has_an_epoch_of_its_own() -> None:
    state = after(heard("a"), PLANNED)
    assert (state.epoch, state.active_epoch) == (1, 0)
    state = after(Activated(epoch=1), PLANNED, state=state)
    assert (state.epoch, state.active_epoch) == (2, 1)


def test_a_new_controller_goes_on_from_the_epochs_that_its_nodes_served() -> None:
    state = after(heard("a", pipeline="digits", assigned_epoch=41), heard("b"), PLANNED)
    assert state.epoch == 42


def test_epochs_of_other_pipelines_do_not_count() -> None:
    assert after(heard("a", pipeline="other", assigned_epoch=41), PLANNED).epoch == 1


def test_a_plan_ends_what_was_said_about_there_being_none() -> None:
    state = after(heard("a"), NoPlan(nodes=frozenset({"a"}), reason="too small"))
    assert (state.no_plan_for, state.no_plan_reason) == (frozenset({"a"}), "too small")
    state = after(PLANNED, state=state)
    assert (state.no_plan_for, state.no_plan_reason) == (frozenset(), "")


events = st.one_of(
    st.builds(
        lambda node, start, epoch, failure: heard(
            node, 1.0, incarnation=f"{node}-{start}", pipeline="digits", assigned_epoch=epoch, failure=failure
        ),
        st.sampled_from("abc"),
        st.integers(1, 2),
        st.integers(0, 9),
        st.sampled_from(["", "broken"]),
    ),
    st.builds(lambda node: Left(bye=Bye(node=node, incarnation=f"{node}-1")), st.sampled_from("abc")),
    st.just(PLANNED),
    st.just(NoPlan(nodes=frozenset("a"), reason="no")),
)


@given(st.lists(events, max_size=20))
def test_epochs_only_ever_grow_and_exceed_all_that_was_served(history: list[Event]) -> None:
    state = EMPTY
    for event in history:
        before, state = state, apply(state, event)
        assert state.epoch >= before.epoch
        if isinstance(event, Planned):
            assert state.epoch > max([before.epoch, *(view.beat.assigned_epoch for view in before.nodes.values())])


def test_a_state_can_be_compared_and_changed_by_copy() -> None:
    assert replace(EMPTY, epoch=0) == EMPTY
