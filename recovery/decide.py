"""What to do next: a pure function of the cluster state and the time."""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.cluster import NodeSpec
from recovery.objectives import Choice, Objectives
from recovery.queries import (
    alive,
    has_all_spares,
    leaders,
    lost,
    members,
    serves_already,
    spares_key,
    specs,
    told,
    usable,
)
from recovery.state import ClusterState, NodeView, SparesKey, is_heard

FIRST_ANSWER_S = 0.15
"""So long a way around a failure is left alone, unless it has answered."""

PREPARE_EVERY_S = 0.5
"""While spares are being loaded, what to do about failures is computed again so often."""

HAND_OVER_S = 2.0
"""A head that still says that it leads so long after another was made the head will not be asked to hand over."""

RETELL_AFTER_S = 1.0
"""What a node does not acknowledge in its heartbeat is sent again after this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the user wants of the recovery.

    Attributes:
        expected_nodes, settle_s: how many nodes to wait for at the start, and for how long before beginning with those
            that are there.
        join_settle_s: so long a node must have been there before a plan is made for its sake.
        objectives: decide between ways around a failure.
        spare_memory_bytes: most that a node may spend on spares; None: what its stages leave; 0: no spares.
        heal_after_s: so long a way around a failure is kept before a plan is made.
        standby_head: whether a second node hears every frame, to take over from the head.
    """

    expected_nodes: int = 1
    settle_s: float = 2.0
    join_settle_s: float = 1.0
    objectives: Objectives = field(default_factory=Objectives)
    spare_memory_bytes: int | None = None
    standby_head: bool = True
    heal_after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """Go around these lost nodes at once, over parts that are loaded."""

    lost: frozenset[str]
    choice: Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class MakePlan:
    """Solve for these nodes. `improve`: there is a plan that serves; take the new one only if it is better."""

    nodes: tuple[NodeSpec, ...]
    improve: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """A node cannot load its part of the new model: go on with the one that serves."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Send these nodes their assignments of the newest plan."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Announce that the newest plan's route is active: every node has loaded it. `drain`: the route before still works,
    and frames that are under way finish on it."""

    epoch: int
    drain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire:
    """Nothing is under way on an older route any more: let the nodes forget those."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceSpares:
    """Choose what to load besides the newest plan."""

    nodes: tuple[NodeSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TellSpares:
    """Send these nodes what they shall have loaded besides."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Compute what to do about each failure, with what is loaded now."""

    prepared_for: SparesKey


Action = Bridge | MakePlan | RollBack | Tell | Announce | Retire | PlaceSpares | TellSpares | Prepare


def decide(state: ClusterState, policy: Policy, now_s: float) -> Action | None:
    """The next action, or None while there is nothing to do but wait. Answering comes first: a way around a failure,
    then the plan that heals it, then all that makes ready for the next failure."""
    return (
        bridge(state, now_s)
        or _roll_back(state)
        or _plan(state, policy, now_s)
        or _roll_out(state, now_s)
        or _get_ready(state, now_s)
    )


def unheard(state: ClusterState, now_s: float) -> bool:
    """Whether a node of ours serves an older epoch than the active one: it missed the announcement."""
    return any(
        (view.beat.pipeline == state.pipeline and 0 < view.beat.active_epoch < state.active_epoch)
        or (view.beat.ready_epoch == state.active_epoch != view.beat.active_epoch)
        for view in alive(state, now_s)
    )


def bridge(state: ClusterState, now_s: float) -> Bridge | None:
    """The way around the nodes of the active route that are lost; None: none is, or there is no way but a new plan."""
    gone = lost(state, now_s)
    choice = best_way(state, now_s) if gone else None
    if choice is None or choice.option.technique == "repartition":
        return None  # frames wait in the head for the new plan
    return Bridge(lost=gone, choice=choice)


def best_way(state: ClusterState, now_s: float) -> Choice | None:
    """What the contingency says of the nodes that are lost; None: nothing, or nothing can be done."""
    if state.contingency is None:
        return None
    views = [state.nodes[spec.name] for spec in state.contingency.setup.nodes]
    # One that came (back) after that has nothing loaded of what its contingency counts on, or may not have.
    dead = frozenset(
        view.beat.node for view in views if not is_heard(state, view, now_s) or view.joined_s >= state.prepared_at_s
    )
    return state.contingency.answer(dead)


def _roll_back(state: ClusterState) -> RollBack | None:
    if state.update == "loading" and state.update_failure:
        return RollBack(reason=state.update_failure)
    return None


def _plan(state: ClusterState, policy: Policy, now_s: float) -> MakePlan | None:
    views = usable(state, now_s)
    names = frozenset(view.beat.node for view in views)
    if not names or names == state.no_plan_for:
        return None  # nothing has changed since no plan was found, or its sub-models could not be made
    if state.route is None:
        waited = now_s - state.started_s >= policy.settle_s
        return MakePlan(nodes=specs(views)) if len(names) >= policy.expected_nodes or waited else None
    if _is_void(state, views):
        return None if _heal_waits(state, policy, now_s) else MakePlan(nodes=specs(views))
    if state.update == "wanted" and state.healthy and not state.draining:
        return MakePlan(nodes=specs(views))
    settled = all(now_s - view.joined_s >= policy.join_settle_s for view in views)
    if state.healthy and not state.draining and settled and not names <= state.planned_for:
        return MakePlan(nodes=specs(views), improve=True)
    return None


def _heal_waits(state: ClusterState, policy: Policy, now_s: float) -> bool:
    """Whether a way around a failure is left alone: for as long as the user wants it kept, and at first while it has
    not answered, since the new plan must not take the processor from it."""
    if state.active is None or state.healthy or lost(state, now_s):
        return False
    bridged_s = now_s - state.active_since_s
    head = state.nodes[state.active.head].beat
    # One that is just taking over has not counted yet what it will send.
    busy = head.in_flight > 0 or head.active_epoch < state.active_epoch or not head.is_head
    begins = busy and head.answered_epoch < state.active_epoch and bridged_s <= FIRST_ANSWER_S
    return begins or bridged_s < policy.heal_after_s


def _is_void(state: ClusterState, views: tuple[NodeView, ...]) -> bool:
    """Whether the newest plan cannot be (or stay) the one that serves."""
    assert state.route is not None  # noqa: S101 - _plan checked
    if state.route.epoch < state.active_epoch:
        return True  # a failure was bridged after it was made
    if any(view.beat.pipeline and _is_others(state, view) for view in views):
        return True  # it serves another controller and was heard late: only a newer epoch ends that
    # A node of the plan is gone, cannot load its part, or started anew and has forgotten the epoch it served.
    names = {view.beat.node for view in views}
    return any(node not in names or _restarted(state, node) for node in members(state))


def _is_others(state: ClusterState, view: NodeView) -> bool:
    epoch = view.beat.assigned_epoch
    return epoch > state.epoch or (epoch == state.epoch > 0 and view.beat.controller not in ("", state.controller))


def _restarted(state: ClusterState, node: str) -> bool:
    return state.nodes[node].told_epoch == 0 and state.healthy


def _roll_out(state: ClusterState, now_s: float) -> Tell | Announce | Retire | None:
    if state.route is None:
        return None
    epoch = state.route.epoch
    views = told(state, now_s)
    untold = tuple(
        view.beat.node
        for view in views
        if view.beat.assigned_epoch < epoch and (view.told_epoch < epoch or now_s - view.told_at_s > RETELL_AFTER_S)
    )
    if untold:
        return Tell(nodes=untold)
    if state.active_epoch < epoch and all(view.beat.ready_epoch >= epoch for view in views):
        drain = serves_already(state, now_s) if state.active is None else not lost(state, now_s)
        return Announce(epoch=epoch, drain=drain)
    if state.draining and _is_drained(state, now_s):
        return Retire(epoch=state.active_epoch)
    return None


def _is_drained(state: ClusterState, now_s: float) -> bool:
    """Whether the head leads, and all heads, the one before included, have switched and hold nothing that is older."""
    assert state.active is not None  # noqa: S101 - what is drained was active
    head = state.nodes[state.active.head].beat
    if not head.is_head or head.active_epoch < state.active_epoch:
        return False  # the one before must stay until it was asked what it will finish
    if now_s - state.active_since_s < HAND_OVER_S and len(leaders(state, now_s)) > 1:
        return False  # until it was asked it takes frames, and sends them the old way: it has not said yet which
    return all(
        view.beat.active_epoch >= state.active_epoch and not 0 < view.beat.oldest_epoch < state.active_epoch
        for view in alive(state, now_s)
        if view.beat.is_head or view.beat.oldest_epoch
    )


def _get_ready(state: ClusterState, now_s: float) -> PlaceSpares | TellSpares | Prepare | None:
    if state.route is None or not state.healthy or lost(state, now_s):
        return None
    key = spares_key(state, now_s)
    if state.prepared_for is None or state.prepared_for[:2] != key[:2]:
        # At once, with what is there, since the next failure may be near; and before nodes are told to unload what the
        # contingency so far counts on.
        return Prepare(prepared_for=key)
    if state.draining:
        return None
    if state.spares_for < state.route.epoch:
        return PlaceSpares(nodes=specs(usable(state, now_s)))
    hosts = {spot.node for spot in state.spares}
    untold = tuple(
        view.beat.node
        for view in alive(state, now_s)
        if view.beat.spares_epoch < state.spares_epoch
        and (view.beat.node in hosts or view.beat.spares)
        and (view.told_spares < state.spares_epoch or now_s - view.told_spares_at_s > RETELL_AFTER_S)
    )
    if untold:
        return TellSpares(nodes=untold)
    due = has_all_spares(state, key) or now_s - state.prepared_at_s > PREPARE_EVERY_S
    return Prepare(prepared_for=key) if due and key != state.prepared_for else None
