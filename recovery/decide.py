"""What to do next: a pure function of the cluster state and the time."""

from __future__ import annotations

from dataclasses import dataclass

from planner.cluster import NodeSpec
from recovery.state import ClusterState, alive, members, usable

RETELL_AFTER_S = 1.0
"""An assignment that a node does not acknowledge in its heartbeat is sent again after this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How many nodes to wait for at the start, and for how long before beginning with those that are there."""

    expected_nodes: int = 1
    settle_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MakePlan:
    """Solve for these nodes."""

    nodes: tuple[NodeSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Send these nodes their assignments of the newest epoch."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Announce that the epoch is active: every node has loaded it, or some have not heard it yet."""

    epoch: int


Action = MakePlan | Tell | Announce


def decide(state: ClusterState, policy: Policy, now_s: float) -> Action | None:
    """The next action, or None while there is nothing to do but wait."""
    if state.no_plan_for and state.no_plan_for == {view.beat.node for view in usable(state, now_s)}:
        return None  # nothing has changed since no plan was found, or its sub-models could not be made
    if _needs_plan(state, policy, now_s):
        nodes = tuple(
            NodeSpec(name=view.beat.node, memory_bytes=view.beat.memory_bytes or None) for view in usable(state, now_s)
        )
        return MakePlan(nodes=nodes)
    if state.plan is None:
        return None
    views = [state.nodes[name] for name in members(state)]
    untold = tuple(
        view.beat.node
        for view in views
        if view.beat.assigned_epoch < state.epoch
        and (view.told_epoch < state.epoch or now_s - view.told_at_s > RETELL_AFTER_S)
    )
    if untold:
        return Tell(nodes=untold)
    ready = all(view.beat.ready_epoch >= state.epoch for view in views)
    if ready and state.active_epoch < state.epoch:
        return Announce(epoch=state.epoch)
    return None


def unheard(state: ClusterState, now_s: float) -> bool:
    """Whether a node of ours serves an older epoch than the active one: it missed the announcement."""
    return any(
        (view.beat.pipeline == state.pipeline and 0 < view.beat.active_epoch < state.active_epoch)
        or (view.beat.ready_epoch == state.active_epoch != view.beat.active_epoch)
        for view in alive(state, now_s)
    )


def _needs_plan(state: ClusterState, policy: Policy, now_s: float) -> bool:
    names = {view.beat.node for view in usable(state, now_s)}
    if not names or names == state.no_plan_for:
        return False
    if state.plan is None:
        waited = now_s - state.started_s >= policy.settle_s
        return len(names) >= policy.expected_nodes or waited
    if any(view.beat.assigned_epoch > state.epoch and view.beat.pipeline for view in usable(state, now_s)):
        return True  # it served an earlier controller and was heard late: only a newer epoch ends its own
    # A node of the plan is gone, cannot load its stage, or started anew and has forgotten the epoch it served.
    return any(node not in names or _restarted(state, node) for node in members(state))


def _restarted(state: ClusterState, node: str) -> bool:
    view = state.nodes[node]
    return view.told_epoch == 0 and state.active_epoch == state.epoch
