"""From a failure to the heal: what the controller decides, and whether the nodes can do it with what they have loaded.

`Cluster` fails the test where a node is sent a way around that it has not loaded.
"""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from planner.part import Part
from planner.plan import Plan
from recovery.decide import (
    FIRST_ANSWER_S,
    Announce,
    Bridge,
    MakePlan,
    PlaceSpares,
    Policy,
    Prepare,
    Tell,
    TellSpares,
    bridge,
)
from recovery.objectives import Objectives
from tests.unit.cluster import Cluster
from tests.unit.recovery_cases import CHAIN, part, standbys

NODES = ("a", "b", "c", "d", "e", "f")


def exits(plan: Plan) -> list[Part]:
    """An exit at every border of stages, the later the better."""
    cuts = [stage.first_block for stage in plan.stages if stage.first_block]
    return [part("exit", cut, CHAIN.blocks, 0.3 + cut / 10, memory_bytes=10, flops=100) for cut in cuts]


def make(
    *names: str, catalogue: object = None, pulses: bool = True, objectives: Objectives | None = None, **policy: object
) -> Cluster:
    """A cluster that serves, with its spares loaded and what to do about failures prepared."""
    chosen = {} if catalogue is None else {"catalogue": catalogue}
    settings = Policy(expected_nodes=len(names), objectives=objectives or Objectives(), **policy)  # type: ignore[arg-type]
    cluster = Cluster(policy=settings, pulses=pulses, **chosen)  # type: ignore[arg-type]
    cluster.join(*names)
    cluster.run(1.2)
    assert cluster.serves()
    return cluster


@pytest.fixture
def running() -> Cluster:
    """Four nodes, each with a stage, each stage with a standby elsewhere."""
    return make("a", "b", "c", "d")


def heal(cluster: Cluster) -> None:
    cluster.run(1.0)
    assert cluster.state.healthy
    assert cluster.active.technique == "none"
    assert cluster.serves()


def test_a_plan_that_is_active_is_followed_by_spares_and_by_what_to_do_about_each_failure(running: Cluster) -> None:
    kinds = [type(action) for action in running.actions if action is not None]
    assert kinds[:5] == [MakePlan, Tell, Announce, Prepare, PlaceSpares]
    assert TellSpares in kinds
    assert kinds[-1] == Prepare
    contingency = running.state.contingency
    assert contingency is not None
    assert {name for lost in contingency.table for name in lost} == {"a", "b", "c", "d"}
    assert all(contingency.table[frozenset(name)].option.technique == "standby" for name in "abcd")


@pytest.mark.parametrize("victim", ["a", "b", "c", "d"])
def test_a_crash_of_any_node_is_bridged_at_once_by_what_is_loaded_and_then_healed(
    running: Cluster, victim: str
) -> None:
    running.crash(victim)
    assert isinstance(running.step(), Bridge)
    assert running.serves()
    assert running.active.technique == "standby"
    assert running.active.expected_accuracy == pytest.approx(0.9)
    assert victim not in running.active.nodes
    assert running.announced == [1, 2]
    heal(running)
    assert set(running.planned) == {"a", "b", "c", "d"} - {victim}


def test_the_standby_head_takes_over_from_a_head_that_is_lost_and_keeps_leading_after_the_heal(
    running: Cluster,
) -> None:
    assert (running.active.head, running.active.standby_head) == ("a", "b")
    running.crash("a")
    running.step()
    assert running.active.head == "b"
    assert running.active.standby_head not in ("", "a", "b")
    heal(running)
    assert running.active.head == "b"


def test_a_node_that_hangs_is_missed_after_a_few_pulses_and_bridged(running: Cluster) -> None:
    running.stop("c")
    running.wait(0.06)
    assert running.decide() is None
    running.wait(0.06)
    assert isinstance(running.step(), Bridge)
    assert running.serves()


def test_nodes_that_send_no_pulses_are_missed_by_their_beats() -> None:
    running = make("a", "b", "c", "d", pulses=False)
    running.stop("c")
    running.wait(0.4)
    assert running.decide() is None
    running.wait(0.5)
    assert isinstance(running.step(), Bridge)


def test_a_node_that_was_only_slow_and_returns_before_the_heal_is_part_of_the_next_plan(running: Cluster) -> None:
    running.stop("c")
    running.wait(0.2)
    running.step()
    assert running.active.technique == "standby"
    running.go_on("c")
    heal(running)
    assert running.planned == ("a", "b", "c", "d")
    assert running.announced == [1, 2, 3]


def test_a_node_that_returns_after_the_heal_is_taken_in_where_that_makes_the_plan_better() -> None:
    running = make("a", "b", "c")
    running.stop("c")
    running.run(2.0)
    assert running.planned == ("a", "b")
    running.go_on("c")
    running.run(2.0)
    assert running.planned == ("a", "b", "c")
    assert running.actions.count(Announce(epoch=running.state.epoch, drain=True)) == 1
    assert running.serves()


def test_a_node_whose_connections_were_lost_for_a_moment_serves_on(running: Cluster) -> None:
    """The broker reports a crash; the way around is taken, and the node that was there all the time is taken in."""
    kept = running.nodes["c"]
    running.crash("c")
    running.step()
    running.nodes["c"] = kept
    running.run(1.0)
    assert running.planned == ("a", "b", "c", "d")
    assert running.serves()


def test_an_exit_answers_where_nothing_else_is_loaded_and_says_what_to_expect() -> None:
    running = make("a", "b", "c", "d", catalogue=exits)
    running.crash("d")
    running.step()
    assert running.active.technique == "exit"
    assert running.active.exit == running.way[-1][1]
    assert running.active.exit.startswith("exit:")
    assert running.active.expected_accuracy is not None
    assert running.active.expected_accuracy < 0.9
    assert running.serves()
    heal(running)
    assert running.active.expected_accuracy == 0.9


def test_where_degraded_answers_are_forbidden_frames_wait_for_the_heal() -> None:
    running = make("a", "b", "c", "d", catalogue=exits, objectives=Objectives(min_accuracy=0.89))
    running.crash("d")
    assert bridge(running.state, running.now_s) is None
    assert isinstance(running.step(), MakePlan)
    heal(running)


def test_without_spares_a_failure_is_healed_and_not_bridged() -> None:
    running = make("a", "b", "c", spare_memory_bytes=0)
    assert running.state.spares == ()
    running.crash("b")
    assert isinstance(running.step(), MakePlan)
    running.settle()
    assert Announce(epoch=2, drain=False) in running.actions  # the route before is broken: nothing finishes on it
    heal(running)


def test_the_loss_of_a_node_that_frames_do_not_need_is_no_failure() -> None:
    running = make(*"abcdefg")
    assert "g" not in running.planned
    before = running.state.epoch
    running.crash("g")
    assert not isinstance(running.decide(), Bridge)
    running.run(2.0)
    assert running.state.epoch == before


def test_a_new_plan_leaves_the_processor_to_the_first_answer_over_the_bridge(running: Cluster) -> None:
    running.report("a", in_flight=5, oldest_epoch=1, answered_epoch=1)
    running.crash("c")
    assert isinstance(running.step(), Bridge)
    assert running.decide() is None
    running.report("a", answered_epoch=2)
    assert isinstance(running.decide(), MakePlan)


def test_a_new_plan_waits_for_a_head_that_is_just_taking_over(running: Cluster) -> None:
    running.crash("a")
    assert isinstance(running.step(), Bridge)
    epoch = running.active.epoch
    running.report("b", active_epoch=epoch, is_head=False, in_flight=0)
    assert running.decide() is None
    running.report("b", active_epoch=epoch, is_head=True, in_flight=0)
    assert isinstance(running.decide(), MakePlan)


def test_a_bridge_that_does_not_answer_does_not_keep_the_heal_waiting(running: Cluster) -> None:
    running.report("a", in_flight=5, oldest_epoch=1, answered_epoch=1)
    running.crash("c")
    running.step()
    running.wait(FIRST_ANSWER_S + 0.1)
    assert isinstance(running.decide(), MakePlan)


def test_a_failure_while_a_plan_is_being_made_is_bridged_and_makes_that_plan_void(running: Cluster) -> None:
    running.crash("b")
    running.step()
    for node in running.nodes.values():
        node.slow = True
    while not isinstance(running.step(), Tell):
        pass
    assert set(running.planned) == {"a", "c", "d"}
    assert running.decide() is None  # all are loading
    running.crash("c")
    assert isinstance(running.step(), Bridge)
    assert not running.active.nodes & {"b", "c"}
    assert running.serves()
    for node in running.nodes.values():
        node.slow = False
    heal(running)
    assert set(running.planned) == {"a", "d"}


@pytest.mark.parametrize("pair", list(combinations("abcde", 2)), ids="".join)
def test_two_nodes_of_five_that_crash_at_once_are_healed_and_bridged_where_that_is_possible(
    pair: tuple[str, str],
) -> None:
    running = make(*"abcde")
    contingency = running.state.contingency
    assert contingency is not None
    foreseen = contingency.answer(frozenset(pair))
    running.crash(*pair)
    running.step()
    if foreseen is not None and foreseen.option.technique != "repartition":
        assert running.serves()
    heal(running)
    assert not set(running.planned) & set(pair)


@pytest.mark.parametrize("catalogue", [None, exits], ids=["standbys", "exits"])
@pytest.mark.parametrize("order", [("d", "a", "b"), ("a", "b", "c"), ("c", "b", "a")], ids="".join)
@pytest.mark.parametrize("pause_s", [0.0, 0.1, 0.3, 1.5])
def test_nodes_that_crash_one_after_the_other_leave_a_pipeline_on_the_last(
    catalogue: object, order: tuple[str, ...], pause_s: float
) -> None:
    running = make("a", "b", "c", "d", catalogue=catalogue)
    for name in order:
        running.crash(name)
        running.settle()
        running.run(pause_s)
    heal(running)
    assert len(running.planned) == 1


def test_a_bridge_whose_own_node_is_lost_is_bridged_again() -> None:
    running = make(*"abcdefg", objectives=Objectives(techniques=frozenset({"standby"})))
    running.crash("c")
    for node in running.nodes.values():
        node.slow = True
    running.step()
    host = next(node for node, name in running.way if name.startswith("standby:"))
    running.crash(host)
    running.step()
    assert not running.active.nodes & {"c", host} or not isinstance(running.actions[-1], Bridge)
    for node in running.nodes.values():
        node.slow = False
    heal(running)


def test_a_node_that_returns_while_its_absence_is_bridged_is_not_counted_on_for_what_it_no_longer_has() -> None:
    running = make("a", "b", "c", "d")
    running.stop("b")
    running.wait(0.2)
    for node in running.nodes.values():
        node.slow = True
    running.settle()
    running.go_on("b")
    running.settle()
    running.crash("c")
    running.settle()
    for node in running.nodes.values():
        node.slow = False
        if node.assigned is not None and node.assigned.epoch not in node.deployments:
            node.load()
    heal(running)
    assert set(running.planned) == {"a", "b", "d"}


def test_a_node_that_started_anew_is_not_counted_on_for_what_the_process_before_it_had_loaded() -> None:
    running = make("a", "b", "c", "d")
    running.join("b")  # its process was restarted before anybody missed it
    running.crash("a")
    action = running.step()
    assert not isinstance(action, Bridge) or "b" not in running.active.nodes
    heal(running)


events = st.tuples(
    st.sampled_from(["crash", "die", "leave", "stop", "go_on", "join", "leaving", "crash", "stop"]),
    st.sampled_from(NODES),
    st.sampled_from([0.0, 0.0, 0.1, 0.2, 0.6, 1.5]),
)


@pytest.mark.parametrize("catalogue", [None, exits], ids=["standbys", "exits"])
@given(st.lists(events, min_size=1, max_size=10))
@example([("crash", "a", 0.0), ("die", "b", 0.0), ("join", "c", 0.0)])  # anew while it is prepared for the next failure
@hypothesis_settings(max_examples=60, deadline=None)
def test_whatever_happens_no_node_is_asked_for_what_it_has_not_and_in_the_end_all_is_well(
    catalogue: object, history: list[tuple[str, str, float]]
) -> None:
    running = make("a", "b", "c", "d", catalogue=catalogue or (lambda plan: standbys(plan, CHAIN)))
    for what, name, seconds in history:
        there = name in running.nodes
        if what == "join":
            running.join(name)  # where it is there, its process was started anew
        elif there and what == "leaving":
            running.report(name, leaving=True)
        elif there:
            getattr(running, what)(name)
        running.settle()
        running.run(seconds)
    running.join("a", "f")
    running.run(4.0)
    assert running.serves()
    assert running.state.healthy
    assert not running.state.draining
    assert not bridge(running.state, running.now_s)
