"""What the controller does next, with a clock that the test turns."""

from __future__ import annotations

import pytest

from planner.cluster import NodeSpec
from recovery.decide import (
    RETELL_AFTER_S,
    Announce,
    Bridge,
    MakePlan,
    Policy,
    Prepare,
    Retire,
    Tell,
    unheard,
)
from recovery.state import NoPlan
from tests.unit.cluster import Cluster

NODES_ABCD = tuple(NodeSpec(name=name) for name in "abcd")


def waiting_for(nodes: int, *, obedient: bool = True) -> Cluster:
    """It loads no spares, so that what is left to do is the plan alone."""
    return Cluster(policy=Policy(expected_nodes=nodes, spare_memory_bytes=0), obedient=obedient)


@pytest.fixture
def running() -> Cluster:
    """Three nodes that serve epoch 1."""
    cluster = waiting_for(3)
    cluster.join("a", "b", "c")
    cluster.settle()
    assert (cluster.planned, cluster.announced) == (("a", "b", "c"), [1])
    return cluster


def test_without_nodes_there_is_nothing_to_do_however_long_it_takes() -> None:
    cluster = waiting_for(1)
    cluster.now_s += 1000
    assert cluster.decide() is None


def test_it_waits_for_the_nodes_that_are_expected_and_plans_when_the_last_is_there() -> None:
    cluster = waiting_for(3)
    cluster.join("a", "b")
    assert cluster.decide() is None
    cluster.join("c", memory_bytes=64)
    nodes = (NodeSpec(name="a"), NodeSpec(name="b"), NodeSpec(name="c", memory_bytes=64))
    assert cluster.decide() == MakePlan(nodes=nodes)


def test_it_starts_with_fewer_nodes_when_the_others_do_not_come_in_time() -> None:
    cluster = waiting_for(3)
    cluster.join("a", "b")
    cluster.wait(1.9)
    assert cluster.decide() is None
    cluster.wait(0.2)
    assert [node.name for node in cluster.decide().nodes] == ["a", "b"]


def test_it_tells_every_node_of_the_plan_and_announces_when_all_have_loaded() -> None:
    cluster = waiting_for(2, obedient=False)
    cluster.join("a", "b")
    cluster.step()
    assert cluster.step() == Tell(nodes=("a", "b"))
    assert cluster.decide() is None
    cluster.report("a", assigned_epoch=1, ready_epoch=1)
    cluster.report("b", assigned_epoch=1)
    assert cluster.decide() is None
    cluster.report("b", ready_epoch=1)
    assert cluster.step() == Announce(epoch=1, drain=False)
    assert isinstance(cluster.decide(), Prepare)


def test_a_node_that_does_not_acknowledge_is_told_again_and_the_others_are_not() -> None:
    cluster = waiting_for(2, obedient=False)
    cluster.join("a", "b")
    cluster.step()
    cluster.step()
    cluster.report("a", assigned_epoch=1)
    cluster.wait(RETELL_AFTER_S - 0.1)
    assert cluster.decide() is None
    cluster.wait(0.2)
    assert cluster.step() == Tell(nodes=("b",))
    assert cluster.decide() is None
    cluster.wait(RETELL_AFTER_S + 0.1)
    assert cluster.decide() == Tell(nodes=("b",))


def test_a_node_that_takes_long_to_load_is_not_told_again() -> None:
    cluster = waiting_for(1, obedient=False)
    cluster.join("a")
    cluster.step()
    cluster.step()
    cluster.report("a", assigned_epoch=1)
    cluster.wait(60)
    assert cluster.decide() is None


def test_a_cluster_that_runs_is_left_alone(running: Cluster) -> None:
    running.wait(60)
    assert running.decide() is None


def test_a_node_that_dies_is_noticed_and_the_survivors_get_a_new_plan(running: Cluster) -> None:
    running.die("b")
    running.wait(1.0)
    assert isinstance(running.decide(), MakePlan)
    running.settle()
    assert running.planned == ("a", "c")
    assert running.announced == [1, 2]


def test_a_node_that_leaves_is_replaced_without_waiting_for_a_timeout(running: Cluster) -> None:
    running.leave("b")
    running.settle()
    assert running.planned == ("a", "c")


def test_a_node_that_comes_back_under_its_name_is_told_the_plan_anew(running: Cluster) -> None:
    running.join("b")
    running.settle()
    assert running.planned == ("a", "b", "c")
    assert running.announced == [1, 2]
    assert ("b", 2) in running.told


def test_a_node_that_starts_anew_while_the_plan_is_loaded_is_told_again_at_once() -> None:
    cluster = waiting_for(2, obedient=False)
    cluster.join("a", "b")
    cluster.step()
    cluster.step()
    cluster.join("b")
    assert cluster.decide() == Tell(nodes=("b",))


def test_when_all_are_gone_it_waits_and_goes_on_with_the_first_that_comes(running: Cluster) -> None:
    for name in "abc":
        running.die(name)
    running.wait(10)
    assert running.decide() is None
    running.join("d")
    running.settle()
    assert running.planned == ("d",)


def test_a_node_that_cannot_load_its_stage_is_left_out() -> None:
    cluster = waiting_for(2)
    cluster.join("a", "b")
    cluster.step()
    cluster.step()
    cluster.report("b", assigned_epoch=1, failure="onnxruntime cannot load the sub-model")
    assert [node.name for node in cluster.decide().nodes] == ["a"]
    cluster.settle()
    assert cluster.planned == ("a",)
    cluster.wait(60)
    assert cluster.decide() is None


def test_when_the_only_node_cannot_load_its_stage_it_waits_for_another() -> None:
    cluster = waiting_for(1, obedient=False)
    cluster.join("a")
    cluster.step()
    cluster.step()
    cluster.report("a", assigned_epoch=1, failure="no")
    cluster.wait(60)
    assert cluster.decide() is None
    cluster.join("b")
    assert [node.name for node in cluster.decide().nodes] == ["b"]


def test_nodes_of_other_pipelines_are_neither_counted_nor_planned_with() -> None:
    cluster = waiting_for(2)
    cluster.join("a")
    cluster.join("x", pipeline="other", assigned_epoch=9, active_epoch=9)
    assert cluster.decide() is None
    cluster.join("b")
    assert [node.name for node in cluster.decide().nodes] == ["a", "b"]
    cluster.settle()
    assert cluster.announced == [1]
    assert not unheard(cluster.state, cluster.now_s)


def test_what_has_no_plan_is_not_tried_again_until_the_nodes_change() -> None:
    cluster = waiting_for(2)
    cluster.join("a", "b")
    cluster.apply(NoPlan(nodes=frozenset({"a", "b"}), reason="too small"))
    cluster.wait(60)
    assert cluster.decide() is None
    cluster.join("c")
    assert isinstance(cluster.decide(), MakePlan)
    cluster.apply(NoPlan(nodes=frozenset({"a", "b", "c"}), reason="too small"))
    assert cluster.decide() is None
    cluster.leave("b")
    assert isinstance(cluster.decide(), MakePlan)


def test_a_plan_whose_sub_models_cannot_be_made_is_not_tried_again_until_the_nodes_change() -> None:
    cluster = waiting_for(2, obedient=False)
    cluster.join("a", "b")
    cluster.step()
    assert isinstance(cluster.decide(), Tell)
    cluster.join("c")
    cluster.leave("a")
    assert isinstance(cluster.decide(), MakePlan)
    cluster.apply(NoPlan(nodes=frozenset({"b", "c"}), reason="the sub-model cannot be cut"))
    cluster.wait(60)
    assert not isinstance(cluster.decide(), MakePlan)
    cluster.join("d")
    assert isinstance(cluster.decide(), MakePlan)


def test_when_the_survivors_have_no_plan_it_waits_for_a_node_and_then_heals(running: Cluster) -> None:
    running.leave("b")
    running.apply(NoPlan(nodes=frozenset({"a", "c"}), reason="too small"))
    running.wait(10)
    assert running.decide() is None
    running.join("d")
    running.settle()
    assert running.planned == ("a", "c", "d")


def test_a_node_that_makes_no_better_plan_may_come_and_go_and_disturbs_nothing(running: Cluster) -> None:
    before = running.state.epoch
    running.join("d")  # six blocks on four nodes: the largest stage still has two
    running.run(3)
    assert MakePlan(nodes=NODES_ABCD, improve=True) in running.actions
    running.leave("d")
    running.run(3)
    assert (running.state.epoch, running.planned) == (before, ("a", "b", "c"))


def test_a_node_that_makes_the_plan_better_is_taken_in_once_it_has_been_there_for_a_while() -> None:
    cluster = waiting_for(2)
    cluster.join("a", "b")
    cluster.settle()
    cluster.join("c")
    cluster.run(0.9)
    assert cluster.planned == ("a", "b")
    cluster.run(0.3)
    assert cluster.planned == ("a", "b", "c")
    assert Announce(epoch=2, drain=True) in cluster.actions  # the old way works: frames finish on it
    assert cluster.serves()


def test_each_node_that_comes_begins_the_wait_anew_so_that_several_make_one_plan() -> None:
    cluster = waiting_for(1)
    cluster.join("a")
    cluster.settle()
    cluster.join("b")
    cluster.run(0.8)
    cluster.join("c")
    cluster.run(0.8)
    assert cluster.planned == ("a",)
    cluster.run(0.3)
    assert cluster.planned == ("a", "b", "c")
    assert cluster.announced == [1, 2]


def test_a_node_that_wants_to_leave_stays_until_the_pipeline_goes_on_without_it(running: Cluster) -> None:
    running.report("b", leaving=True)
    running.settle()
    assert running.planned == ("a", "c")
    assert running.actions.count(Announce(epoch=2, drain=True)) == 1
    assert not any(isinstance(action, Bridge) for action in running.actions)
    assert running.nodes["b"].deployments == {}


def test_a_head_that_wants_to_leave_hands_over_to_its_standby(running: Cluster) -> None:
    assert (running.active.head, running.active.standby_head) == ("a", "b")
    running.report("a", leaving=True)
    running.settle()
    assert (running.active.head, running.planned) == ("b", ("b", "c"))


def test_frames_that_are_under_way_finish_before_the_route_before_is_over(running: Cluster) -> None:
    running.report("a", oldest_epoch=1, in_flight=3)
    running.report("b", leaving=True)
    running.settle()
    running.run(2)
    assert running.state.draining
    assert set(running.nodes["b"].deployments) == {1}
    assert not any(isinstance(action, Retire) for action in running.actions)
    running.report("a", oldest_epoch=2)
    running.settle()
    assert running.actions.count(Retire(epoch=2)) == 1
    assert not running.state.draining
    assert running.nodes["b"].deployments == {}


def test_a_head_that_has_not_switched_yet_is_waited_for_too(running: Cluster) -> None:
    running.report("b", leaving=True)
    running.obedient = False
    for _ in range(2):
        running.step()
    running.report("a", assigned_epoch=2, ready_epoch=2)
    running.report("c", assigned_epoch=2, ready_epoch=2)
    assert running.step() == Announce(epoch=2, drain=True)
    running.report("c", active_epoch=2)
    assert not isinstance(running.decide(), Retire)
    running.report("a", active_epoch=2)
    assert running.decide() == Retire(epoch=2)


def test_a_new_controller_goes_on_with_higher_epochs_than_the_nodes_have_served(running: Cluster) -> None:
    running.leave("b")
    running.settle()
    successor = waiting_for(2)
    for name in ("a", "c"):
        successor.join(name, pipeline="digits", assigned_epoch=2, ready_epoch=2, active_epoch=2)
    successor.settle()
    assert successor.announced == [3]
    assert set(successor.told) == {("a", 3), ("c", 3)}


def test_what_an_earlier_controller_s_route_has_under_way_finishes_on_it_and_its_head_stays_the_head() -> None:
    successor = waiting_for(2)
    for name in ("a", "c"):
        facts = {"pipeline": "digits", "assigned_epoch": 2, "ready_epoch": 2, "active_epoch": 2, "controller": "c0"}
        successor.join(name, is_head=name == "c", **facts)
    successor.settle()
    assert Announce(epoch=3, drain=True) in successor.actions
    assert successor.active.head == "c"


def test_a_node_with_a_higher_epoch_that_is_heard_late_does_not_go_on_leading() -> None:
    cluster = waiting_for(2)
    cluster.join("a", "b")
    cluster.settle()
    assert cluster.announced == [1]
    cluster.join("x", pipeline="digits", assigned_epoch=7, ready_epoch=7, active_epoch=7, is_head=True)
    cluster.settle()
    assert cluster.announced[-1] > 7


def test_a_node_that_missed_the_announcement_is_noticed(running: Cluster) -> None:
    assert not unheard(running.state, running.now_s)
    running.report("b", active_epoch=0)
    assert unheard(running.state, running.now_s)


def test_a_suspect_that_wakes_up_with_its_old_route_is_told_that_it_is_over(running: Cluster) -> None:
    running.stop("b")
    running.run(2.0)
    assert running.planned == ("a", "c")
    assert not unheard(running.state, running.now_s)
    running.go_on("b")
    assert unheard(running.state, running.now_s)


def test_the_same_state_and_time_lead_to_the_same_decision(running: Cluster) -> None:
    running.leave("a")
    assert running.decide() == running.decide()
