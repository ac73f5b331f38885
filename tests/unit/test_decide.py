"""What the controller does next, with a clock that the test turns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from broker.control import Bye
from planner.cluster import NodeSpec
from planner.plan import Plan, Stage
from recovery.decide import RETELL_AFTER_S, Announce, MakePlan, Policy, Tell, decide, unheard
from recovery.state import Activated, ClusterState, Event, Heard, Left, NoPlan, Planned, Told, apply, choose_head
from tests.unit.builders import beat


class Cluster:
    """A controller's state, the nodes that beat to it, and the time; `step` carries out what is decided."""

    def __init__(self, *, expected: int = 1, settle_s: float = 2.0) -> None:
        self.now_s = 100.0
        self.policy = Policy(expected_nodes=expected, settle_s=settle_s)
        self.state = ClusterState(pipeline="digits", started_s=self.now_s)
        self.nodes: dict[str, dict[str, Any]] = {}
        self.starts = 0
        self.told: list[tuple[str, int]] = []
        self.announced: list[int] = []

    def join(self, *names: str, **facts: Any) -> None:
        for name in names:
            self.starts += 1
            self.nodes[name] = {"incarnation": f"{name}-{self.starts}", **facts}
            self.apply(Heard(beat=beat(name, **self.nodes[name]), now_s=self.now_s))

    def report(self, name: str, **facts: Any) -> None:
        """A beat in which something has changed."""
        self.nodes[name] |= {"pipeline": "digits", **facts}
        self.apply(Heard(beat=beat(name, **self.nodes[name]), now_s=self.now_s))

    def die(self, name: str) -> None:
        del self.nodes[name]

    def leave(self, name: str) -> None:
        facts = self.nodes.pop(name)
        self.apply(Left(bye=Bye(node=name, incarnation=facts["incarnation"])))

    def wait(self, seconds: float) -> None:
        """Time passes; the nodes beat every 0.1 s."""
        for _ in range(round(seconds * 10)):
            self.now_s += 0.1
            for name, facts in self.nodes.items():
                self.apply(Heard(beat=beat(name, **facts), now_s=self.now_s))

    def apply(self, event: Event) -> None:
        self.state = apply(self.state, event)

    def decide(self) -> Any:
        return decide(self.state, self.policy, self.now_s)

    def step(self) -> Any:
        """Carry out the next action, as the service does, with one block for each node."""
        action = self.decide()
        match action:
            case MakePlan(nodes=nodes):
                made = plan(node.name for node in nodes)
                self.apply(Planned(plan=made, head=choose_head(self.state, made, self.now_s)))
            case Tell(nodes=names):
                for name in names:
                    self.told.append((name, self.state.epoch))
                    self.apply(Told(node=name, epoch=self.state.epoch, now_s=self.now_s))
            case Announce(epoch=epoch):
                self.announced.append(epoch)
                self.apply(Activated(epoch=epoch))
        return action

    def settle(self) -> None:
        """Act until nothing is left to do, with nodes that load what they are told and serve what is announced."""
        for _ in range(20):
            action = self.step()
            if action is None:
                return
            for name, epoch in self.told:
                if name in self.nodes and epoch == self.state.epoch:
                    self.report(name, assigned_epoch=epoch, ready_epoch=epoch)
            for name in self.state.plan.nodes if self.announced and self.state.plan else ():
                if name in self.nodes:
                    self.report(name, active_epoch=self.announced[-1])
        raise AssertionError(f"it never comes to rest: {action}")

    @property
    def planned(self) -> tuple[str, ...]:
        return self.state.plan.nodes if self.state.plan is not None else ()


def plan(names: Iterable[str]) -> Plan:
    stages = tuple(Stage(first_block=index, end_block=index + 1, node=name) for index, name in enumerate(names))
    return Plan(stages=stages)


@pytest.fixture
def running() -> Cluster:
    """Three nodes that serve epoch 1."""
    cluster = Cluster(expected=3)
    cluster.join("a", "b", "c")
    cluster.settle()
    assert (cluster.planned, cluster.announced) == (("a", "b", "c"), [1])
    return cluster


def test_without_nodes_there_is_nothing_to_do_however_long_it_takes() -> None:
    cluster = Cluster()
    cluster.now_s += 1000
    assert cluster.decide() is None


def test_it_waits_for_the_nodes_that_are_expected_and_plans_when_the_last_is_there() -> None:
    cluster = Cluster(expected=3)
    cluster.join("a", "b")
    assert cluster.decide() is None
    cluster.join("c", memory_bytes=64)
    nodes = (NodeSpec(name="a"), NodeSpec(name="b"), NodeSpec(name="c", memory_bytes=64))
    assert cluster.decide() == MakePlan(nodes=nodes)


def test_it_starts_with_fewer_nodes_when_the_others_do_not_come_in_time() -> None:
    cluster = Cluster(expected=3, settle_s=2.0)
    cluster.join("a", "b")
    cluster.wait(1.9)
    assert cluster.decide() is None
    cluster.wait(0.2)
    assert [node.name for node in cluster.decide().nodes] == ["a", "b"]


def test_it_tells_every_node_of_the_plan_and_announces_when_all_have_loaded() -> None:
    cluster = Cluster(expected=2)
    cluster.join("a", "b")
    cluster.step()
    assert cluster.step() == Tell(nodes=("a", "b"))
    assert cluster.decide() is None
    cluster.report("a", assigned_epoch=1, ready_epoch=1)
    cluster.report("b", assigned_epoch=1)
    assert cluster.decide() is None
    cluster.report("b", ready_epoch=1)
    assert cluster.step() == Announce(epoch=1)
    assert cluster.decide() is None


def test_a_node_that_does_not_acknowledge_is_told_again_and_the_others_are_not() -> None:
    cluster = Cluster(expected=2)
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
    cluster = Cluster()
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
    cluster = Cluster(expected=2)
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
    cluster = Cluster(expected=2)
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
    cluster = Cluster()
    cluster.join("a")
    cluster.step()
    cluster.step()
    cluster.report("a", assigned_epoch=1, failure="no")
    cluster.wait(60)
    assert cluster.decide() is None
    cluster.join("b")
    assert [node.name for node in cluster.decide().nodes] == ["b"]


def test_nodes_of_other_pipelines_are_neither_counted_nor_planned_with() -> None:
    cluster = Cluster(expected=2)
    cluster.join("a")
    cluster.join("x", pipeline="other", assigned_epoch=9, active_epoch=9)
    assert cluster.decide() is None
    cluster.join("b")
    assert [node.name for node in cluster.decide().nodes] == ["a", "b"]
    cluster.settle()
    assert cluster.announced == [1]
    assert not unheard(cluster.state, cluster.now_s)


def test_what_has_no_plan_is_not_tried_again_until_the_nodes_change() -> None:
    cluster = Cluster(expected=2)
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
    cluster = Cluster(expected=2)
    cluster.join("a", "b")
    cluster.step()
    assert isinstance(cluster.decide(), Tell)
    cluster.apply(NoPlan(nodes=frozenset({"a", "b"}), reason="the sub-model cannot be cut"))
    assert cluster.decide() is None


def test_when_the_survivors_have_no_plan_it_waits_for_a_node_and_then_heals(running: Cluster) -> None:
    running.leave("b")
    running.apply(NoPlan(nodes=frozenset({"a", "c"}), reason="too small"))
    running.wait(10)
    assert running.decide() is None
    running.join("d")
    running.settle()
    assert running.planned == ("a", "c", "d")


def test_a_spare_node_that_comes_or_goes_does_not_disturb_what_runs(running: Cluster) -> None:
    running.apply(Planned(plan=plan(["a", "b"]), head="a"))
    running.settle()
    before = running.state.epoch
    running.join("d")
    running.wait(1)
    assert "c" not in running.planned
    running.leave("c")
    running.settle()
    assert running.state.epoch == before


def test_a_new_controller_goes_on_with_higher_epochs_than_the_nodes_have_served(running: Cluster) -> None:
    running.leave("b")
    running.settle()
    successor = Cluster(expected=2)
    for name in ("a", "c"):
        successor.join(name, pipeline="digits", assigned_epoch=2, ready_epoch=2, active_epoch=2)
    successor.settle()
    assert successor.announced == [3]
    assert set(successor.told) == {("a", 3), ("c", 3)}


def test_a_node_with_a_higher_epoch_that_is_heard_late_does_not_go_on_leading() -> None:
    cluster = Cluster(expected=2)
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
    asleep = running.nodes["b"]
    running.die("b")
    running.wait(2.0)
    running.settle()
    assert running.planned == ("a", "c")
    assert not unheard(running.state, running.now_s)
    running.nodes["b"] = asleep
    running.wait(0.1)
    assert unheard(running.state, running.now_s)
    assert running.decide() is None


def test_the_same_state_and_time_lead_to_the_same_decision(running: Cluster) -> None:
    running.leave("a")
    assert running.decide() == running.decide()
