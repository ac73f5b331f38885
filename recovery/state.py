"""Cluster state. It changes only through `apply(state, event)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

from broker.control import Beat, Bye, Route
from planner.plan import Plan
from recovery.contingency import Contingency
from recovery.liveness import PULSE_DETECTOR, DetectorSettings, Pulse, beat, first_beat, gone, is_alive
from recovery.options import Placed

SparesKey = tuple[int, int, frozenset[tuple[str, str]]]
"""What a contingency was prepared for: the active epoch, the number of the spares that were placed last, and those of
them (node, part) that are loaded."""


UpdatePhase = Literal["none", "wanted", "loading"]
"""Of a new model: `wanted`: it is to be planned; `loading`: the newest plan is one of it, and is not active yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node as the controller sees it.

    Attributes:
        pulsing: whether it sends pulses besides its beats; then silence is measured by them.
        joined_s: when it was heard first, or again after it was taken for dead.
        told_epoch, told_at_s: the newest assignment sent to it, and when.
        told_spares, told_spares_at_s: the same of its spares.
    """

    beat: Beat
    pulse: Pulse
    joined_s: float
    pulsing: bool = False
    left: bool = False
    told_epoch: int = 0
    told_at_s: float = 0.0
    told_spares: int = 0
    told_spares_at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """Everything that a decision depends on, except the time.

    Attributes:
        pipeline, controller: the pipeline that this controller serves, and its own id.
        beat_detector, pulse_detector: for nodes that beat only, and for those that send pulses.
        nodes: by name; a node that is gone stays, so that its return is recognised.
        plan, route: the newest plan, and the route that frames will follow when its parts are loaded.
        active: the route that frames follow: the plan's, or a way around a failure. None: not yet.
        active_since_s: when it became so.
        epoch: the newest number in use.
        draining: frames may still be under way on the route before the active one.
        planned_for: the nodes that the newest plan was made for, or that were found not to make it better.
        spares_floor: what nodes have loaded by an older number than this is of the model before.
        spares, spares_epoch, spares_for: what nodes shall have loaded besides; a number that grows each time that is
            chosen anew; and the epoch of the plan that it was chosen for.
        contingency, prepared_for, prepared_at_s: what to do about each failure, what that was computed from, and when.
        no_plan_for: the nodes for which no plan was found (so that it is not tried again), and the reason.
        update, update_failure: how far the roll-out of a new model is, and why a node could not load its part of it.
        broken: incarnations of nodes that could not load what they were given, and why: left out of plans.
        started_s: when the controller began to listen.
    """

    pipeline: str
    controller: str = ""
    beat_detector: DetectorSettings = field(default_factory=DetectorSettings)
    pulse_detector: DetectorSettings = PULSE_DETECTOR
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    plan: Plan | None = None
    route: Route | None = None
    active: Route | None = None
    active_since_s: float = 0.0
    epoch: int = 0
    draining: bool = False
    planned_for: frozenset[str] = frozenset()
    spares: tuple[Placed, ...] = ()
    spares_epoch: int = 0
    spares_for: int = 0
    spares_floor: int = 0
    contingency: Contingency | None = None
    prepared_for: SparesKey | None = None
    prepared_at_s: float = 0.0
    no_plan_for: frozenset[str] = frozenset()
    no_plan_reason: str = ""
    broken: Mapping[str, str] = field(default_factory=dict)
    update: UpdatePhase = "none"
    update_failure: str = ""
    started_s: float = 0.0

    @property
    def active_epoch(self) -> int:
        """The epoch that frames follow; 0: none yet."""
        return 0 if self.active is None else self.active.epoch

    @property
    def healthy(self) -> bool:
        """Whether frames follow the newest plan."""
        return self.route is not None and self.active_epoch == self.route.epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A heartbeat arrived."""

    beat: Beat
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulsed:
    """A pulse arrived."""

    node: str
    incarnation: str
    interval_s: float
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """The broker says that all connections of this process are closed."""

    node: str
    incarnation: str
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A node said goodbye."""

    bye: Bye


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A new plan was made for these nodes; the parts of its route are to be loaded."""

    plan: Plan
    route: Route
    nodes: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPlan:
    """With these nodes there is no plan that is better than the one there is."""

    nodes: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateWanted:
    """A new model shall replace the one that is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateDropped:
    """The new model cannot be served: what served before goes on. `plan` and `route` are that one's."""

    plan: Plan
    route: Route


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPlan:
    """No plan was found for these nodes."""

    nodes: frozenset[str]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A node was sent its assignment of `epoch`, or its spares."""

    node: str
    epoch: int
    now_s: float
    spares: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Activated:
    """Frames follow this route from now on."""

    route: Route
    drain: bool
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """Nothing is under way on an older route any more, and the nodes were told so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparesPlaced:
    """These parts shall be loaded besides the plan of epoch `plan_epoch`."""

    spares: tuple[Placed, ...]
    plan_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueGrew:
    """There are parts to choose spares from that were not there before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """It is decided what to do about each failure."""

    contingency: Contingency | None
    prepared_for: SparesKey
    now_s: float


Event = (
    Heard
    | Pulsed
    | Gone
    | Left
    | Planned
    | KeptPlan
    | NoPlan
    | UpdateWanted
    | UpdateDropped
    | Told
    | Activated
    | Drained
    | SparesPlaced
    | CatalogueGrew
    | Prepared
)


def apply(state: ClusterState, event: Event) -> ClusterState:
    """The state after the event."""
    match event:
        case Heard():
            return _heard(state, event.beat, event.now_s)
        case Pulsed() | Gone():
            return _sensed(state, event)
        case Left(bye=bye):
            view = state.nodes.get(bye.node)
            if view is None or view.beat.incarnation != bye.incarnation:
                return state
            return _with_node(state, replace(view, left=True))
        case Planned(plan=plan, route=route, nodes=nodes):
            return replace(
                state,
                plan=plan,
                route=route,
                epoch=max(state.epoch, route.epoch),
                planned_for=nodes,
                update="none" if state.update == "none" else "loading",
                update_failure="",
                no_plan_for=frozenset(),
                no_plan_reason="",
            )
        case KeptPlan(nodes=nodes):
            return replace(state, planned_for=nodes, spares_for=0)  # a node more may hold spares
        case UpdateWanted():
            return replace(state, update="wanted", update_failure="")
        case UpdateDropped(plan=plan, route=route):
            return replace(state, plan=plan, route=route, update="none", update_failure="")
        case NoPlan(nodes=nodes, reason=reason):
            return replace(state, no_plan_for=nodes, no_plan_reason=reason)
        case Told(node=node, epoch=epoch, now_s=now_s, spares=spares):
            view = state.nodes[node]
            if spares:
                return _with_node(state, replace(view, told_spares=epoch, told_spares_at_s=now_s))
            return _with_node(state, replace(view, told_epoch=epoch, told_at_s=now_s))
        case Activated(route=route, drain=drain, now_s=now_s):
            state = replace(
                state, active=route, epoch=max(state.epoch, route.epoch), draining=drain, active_since_s=now_s
            )
            # A plan's route has other parts than the one before; a bridge goes over what the contingency knows.
            if not state.healthy:
                return state
            if state.update != "none":  # what stands by is of the model before
                state = replace(state, spares=(), spares_floor=state.spares_epoch + 1, update="none")
            return replace(state, contingency=None, prepared_for=None)
        case Drained():
            return replace(state, draining=False)
        case SparesPlaced(spares=placed, plan_epoch=plan_epoch):
            told_before = (view.beat.spares_epoch for view in state.nodes.values())
            number = max((state.spares_epoch, *told_before)) + 1
            return replace(state, spares=placed, spares_epoch=number, spares_for=plan_epoch)
        case CatalogueGrew():
            return replace(state, spares_for=0)
        case Prepared(contingency=contingency, prepared_for=key, now_s=now_s):
            if key[0] != state.active_epoch:
                return state  # computed for a route that is over
            return replace(state, contingency=contingency, prepared_for=key, prepared_at_s=now_s)
        case _:
            assert_never(event)


def is_heard(state: ClusterState, view: NodeView, now_s: float) -> bool:
    """Whether a node is alive as far as can be heard."""
    return not view.left and is_alive(view.pulse, now_s, _detector(state, pulsing=view.pulsing))


def _detector(state: ClusterState, *, pulsing: bool) -> DetectorSettings:
    return state.pulse_detector if pulsing else state.beat_detector


def _heard(state: ClusterState, news: Beat, now_s: float) -> ClusterState:
    view = state.nodes.get(news.node)
    if view is None or view.beat.incarnation != news.incarnation or view.left:
        fresh = NodeView(beat=news, pulse=first_beat(now_s, news.interval_s), joined_s=now_s)
        return _with_node(state, fresh)
    of_plan = state.route is not None and news.assigned_epoch == state.route.epoch
    if news.failure and of_plan and news.pipeline == state.pipeline:
        if state.update == "loading":
            return _with_node(replace(state, update_failure=f"{news.node}: {news.failure}"), replace(view, beat=news))
        state = replace(state, broken={**state.broken, news.incarnation: f"{news.node}: {news.failure}"})
    # Where there are pulses the rhythm is theirs: a beat is one more sign of life.
    interval_s = view.pulse.interval_s if view.pulsing else news.interval_s
    pulse = beat(view.pulse, now_s, interval_s, _detector(state, pulsing=view.pulsing))
    return _with_node(state, replace(_returned(state, view, now_s), beat=news, pulse=pulse))


def _sensed(state: ClusterState, event: Pulsed | Gone) -> ClusterState:
    view = state.nodes.get(event.node)
    if view is None or view.left or view.beat.incarnation != event.incarnation:
        return state
    if isinstance(event, Gone):
        return _with_node(state, replace(view, pulse=gone(view.pulse, event.now_s)))
    pulse = beat(view.pulse, event.now_s, event.interval_s, _detector(state, pulsing=True))
    return _with_node(state, replace(_returned(state, view, event.now_s), pulse=pulse, pulsing=True))


def _returned(state: ClusterState, view: NodeView, now_s: float) -> NodeView:
    """A node that was taken for dead has to settle like a new one."""
    return view if is_heard(state, view, now_s) else replace(view, joined_s=now_s)


def _with_node(state: ClusterState, view: NodeView) -> ClusterState:
    return replace(state, nodes={**state.nodes, view.beat.node: view})
