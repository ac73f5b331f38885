"""Questions to the cluster's state that nothing else asks for."""

from __future__ import annotations

from planner.plan import Plan, Stage
from recovery.queries import choose_head, head_so_far, is_appointed
from recovery.state import Activated, ClusterState, Heard, apply
from tests.unit.builders import beat, route

NEW = ClusterState(pipeline="digits", controller="c", started_s=0.0)


def heard(state: ClusterState, node: str, epoch: int, *, is_head: bool, pipeline: str = "digits") -> ClusterState:
    news = beat(node, pipeline=pipeline, active_epoch=epoch, is_head=is_head)
    return apply(state, Heard(beat=news, now_s=0.0))


def test_a_new_controller_takes_the_head_of_the_newest_epoch_for_the_head() -> None:
    state = heard(NEW, "paused", 4, is_head=True)
    assert is_appointed(state, "paused")
    state = heard(state, "other", 5, is_head=True)
    state = heard(state, "elsewhere", 9, is_head=True, pipeline="another")
    assert is_appointed(state, "other")
    assert not is_appointed(state, "paused")
    assert not is_appointed(state, "unheard")


def test_a_new_controller_keeps_the_head_of_the_newest_epoch() -> None:
    plan = Plan(stages=(Stage(first_block=0, end_block=1, node="a"),), bottleneck_s=1.0)
    state = heard(heard(NEW, "a", 4, is_head=True), "b", 5, is_head=True)
    assert choose_head(state, plan, 0.0) == "b"


def test_the_head_so_far_of_a_new_controller_is_the_one_that_the_controller_before_made() -> None:
    assert head_so_far(NEW) == ""
    state = heard(NEW, "a", 5, is_head=False)
    assert head_so_far(state) == ""
    state = heard(heard(state, "paused", 4, is_head=True), "b", 5, is_head=True)
    assert head_so_far(heard(state, "elsewhere", 9, is_head=True, pipeline="another")) == "b"
    way = route(6, ("a", "stage:0-1"))
    assert head_so_far(apply(state, Activated(route=way, drain=False, now_s=0.0))) == way.head
