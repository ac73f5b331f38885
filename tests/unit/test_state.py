"""Cluster state: what each event changes, and what it leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.control import Bye
from planner.plan import Plan, Stage
from recovery.contingency import prepare
from recovery.queries import (
    alive,
    choose_head,
    choose_standby_head,
    is_prepared,
    loaded_spares,
    lost,
    members,
    next_epoch,
    told,
    usable,
)
from recovery.state import (
    Activated,
    ClusterState,
    Drained,
    Event,
    Gone,
    Heard,
    KeptPlan,
    Left,
    NoPlan,
    Planned,
    Prepared,
    Pulsed,
    SparesPlaced,
    Told,
    apply,
)
from tests.unit.builders import beat, route
from tests.unit.recovery_cases import EXIT, STANDBY, make_setup

EMPTY = ClusterState(pipeline="digits")
PLAN = Plan(stages=(Stage(first_block=0, end_block=2, node="a"),))
THREE = Plan(stages=tuple(Stage(first_block=i, end_block=i + 1, node=node) for i, node in enumerate("abc")))


def planned(epoch: int, *nodes: str, **facts: Any) -> Planned:
    """A plan with one block on each of these nodes, in this order."""
    stages = tuple(Stage(first_block=i, end_block=i + 1, node=node) for i, node in enumerate(nodes))
    hops = ((node, f"stage:{i}-{i + 1}") for i, node in enumerate(nodes))
    return Planned(plan=Plan(stages=stages), route=route(epoch, *hops, **facts), nodes=frozenset(nodes))


PLANNED = planned(1, "a")
READY = prepare(make_setup(STANDBY))


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
    assert names(alive(state, 501.0)) == []


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


def test_a_plan_is_active_once_it_is_announced_and_not_before() -> None:
    state = after(heard("a"), PLANNED)
    assert (state.epoch, state.active_epoch, state.healthy) == (1, 0, False)
    state = after(Activated(route=PLANNED.route, drain=False, now_s=0.0), state=state)
    assert (state.epoch, state.active_epoch, state.healthy) == (1, 1, True)


def test_a_way_around_a_failure_takes_the_next_epoch_and_the_cluster_is_not_healthy_until_it_has_a_new_plan() -> None:
    bridge = route(2, ("a", "exit:0-1"), technique="exit")
    state = after(
        heard("a"),
        PLANNED,
        Activated(route=PLANNED.route, drain=False, now_s=0.0),
        Activated(route=bridge, drain=False, now_s=0.0),
    )
    assert (state.epoch, state.active, state.healthy) == (2, bridge, False)
    state = after(planned(3, "a"), state=state)
    assert (state.epoch, state.active, state.healthy) == (3, bridge, False)
    state = after(Activated(route=planned(3, "a").route, drain=True, now_s=0.0), state=state)
    assert (state.healthy, state.draining) == (True, True)
    assert not after(Drained(), state=state).draining


def test_a_new_controller_goes_on_from_the_epochs_that_its_nodes_served() -> None:
    assert next_epoch(after(heard("a", pipeline="digits", assigned_epoch=41), heard("b"))) == 42
    assert next_epoch(after(heard("a", pipeline="digits", assigned_epoch=41), planned(50, "a"))) == 51


def test_epochs_of_other_pipelines_do_not_count() -> None:
    assert next_epoch(after(heard("a", pipeline="other", assigned_epoch=41))) == 1


# ---- signs of life -------------------------------------------------------------------------------------------------


def pulsed(node: str, now_s: float, incarnation: str | None = None) -> Pulsed:
    return Pulsed(node=node, incarnation=incarnation or f"{node}-1", interval_s=0.02, now_s=now_s)


def gone(node: str, now_s: float, incarnation: str | None = None) -> Gone:
    return Gone(node=node, incarnation=incarnation or f"{node}-1", now_s=now_s)


def test_a_node_that_sends_pulses_is_missed_much_sooner_than_one_that_only_beats() -> None:
    state = after(heard("a"), heard("b"), *(pulsed("a", number / 50) for number in range(10)), heard("b", 0.2))
    assert names(alive(state, 0.2)) == ["a", "b"]
    assert names(alive(state, 0.3)) == ["b"]


def test_a_beat_is_a_sign_of_life_of_a_node_that_sends_pulses_too() -> None:
    state = after(heard("a"), *(pulsed("a", number / 50) for number in range(10)), heard("a", 0.25))
    assert names(alive(state, 0.3)) == ["a"]
    assert names(alive(state, 0.5)) == []


def test_a_node_whose_connections_are_closed_is_gone_at_once() -> None:
    state = after(heard("a"), heard("b"), gone("a", 0.01))
    assert names(alive(state, 0.01)) == ["b"]


def test_a_node_that_is_heard_after_its_connections_were_lost_is_back() -> None:
    state = after(heard("a"), gone("a", 0.01), heard("a", 0.1))
    assert names(alive(state, 0.1)) == ["a"]


def test_what_was_under_way_when_the_connections_were_closed_is_no_sign_of_life() -> None:
    state = after(heard("a"), gone("a", 0.01), heard("a", 0.02), pulsed("a", 0.02))
    assert names(alive(state, 0.02)) == []


@pytest.mark.parametrize("event", [pulsed("a", 60.0, "a-0"), pulsed("x", 60.0), gone("x", 60.0)])
def test_signs_of_other_processes_and_of_nodes_that_never_beat_change_nothing(event: Event) -> None:
    state = after(heard("a"))
    assert apply(state, event) == state


def test_the_end_of_an_earlier_incarnation_is_not_that_of_the_new_one() -> None:
    state = after(heard("a", incarnation="new"), gone("a", 0.01, "old"))
    assert names(alive(state, 0.01)) == ["a"]


def test_a_pulse_that_arrives_after_the_goodbye_does_not_bring_the_node_back() -> None:
    state = after(heard("a"), Left(bye=Bye(node="a", incarnation="a-1")), pulsed("a", 0.01))
    assert names(alive(state, 0.01)) == []


def test_a_node_that_wants_to_leave_is_alive_and_is_not_planned_with() -> None:
    state = after(heard("a"), heard("b", leaving=True))
    assert (names(alive(state, 0.0)), names(usable(state, 0.0))) == (["a", "b"], ["a"])


# ---- what is lost, what is loaded ----------------------------------------------------------------------------------


def active(*nodes: str, **facts: Any) -> tuple[Planned, Activated]:
    made = planned(1, *nodes, **facts)
    return made, Activated(route=made.route, drain=False, now_s=0.0)


def test_what_is_lost_are_the_nodes_that_frames_need_and_that_are_silent() -> None:
    state = after(heard("a"), heard("b"), heard("c"), *active("a", "b"), heard("a", 60.0))
    assert lost(state, 0.0) == frozenset()
    assert lost(state, 60.0) == {"b"}


def test_the_loss_of_the_standby_head_is_no_loss_for_frames() -> None:
    state = after(heard("a"), heard("s"), *active("a", standby_head="s"), heard("a", 60.0))
    assert lost(state, 60.0) == frozenset()


def test_a_node_that_another_pipeline_took_is_lost_to_this_one() -> None:
    state = after(heard("a"), heard("b"), *active("a", "b"), heard("b", 0.1, pipeline="other"))
    assert lost(state, 0.1) == {"b"}


def test_before_anything_is_active_nothing_is_lost() -> None:
    assert lost(after(heard("a"), PLANNED), 60.0) == frozenset()
    assert members(after(heard("a"))) == ()


def test_the_standby_head_is_told_the_route_as_long_as_it_is_there() -> None:
    state = after(heard("a"), heard("s"), planned(1, "a", standby_head="s"), heard("a", 60.0))
    assert names(told(state, 0.0)) == ["a", "s"]
    assert names(told(state, 60.0)) == ["a"]


def test_spares_are_loaded_where_living_nodes_say_so() -> None:
    state = after(heard("a"), heard("c"), SparesPlaced(spares=(STANDBY, EXIT), plan_epoch=1))
    there: dict[str, Any] = {"spares": (STANDBY.part.name,), "spares_epoch": state.spares_epoch}
    state = after(heard("a", **there), heard("c", **there), state=state)
    assert loaded_spares(state, 0.0) == (STANDBY,)  # c has it; a has another one than it should
    assert loaded_spares(state, 60.0) == ()


def test_of_what_a_node_has_loaded_counts_what_it_is_to_keep() -> None:
    before = after(heard("c"), SparesPlaced(spares=(STANDBY,), plan_epoch=1))
    loaded = heard("c", spares=(STANDBY.part.name,), spares_epoch=before.spares_epoch)
    kept = after(loaded, SparesPlaced(spares=(STANDBY,), plan_epoch=2), state=before)
    assert loaded_spares(kept, 0.0) == (STANDBY,)
    other = replace(STANDBY, part=replace(STANDBY.part, end_block=5))
    replaced = after(loaded, SparesPlaced(spares=(other,), plan_epoch=2), state=before)
    assert loaded_spares(replaced, 0.0) == ()


def test_it_is_prepared_when_every_spare_that_was_placed_is_loaded_and_reckoned_with() -> None:
    state = after(heard("a"), *active("a"), heard("c"))
    assert not is_prepared(state, 0.0)
    placed = after(SparesPlaced(spares=(STANDBY,), plan_epoch=1), state=state)
    assert not is_prepared(placed, 0.0)
    loaded = after(heard("c", spares=(STANDBY.part.name,), spares_epoch=placed.spares_epoch), state=placed)
    assert not is_prepared(loaded, 0.0)
    for spares, wanted in ((frozenset[tuple[str, str]](), False), (frozenset({("c", STANDBY.part.name)}), True)):
        key = (1, loaded.spares_epoch, spares)
        assert is_prepared(after(Prepared(contingency=None, prepared_for=key, now_s=0.0), state=loaded), 0.0) is wanted


def test_spares_have_numbers_above_those_that_nodes_were_told_by_an_earlier_controller() -> None:
    state = after(heard("a", pipeline="digits", spares_epoch=8), SparesPlaced(spares=(), plan_epoch=1))
    assert state.spares_epoch == 9


def test_what_is_prepared_is_kept_with_what_it_was_made_for() -> None:
    key = (1, frozenset({("c", "standby:2-4")}))
    state = after(heard("a"), *active("a"), Prepared(contingency=READY, prepared_for=key, now_s=5.0))
    assert (state.contingency, state.prepared_for, state.prepared_at_s) == (READY, key, 5.0)


def test_what_was_prepared_for_a_route_that_is_over_counts_no_more() -> None:
    ready = Prepared(contingency=READY, prepared_for=(1, frozenset()), now_s=5.0)
    healed = planned(3, "a")
    state = after(heard("a"), *active("a"), ready, Activated(route=route(2, ("a", "exit:0-1")), drain=False, now_s=6.0))
    assert state.contingency == READY  # a way around goes over what it was prepared with
    state = after(healed, Activated(route=healed.route, drain=True, now_s=7.0), state=state)
    assert state.contingency is None
    assert after(ready, state=state).contingency is None


def test_nodes_that_make_no_better_plan_are_remembered() -> None:
    assert after(heard("a"), PLANNED, KeptPlan(nodes=frozenset("ab"))).planned_for == {"a", "b"}


# ---- who leads -----------------------------------------------------------------------------------------------------


def leader(*alive: str, leaving: tuple[str, ...] = (), **facts: Any) -> tuple[str, str]:
    """Head and standby head of a plan on a, b, c, while a route on a, b, c is active and these nodes are there."""
    state = after(*(heard(name, leaving=name in leaving) for name in alive), *active("a", "b", "c", **facts))
    head = choose_head(state, THREE, 0.0)
    return head, choose_standby_head(state, THREE.nodes, head, 0.0)


def test_the_first_head_is_on_the_first_stage_s_node_and_the_next_node_stands_by() -> None:
    state = after(heard("a"), heard("b"), heard("c"))
    assert (choose_head(state, THREE, 0.0), choose_standby_head(state, THREE.nodes, "a", 0.0)) == ("a", "b")


def test_a_head_that_is_there_stays_the_head_whatever_the_plan_and_so_does_its_standby() -> None:
    assert leader("a", "b", "c", head="c", standby_head="b") == ("c", "b")


def test_when_the_head_is_lost_its_standby_leads_and_another_stands_by() -> None:
    assert leader("b", "c", head="a", standby_head="c") == ("c", "a")


def test_when_the_head_wants_to_leave_its_standby_leads() -> None:
    assert leader("a", "b", "c", leaving=("a",), head="a", standby_head="b")[0] == "b"


def test_when_head_and_standby_are_lost_the_first_stage_s_node_leads() -> None:
    assert leader("c", head="b", standby_head="b")[0] == "a"


def test_a_single_node_has_no_standby() -> None:
    state = after(heard("a"), *active("a"))
    assert choose_standby_head(state, PLAN.nodes, "a", 0.0) == ""


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
    st.builds(lambda node: pulsed(node, 1.0), st.sampled_from("abc")),
    st.builds(lambda node: gone(node, 1.0), st.sampled_from("abc")),
    st.sampled_from(["plan", "bridge"]),
    st.just(NoPlan(nodes=frozenset("a"), reason="no")),
    st.just(Drained()),
)


@given(st.lists(events, max_size=20))
def test_epochs_only_ever_grow_and_exceed_all_that_was_served(history: list[Event | str]) -> None:
    state = EMPTY
    for event in history:
        before = state
        if isinstance(event, str):
            epoch = next_epoch(before)
            served = [view.beat.assigned_epoch for view in before.nodes.values()]
            assert epoch > max([before.epoch, *served])
            made = planned(epoch, "a")
            event = made if event == "plan" else Activated(route=made.route, drain=False, now_s=0.0)
            assert apply(before, event).epoch == epoch
        state = apply(before, event)
        assert state.epoch >= before.epoch
        assert state.active_epoch <= state.epoch


def test_a_state_can_be_compared_and_changed_by_copy() -> None:
    assert replace(EMPTY, epoch=0) == EMPTY
