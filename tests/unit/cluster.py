"""A controller's decisions and the nodes that they reach, without a broker and with a clock that the test turns.

`Cluster.step` does what `recovery.service` does with an action; a `SimulatedNode` does what `stages.node` does with a
message: which parts it has loaded, which epoch it serves, what it says in its heartbeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from broker.control import Bye, PartRef, Route
from planner.cluster import NodeSpec
from planner.part import Part
from planner.plan import Plan, Stage
from recovery.contingency import Setup, prepare
from recovery.decide import (
    Announce,
    Bridge,
    MakePlan,
    PlaceSpares,
    Policy,
    Prepare,
    Retire,
    Tell,
    TellSpares,
    decide,
    unheard,
)
from recovery.options import stages_of
from recovery.queries import choose_head, choose_standby_head, loaded_spares, next_epoch, specs, usable
from recovery.routes import bridge_route, plan_route
from recovery.service import BETTER
from recovery.spares import place_spares
from recovery.state import (
    Activated,
    ClusterState,
    Drained,
    Event,
    Gone,
    Heard,
    KeptPlan,
    Left,
    Planned,
    Prepared,
    Pulsed,
    SparesPlaced,
    Told,
    apply,
)
from tests.unit.builders import BLOB, beat, part_ref
from tests.unit.recovery_cases import CHAIN, ESTIMATES, standbys

BEAT_S = 0.1
PULSE_S = 0.02


class EveryModel(dict[str, Any]):
    """Part name to blob: all parts have been made."""

    def __missing__(self, name: str) -> Any:
        return BLOB


MODELS = EveryModel()


def share_out(nodes: Sequence[NodeSpec]) -> Plan:
    """The six blocks in equal shares; as fast as its largest stage."""
    names = [node.name for node in nodes][: CHAIN.blocks]
    cuts = [CHAIN.blocks * i // len(names) for i in range(len(names) + 1)]
    stages = tuple(Stage(first_block=cuts[i], end_block=cuts[i + 1], node=name) for i, name in enumerate(names))
    largest = max(stage.end_block - stage.first_block for stage in stages)
    return Plan(stages=stages, bottleneck_s=largest / 100)


def engine_of(part: PartRef) -> str:
    """A standby in full precision is the stage's own model."""
    return part.part.replace("standby:", "stage:") if part.part.count(":") == 1 else part.part


@dataclass(slots=True)
class SimulatedNode:
    """What a node has loaded, and what it says. `slow`: it loads no stages until the test says so; `muted`: nothing of
    it is heard, and it hears nothing."""

    name: str
    facts: dict[str, Any]
    slow: bool = False
    muted: bool = False
    engines: set[str] = field(default_factory=set)
    deployments: dict[int, Route] = field(default_factory=dict)
    assigned: Route | None = None
    plan: Route | None = None
    wanted: tuple[PartRef, ...] = ()

    def assign(self, route: Route) -> None:
        if route.epoch <= self.facts.get("assigned_epoch", 0):
            return
        self.assigned = route
        self.facts |= {"pipeline": "digits", "assigned_epoch": route.epoch, "controller": "c1"}
        if not self.slow:
            self.load()

    def load(self) -> None:
        assert self.assigned is not None
        self.engines |= {engine_of(part) for part in self.assigned.parts_on(self.name)}
        self._deploy(self.assigned)

    def keep(self, parts: tuple[PartRef, ...], epoch: int) -> None:
        self.wanted = parts
        self._forget()
        self.engines |= {engine_of(part) for part in parts}
        spares = tuple(sorted(part.part for part in parts))
        self.facts |= {"pipeline": "digits", "spares": spares, "spares_epoch": epoch}

    def activate(self, epoch: int, *, drain: bool, route: Route | None) -> None:
        """Follow this epoch. A way around a failure brings its route: all its parts must be there."""
        if self.facts.get("pipeline") != "digits":
            return
        if epoch == self.facts.get("active_epoch", 0) and not drain:
            self._retire()
        if epoch <= self.facts.get("active_epoch", 0):
            return
        if route is not None:
            missing = {engine_of(part) for part in route.parts_on(self.name)} - self.engines
            assert not missing, f"epoch {epoch} needs {missing} on {self.name}, which has {self.engines}"
            self.facts |= {"assigned_epoch": max(epoch, self.facts.get("assigned_epoch", 0)), "controller": "c1"}
            self._deploy(route)
        if self.assigned is not None and self.assigned.epoch == epoch:
            self.plan = self.assigned
        self.facts["active_epoch"] = epoch
        if not drain:
            self._retire()
        follows = self.deployments.get(epoch)
        self.facts["is_head"] = follows is not None and follows.head == self.name
        self._forget()

    def _deploy(self, route: Route) -> None:
        self.deployments[route.epoch] = route
        self.facts["ready_epoch"] = max(self.deployments)

    def _retire(self) -> None:
        active = self.facts["active_epoch"]
        self.deployments = {epoch: route for epoch, route in self.deployments.items() if epoch >= active}
        self.facts["ready_epoch"] = max(self.deployments, default=0)
        self._forget()

    def _forget(self) -> None:
        routes = [*self.deployments.values(), *(route for route in (self.plan, self.assigned) if route)]
        used = {engine_of(part) for route in routes for part in route.parts_on(self.name)}
        self.engines &= used | {engine_of(part) for part in self.wanted}


Catalogue = Callable[[Plan], Sequence[Part]]


class Cluster:
    """A controller's state, the nodes that beat to it, and the time."""

    def __init__(
        self,
        *,
        policy: Policy | None = None,
        catalogue: Catalogue = lambda plan: standbys(plan, CHAIN),
        pulses: bool = False,
        obedient: bool = True,
    ) -> None:
        """
        Args:
            catalogue: the parts that may stand by for a plan's stages.
            pulses: whether nodes send pulses besides their beats.
            obedient: whether nodes do what they are told; otherwise the test says what they report.
        """
        self.now_s = 100.0
        self.policy = policy or Policy(spare_memory_bytes=0)
        self.catalogue = catalogue
        self.pulses = pulses
        self.obedient = obedient
        self.state = ClusterState(pipeline="digits", controller="c1", started_s=self.now_s)
        self.nodes: dict[str, SimulatedNode] = {}
        self.starts = 0
        self.told: list[tuple[str, int]] = []
        self.announced: list[int] = []
        self.actions: list[Any] = []
        self._announcement: dict[str, Any] = {}

    # ---- what happens ----------------------------------------------------------------------------------------------

    def join(self, *names: str, **facts: Any) -> None:
        """Processes of these names start."""
        for name in names:
            self.starts += 1
            self.nodes[name] = SimulatedNode(name, {"incarnation": f"{name}-{self.starts}", **facts})
            self._beat(self.nodes[name])

    def report(self, name: str, **facts: Any) -> None:
        """A beat in which something has changed."""
        self.nodes[name].facts |= {"pipeline": "digits", **facts}
        self._beat(self.nodes[name])

    def die(self, *names: str) -> None:
        """They are silent from now on; nobody says so."""
        for name in names:
            del self.nodes[name]

    def crash(self, *names: str) -> None:
        """The broker says that their connections are closed."""
        for name in names:
            node = self.nodes.pop(name)
            self.apply(Gone(node=name, incarnation=node.facts["incarnation"], now_s=self.now_s))

    def leave(self, name: str) -> None:
        """It says goodbye."""
        node = self.nodes.pop(name)
        self.apply(Left(bye=Bye(node=name, incarnation=node.facts["incarnation"])))

    def stop(self, *names: str) -> None:
        """SIGSTOP: neither hears nor says anything."""
        for name in names:
            self.nodes[name].muted = True

    def go_on(self, *names: str) -> None:
        """SIGCONT."""
        for name in names:
            self.nodes[name].muted = False
            self._beat(self.nodes[name])

    def wait(self, seconds: float) -> None:
        """Time passes, nodes are heard, and nothing is decided."""
        end_s, next_beat_s = self.now_s + seconds, self.now_s
        while self.now_s < end_s - 1e-9:
            self.now_s += PULSE_S if self.pulses else BEAT_S
            if self.now_s >= next_beat_s - 1e-9:
                next_beat_s = self.now_s + BEAT_S
                for node in self.nodes.values():
                    self._beat(node)
            for node in self.nodes.values() if self.pulses else ():
                self._pulse(node)

    def run(self, seconds: float) -> None:
        """Time passes, and everything is done that is decided meanwhile."""
        for _ in range(round(seconds / BEAT_S)):
            self.wait(BEAT_S)
            self.settle()
            if unheard(self.state, self.now_s):
                self._announce_again()

    def apply(self, event: Event) -> None:
        self.state = apply(self.state, event)

    # ---- what is done ----------------------------------------------------------------------------------------------

    def decide(self) -> Any:
        return decide(self.state, self.policy, self.now_s)

    def step(self) -> Any:
        """Carry out the next action, as the service does."""
        action = self.decide()
        self.actions.append(action)
        match action:
            case Bridge():
                self._bridge(action)
            case MakePlan(nodes=nodes, improve=improve):
                self._plan(nodes, improve=improve)
            case Tell(nodes=names):
                self._tell(names)
            case Announce(epoch=epoch, drain=drain):
                route = self.state.route
                assert route is not None
                assert route.epoch == epoch
                self.apply(Activated(route=route, drain=drain, now_s=self.now_s))
                self._announce(epoch, drain=drain)
            case Retire(epoch=epoch):
                self.apply(Drained())
                self._announce(epoch, drain=False, news=False)
            case PlaceSpares(nodes=nodes):
                self._place_spares(nodes)
            case TellSpares(nodes=names):
                self._tell_spares(names)
            case Prepare():
                self._prepare(action)
        return action

    def settle(self) -> None:
        """Act until nothing is left to do."""
        for _ in range(100):
            if self.step() is None:
                return
        raise AssertionError(f"it never comes to rest: {self.actions[-10:]}")

    def _bridge(self, action: Bridge) -> None:
        option = action.choice.option
        names = [view.beat.node for view in usable(self.state, self.now_s)]
        standby = choose_standby_head(self.state, names, option.head, self.now_s)
        route = bridge_route(option, MODELS, epoch=next_epoch(self.state), standby_head=standby)
        self.apply(Activated(route=route, drain=False, now_s=self.now_s))
        self._announce(route.epoch, drain=False, route=route)

    def _plan(self, nodes: tuple[NodeSpec, ...], *, improve: bool) -> None:
        names = frozenset(node.name for node in nodes)
        plan = share_out(nodes)
        if improve and self.state.plan is not None and plan.value_s > BETTER * self.state.plan.value_s:
            self.apply(KeptPlan(nodes=names))
            return
        head = choose_head(self.state, plan, self.now_s)
        standby = choose_standby_head(self.state, plan.nodes, head, self.now_s) if self.policy.standby_head else ""
        route = plan_route(
            stages_of(plan, CHAIN),
            MODELS,
            epoch=next_epoch(self.state),
            head=head,
            standby_head=standby,
            expected_accuracy=0.9,
        )
        self.apply(Planned(plan=plan, route=route, nodes=names))

    def _tell(self, names: Sequence[str]) -> None:
        route = self.state.route
        assert route is not None
        for name in names:
            self.told.append((name, route.epoch))
            self.apply(Told(node=name, epoch=route.epoch, now_s=self.now_s))
            if self._hears(name):
                self.nodes[name].assign(route)
                self._beat(self.nodes[name])

    def _announce(self, epoch: int, *, drain: bool, route: Route | None = None, news: bool = True) -> None:
        if news:
            self.announced.append(epoch)
        self._announcement = {"epoch": epoch, "drain": drain, "route": route}
        self._announce_again()

    def _announce_again(self) -> None:
        for name, node in self.nodes.items():
            if self._hears(name):
                node.activate(**self._announcement)
                self._beat(node)

    def _hears(self, name: str) -> bool:
        return self.obedient and name in self.nodes and not self.nodes[name].muted

    def _place_spares(self, nodes: tuple[NodeSpec, ...]) -> None:
        plan, route = self.state.plan, self.state.route
        assert plan is not None
        assert route is not None
        placed = place_spares(
            plan,
            self.catalogue(plan),
            nodes,
            ESTIMATES,
            self.policy.objectives,
            spare_memory_bytes=self.policy.spare_memory_bytes,
        )
        self.apply(SparesPlaced(spares=tuple(placed), plan_epoch=route.epoch))

    def _tell_spares(self, names: Sequence[str]) -> None:
        epoch = self.state.spares_epoch
        for name in names:
            parts = tuple(part_ref(spot.part.name) for spot in self.state.spares if spot.node == name)
            self.apply(Told(node=name, epoch=epoch, now_s=self.now_s, spares=True))
            if self._hears(name):
                self.nodes[name].keep(parts, epoch)
                self._beat(self.nodes[name])

    def _prepare(self, action: Prepare) -> None:
        plan, route = self.state.plan, self.state.active
        assert plan is not None
        assert route is not None
        setup = Setup(
            route=stages_of(plan, CHAIN),
            spares=loaded_spares(self.state, self.now_s),
            nodes=specs(usable(self.state, self.now_s)),
            head=route.head,
            standby_head=route.standby_head or None,
            estimates=replace(ESTIMATES),
            objectives=self.policy.objectives,
        )
        self.apply(Prepared(contingency=prepare(setup), prepared_for=action.prepared_for, now_s=self.now_s))

    def _beat(self, node: SimulatedNode) -> None:
        if not node.muted:
            self.apply(Heard(beat=beat(node.name, **node.facts), now_s=self.now_s))

    def _pulse(self, node: SimulatedNode) -> None:
        if not node.muted:
            incarnation = node.facts["incarnation"]
            self.apply(Pulsed(node=node.name, incarnation=incarnation, interval_s=PULSE_S, now_s=self.now_s))

    # ---- what a user would notice ----------------------------------------------------------------------------------

    @property
    def planned(self) -> tuple[str, ...]:
        return self.state.plan.nodes if self.state.plan is not None else ()

    @property
    def active(self) -> Route:
        assert self.state.active is not None
        return self.state.active

    @property
    def way(self) -> list[tuple[str, str]]:
        """The hops that frames take now."""
        return [(hop.node, hop.part.part) for hop in self.active.hops]

    def serves(self) -> bool:
        """Whether every node of the active route lives and follows it: frames are answered."""
        return all(
            name in self.nodes
            and not self.nodes[name].muted
            and self.nodes[name].facts.get("active_epoch") == self.active.epoch
            for name in self.active.nodes
        )
