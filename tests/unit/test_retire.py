"""A route is over only when the head that follows has taken over from the one before."""

from __future__ import annotations

import pytest

from recovery.decide import HAND_OVER_S, Announce, Policy, Retire
from tests.unit.cluster import Cluster


@pytest.fixture
def running() -> Cluster:
    """Nodes a, b and c: a leads, wants to leave, and epoch 2, on which b shall lead, is announced."""
    cluster = Cluster(policy=Policy(expected_nodes=3, spare_memory_bytes=0))
    cluster.join("a", "b", "c")
    cluster.settle()
    assert cluster.active.head == "a"
    cluster.report("a", leaving=True)
    cluster.obedient = False
    for _ in range(2):
        cluster.step()
    for name in ("b", "c"):
        cluster.report(name, assigned_epoch=2, ready_epoch=2)
    assert cluster.step() == Announce(epoch=2, drain=True)
    assert cluster.active.head == "b"
    return cluster


def test_a_head_that_holds_nothing_is_kept_until_the_next_one_leads(running: Cluster) -> None:
    """Otherwise it steps down before it is asked to hand over, and what it takes in between is lost."""
    # The one before is the first to hear of it, and is idle at the moment.
    running.report("a", active_epoch=2, oldest_epoch=0)
    running.report("c", active_epoch=2)
    assert not isinstance(running.decide(), Retire)
    # The next one has heard, and asks for what is held; it does not lead yet.
    running.report("b", active_epoch=2)
    assert not isinstance(running.decide(), Retire)
    running.report("b", is_head=True)
    assert not isinstance(running.decide(), Retire)
    # The one before has handed over: what it says now of frames that it holds is its last word.
    running.report("a", is_head=False)
    assert running.decide() == Retire(epoch=2)


def test_a_head_that_has_not_said_yet_that_it_has_handed_over_may_still_send_frames_the_old_way(
    running: Cluster,
) -> None:
    running.report("c", active_epoch=2)
    running.report("a", active_epoch=2)  # idle at this moment, and leads until it is asked
    running.report("b", active_epoch=2, is_head=True)
    assert not isinstance(running.decide(), Retire)
    running.report("a", is_head=False, oldest_epoch=1, in_flight=16)
    assert not isinstance(running.decide(), Retire)
    running.report("a", oldest_epoch=0, in_flight=0)
    assert running.decide() == Retire(epoch=2)


def test_a_head_that_nobody_asks_to_hand_over_is_not_waited_for_for_ever(running: Cluster) -> None:
    for name in ("a", "b", "c"):
        running.report(name, active_epoch=2, is_head=name in ("a", "b"))
    running.run(2 * HAND_OVER_S)
    assert Retire(epoch=2) in running.actions
