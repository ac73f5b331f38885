"""A route is over only when the head that follows has taken over from the one before."""

from __future__ import annotations

from recovery.decide import Announce, Policy, Retire
from tests.unit.cluster import Cluster


def test_a_head_that_holds_nothing_is_kept_until_the_next_one_leads() -> None:
    """Otherwise it steps down before it is asked to hand over, and what it takes in between is lost."""
    running = Cluster(policy=Policy(expected_nodes=3, spare_memory_bytes=0))
    running.join("a", "b", "c")
    running.settle()
    assert running.active.head == "a"
    running.report("a", leaving=True)
    running.obedient = False
    for _ in range(2):
        running.step()
    for name in ("b", "c"):
        running.report(name, assigned_epoch=2, ready_epoch=2)
    assert running.step() == Announce(epoch=2, drain=True)
    assert running.active.head == "b"
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
