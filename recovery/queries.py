"""What the cluster state says: who is alive, who is lost, who shall do what."""

from __future__ import annotations

from collections.abc import Sequence

from planner.cluster import NodeSpec
from planner.plan import Plan
from recovery.options import Placed
from recovery.state import ClusterState, NodeView, SparesKey, is_heard


def alive(state: ClusterState, now_s: float) -> tuple[NodeView, ...]:
    """The nodes that are alive and work for this pipeline or for none, in order of their names."""
    return tuple(
        view
        for _, view in sorted(state.nodes.items())
        if is_heard(state, view, now_s) and view.beat.pipeline in ("", state.pipeline)
    )


def usable(state: ClusterState, now_s: float) -> tuple[NodeView, ...]:
    """The alive nodes that can be planned with: they have not failed to load a part since they started, and do not want
    to leave."""
    return tuple(
        view for view in alive(state, now_s) if view.beat.incarnation not in state.broken and not view.beat.leaving
    )


def specs(views: tuple[NodeView, ...]) -> tuple[NodeSpec, ...]:
    """Nodes as the planner sees them."""
    return tuple(NodeSpec(name=view.beat.node, memory_bytes=view.beat.memory_bytes or None) for view in views)


def next_epoch(state: ClusterState) -> int:
    """Nodes may have served an earlier controller of this pipeline: epochs go on from theirs."""
    served = (view.beat.assigned_epoch for view in state.nodes.values() if view.beat.pipeline == state.pipeline)
    return max((state.epoch, *served)) + 1


def members(state: ClusterState) -> tuple[str, ...]:
    """The nodes that the newest plan's route needs."""
    return () if state.route is None else tuple(sorted(state.route.nodes))


def told(state: ClusterState, now_s: float) -> tuple[NodeView, ...]:
    """The nodes that must know the newest plan's route: its members, and the standby head's node while it is alive."""
    if state.route is None:
        return ()
    names = set(members(state))
    standby = state.nodes.get(state.route.standby_head)
    if standby is not None and is_heard(state, standby, now_s):
        names.add(standby.beat.node)
    return tuple(state.nodes[name] for name in sorted(names))


def loaded_spares(state: ClusterState, now_s: float) -> tuple[Placed, ...]:
    """Those of the spares that nodes say they have, on nodes that are alive. A node that has not been told of the
    newest ones yet will keep those of them that it has."""
    there = {
        view.beat.node: view.beat.spares for view in alive(state, now_s) if view.beat.spares_epoch >= state.spares_floor
    }
    return tuple(spot for spot in state.spares if spot.part.name in there.get(spot.node, ()))


def spares_key(state: ClusterState, now_s: float) -> SparesKey:
    """What is loaded now, for which what to do about each failure is to be computed."""
    loaded = frozenset((spot.node, spot.part.name) for spot in loaded_spares(state, now_s))
    return state.active_epoch, state.spares_epoch, loaded


def has_all_spares(state: ClusterState, key: SparesKey) -> bool:
    """Whether spares are chosen for the newest plan, and all of them are among what is loaded."""
    return state.route is not None and state.spares_for >= state.route.epoch and len(key[2]) == len(state.spares)


def is_prepared(state: ClusterState, now_s: float) -> bool:
    """Whether the next failure is decided, with every spare loaded that shall be."""
    key = spares_key(state, now_s)
    return state.healthy and has_all_spares(state, key) and state.prepared_for == key


def lost(state: ClusterState, now_s: float) -> frozenset[str]:
    """The nodes that the active route needs and that are not alive."""
    if state.active is None:
        return frozenset()
    living = {view.beat.node for view in alive(state, now_s)}
    return state.active.nodes - living


def choose_head(state: ClusterState, plan: Plan, now_s: float) -> str:
    """The node that hosts the head: the one that does so now, since it holds the frames in flight; where that is gone,
    or wants to leave, the standby head's, which knows them too; else the first stage's, so that a frame's first hop
    needs no broker."""
    views = {view.beat.node: view for view in usable(state, now_s)}
    if state.active is not None:
        candidates = [state.active.head, state.active.standby_head]
    else:  # another controller may have served before this one
        heads = [view.beat for view in views.values() if view.beat.is_head]
        # One that was paused does not know yet that it was replaced.
        candidates = [beat.node for beat in sorted(heads, key=lambda beat: -beat.active_epoch)]
    return next((name for name in candidates if name in views), plan.stages[0].node)


def serves_already(state: ClusterState, now_s: float) -> bool:
    """Whether another controller served before this one, and its route still does."""
    return state.active is None and any(view.beat.is_head and view.beat.active_epoch for view in alive(state, now_s))


def choose_standby_head(state: ClusterState, nodes: Sequence[str], head: str, now_s: float) -> str:
    """A node to take over from the head: the one that stands by already, else the first other of these; empty: none."""
    standby = "" if state.active is None else state.active.standby_head
    if standby != head and any(view.beat.node == standby for view in usable(state, now_s)):
        return standby
    return next((node for node in nodes if node != head), "")


def leaders(state: ClusterState, now_s: float) -> list[str]:
    """The living nodes of the pipeline that say that they lead."""
    beats = [view.beat for view in alive(state, now_s)]
    return [beat.node for beat in beats if beat.is_head and beat.pipeline == state.pipeline]


def head_so_far(state: ClusterState) -> str:
    """The node that was made the head last: by this controller, or where that has activated nothing yet by the one
    before it, as far as nodes say. It need not be alive. Empty: none was."""
    if state.active is not None:
        return state.active.head
    heads = [view.beat for view in state.nodes.values() if view.beat.is_head and view.beat.pipeline == state.pipeline]
    return max(heads, key=lambda beat: (beat.active_epoch, beat.node)).node if heads else ""


def is_appointed(state: ClusterState, node: str) -> bool:
    """Whether a node is the head. A controller that has activated nothing yet knows from the nodes alone what the one
    before it did: a head of a newer epoch was made since."""
    if state.active is not None:
        return state.active.head == node
    beats = [view.beat for view in state.nodes.values() if view.beat.pipeline == state.pipeline]
    newest = max((beat.active_epoch for beat in beats if beat.is_head), default=0)
    return any(beat.node == node and beat.active_epoch >= newest for beat in beats)
