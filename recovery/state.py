"""Cluster state. It changes only through `apply(state, event)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from broker.control import Beat, Bye
from planner.plan import Plan
from recovery.liveness import DetectorSettings, Pulse, beat, first_beat, is_alive


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node as the controller sees it. `told_epoch` and `told_at_s`: the newest assignment sent to it, and when."""

    beat: Beat
    pulse: Pulse
    left: bool = False
    told_epoch: int = 0
    told_at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """Everything that a decision depends on, except the time.

    Attributes:
        pipeline: the pipeline that this controller serves.
        nodes: by name; a node that is gone stays, so that its return is recognised.
        plan, head, epoch: the newest plan, the node that hosts the head, and their epoch (0: none yet).
        active_epoch: the epoch that frames follow (0: none yet).
        no_plan_for: the nodes for which no plan was found (so that it is not tried again), and the reason.
        started_s: when the controller began to listen.
    """

    pipeline: str
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    plan: Plan | None = None
    head: str = ""
    epoch: int = 0
    active_epoch: int = 0
    no_plan_for: frozenset[str] = frozenset()
    no_plan_reason: str = ""
    broken: Mapping[str, str] = field(default_factory=dict)
    """Nodes (name and incarnation) that could not load what they were given, and why: left out of plans."""
    started_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A heartbeat arrived."""

    beat: Beat
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A node said goodbye."""

    bye: Bye


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A new plan was made; its stages are to be loaded."""

    plan: Plan
    head: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPlan:
    """No plan fits these nodes."""

    nodes: frozenset[str]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An assignment was sent to a node."""

    node: str
    epoch: int
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Activated:
    """The route of an epoch was announced."""

    epoch: int


Event = Heard | Left | Planned | NoPlan | Told | Activated


def apply(state: ClusterState, event: Event) -> ClusterState:
    """The state after the event."""
    match event:
        case Heard():
            return _heard(state, event.beat, event.now_s)
        case Left(bye=bye):
            view = state.nodes.get(bye.node)
            if view is None or view.beat.incarnation != bye.incarnation:
                return state
            return _with_node(state, replace(view, left=True))
        case Planned(plan=plan, head=head):
            epoch = _next_epoch(state)
            return replace(state, plan=plan, head=head, epoch=epoch, no_plan_for=frozenset(), no_plan_reason="")
        case NoPlan(nodes=nodes, reason=reason):
            return replace(state, no_plan_for=nodes, no_plan_reason=reason)
        case Told(node=node, epoch=epoch, now_s=now_s):
            return _with_node(state, replace(state.nodes[node], told_epoch=epoch, told_at_s=now_s))
        case Activated(epoch=epoch):
            return replace(state, active_epoch=epoch)
        case _:
            assert_never(event)


def alive(state: ClusterState, now_s: float) -> tuple[NodeView, ...]:
    """The nodes that are alive and work for this pipeline or for none, in order of their names."""
    return tuple(
        view
        for _, view in sorted(state.nodes.items())
        if not view.left and is_alive(view.pulse, now_s, state.detector) and view.beat.pipeline in ("", state.pipeline)
    )


def usable(state: ClusterState, now_s: float) -> tuple[NodeView, ...]:
    """The alive nodes that have not failed to load a stage since they started."""
    return tuple(view for view in alive(state, now_s) if view.beat.incarnation not in state.broken)


def _next_epoch(state: ClusterState) -> int:
    # Nodes may have served an earlier controller of this pipeline: epochs go on from theirs.
    served = (view.beat.assigned_epoch for view in state.nodes.values() if view.beat.pipeline == state.pipeline)
    return max((state.epoch, *served)) + 1


def members(state: ClusterState) -> tuple[str, ...]:
    """The nodes of the newest plan: those of its stages, and the head's."""
    return () if state.plan is None else tuple(sorted({*state.plan.nodes, state.head}))


def choose_head(state: ClusterState, plan: Plan, now_s: float) -> str:
    """The node that hosts the head: the one that does so now, while it is alive, since it holds the frames in flight;
    else the first stage's, so that a frame's first hop needs no broker."""
    if any(view.beat.node == state.head for view in usable(state, now_s)):
        return state.head
    return plan.stages[0].node


def _heard(state: ClusterState, news: Beat, now_s: float) -> ClusterState:
    view = state.nodes.get(news.node)
    if view is None or view.beat.incarnation != news.incarnation or view.left:
        return _with_node(state, NodeView(beat=news, pulse=first_beat(now_s, news.interval_s)))
    if news.failure and news.assigned_epoch == state.epoch and news.pipeline == state.pipeline:
        state = replace(state, broken={**state.broken, news.incarnation: f"{news.node}: {news.failure}"})
    # After a silence that made it suspect, a node's rhythm is learnt anew: the silence is not its normal gap.
    if is_alive(view.pulse, now_s, state.detector):
        pulse = beat(view.pulse, now_s, news.interval_s, state.detector)
    else:
        pulse = first_beat(now_s, news.interval_s)
    return _with_node(state, replace(view, beat=news, pulse=pulse))


def _with_node(state: ClusterState, view: NodeView) -> ClusterState:
    return replace(state, nodes={**state.nodes, view.beat.node: view})
