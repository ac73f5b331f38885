"""The controller's effects: carries out what `decide` says. What it hears is `recovery.observer`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any, assert_never

import structlog

from broker import subjects
from broker.activation import HEADER_RESERVE_BYTES
from broker.control import FlowSettings, Route
from broker.errors import BrokerError, UnderstudyError
from broker.malformed import Malformed
from broker.port import Broker
from planner.chain import Chain
from planner.cluster import Cluster, NodeSpec
from planner.plan import NoPlanError, Plan
from recovery.decide import (
    Action,
    Announce,
    Bridge,
    MakePlan,
    PlaceSpares,
    Policy,
    Prepare,
    Retire,
    RollBack,
    Tell,
    TellSpares,
    best_way,
    bridge,
    decide,
    unheard,
)
from recovery.foresight import Planner
from recovery.journal import Journal, Record
from recovery.liveness import OwnClock
from recovery.messenger import Messenger
from recovery.model import ModelSource, Served, UpdateError
from recovery.observer import TICK_S, Observer
from recovery.options import Placed, stages_of
from recovery.queries import alive, choose_head, choose_standby_head, head_so_far, lost, next_epoch, usable
from recovery.readiness import Readiness
from recovery.reporter import Reporter
from recovery.routes import bridge_route, plan_route
from recovery.speeds import SpeedMeter
from recovery.state import (
    Activated,
    ClusterState,
    Drained,
    KeptPlan,
    NoPlan,
    Planned,
    Told,
    UpdateDropped,
    UpdateWanted,
)
from recovery.status import status
from recovery.store import Store

log = structlog.get_logger("understudy.controller")

ACT_S = 0.25
"""How often time alone (besides a silence) may lead to a decision."""

BETTER = 0.95
"""A plan replaces one that serves well only if its objective is at most so much of that one's."""


class RecoveryService:
    """Keeps one pipeline running on the nodes that are there. Use `run`; it ends when it is cancelled."""

    def __init__(
        self,
        *,
        pipeline: str,
        data: Broker,
        control_broker: Broker,
        source: ModelSource,
        policy: Policy,
        flow: FlowSettings,
        planner_for: Callable[[Chain], Planner],
        cluster: Cluster | None = None,
        system_url: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        subjects.check_name("pipeline", pipeline)
        own_clock = OwnClock(clock, tick_s=TICK_S)
        controller = secrets.token_hex(8)
        self._data = data
        self._flow = flow
        self._policy = policy
        self._planner_for = planner_for
        self._served = Served(source, planner_for(source.chain))
        self._candidate: Served | None = None
        self._update: asyncio.Future[None] | None = None
        self._before_update: tuple[Plan, Route] | None = None
        self._wake = asyncio.Event()
        self._bridges: set[asyncio.Task[None]] = set()
        self._store = Store(ClusterState(pipeline=pipeline, controller=controller, started_s=own_clock()), own_clock)
        self._journal = Journal(clock=clock)
        self._messenger = Messenger(control_broker, pipeline=pipeline, controller=controller, flow=flow)
        self._observer = Observer(
            broker=control_broker,
            system_url=system_url,
            store=self._store,
            clock=own_clock,
            journal=self._journal,
            speeds=SpeedMeter(source.chain),
            on_loss=self._react,
            on_news=self._wake.set,
        )
        self._readiness = Readiness(
            store=self._store,
            messenger=self._messenger,
            observer=self._observer,
            policy=policy,
            cluster=cluster,
            on_news=self._wake.set,
        )
        self._reporter = Reporter(data, pipeline=pipeline, journal=self._journal, snapshot=self.snapshot)
        self._planned_at_s = clock()
        self._journal.on_news = self._on_record

    @property
    def state(self) -> ClusterState:
        return self._store.state

    @property
    def malformed(self) -> Malformed:
        """What the controller did not understand."""
        return self._observer.malformed

    async def run(self) -> None:
        """Serve until cancelled."""
        log.info("controller-started", pipeline=self.state.pipeline, blocks=self._served.source.chain.blocks)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._observer.run(), name="observer")
                group.create_task(self._reporter.run(), name="reporter")
                group.create_task(self._act_for_ever(), name="act")
        finally:
            self._readiness.stop()
            self._served.foresight.stop()
            for task in self._bridges:
                task.cancel()

    def snapshot(self) -> dict[str, Any]:
        """The status document (see `recovery.status`)."""
        document = status(self.state, self._data.url, self._observer.rates.frames_per_s, self._store.now_s)
        promised = {"delivery": self._flow.delivery, "ordered": self._flow.ordered}
        own = {"malformed": dict(self.malformed.counts), "tasks": len(asyncio.all_tasks())}
        recoveries = [record.document() for record in list(self._journal.records)[-20:]]
        return {**document, **promised, **own, "recoveries": recoveries}

    def _on_record(self, record: Record) -> None:
        self._reporter.tell(record)
        if record.stage == "answering" and record.choice is not None and record.first_answer_s is not None:
            self._readiness.experience.bridged(record.first_answer_s, record.choice.option.latency_s)

    async def update(self, source: ModelSource) -> int:
        """Serve another model, while frames flow. Returns the epoch from which answers are its.

        Raises:
            UpdateError: it cannot be planned or loaded, and the model before goes on; or another update is under way.
        """
        if self._update is not None:
            raise UpdateError("another update is under way: wait until it is done")
        self._update = asyncio.get_running_loop().create_future()
        self._candidate = Served(source, self._planner_for(source.chain))
        self._store.apply(UpdateWanted())
        self._wake.set()
        try:
            await self._update
            return self.state.active_epoch
        finally:
            self._update = None

    # ---- deciding ----------------------------------------------------------------------------------------------

    def _react(self) -> None:
        """Go around a failure now, whatever else is going on; then see what else there is to do."""
        noticed_s = self._journal.clock()
        action = bridge(self.state, self._store.now_s)
        if action is not None:
            task = asyncio.ensure_future(self._bridge(action, noticed_s))
            self._bridges.add(task)
            task.add_done_callback(self._bridges.discard)
        self._wake.set()

    async def _act_for_ever(self) -> None:
        while True:
            self._wake.clear()
            await self._act()
            try:
                async with asyncio.timeout(ACT_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _act(self) -> None:
        """Act until nothing is left to do."""
        try:
            while (action := decide(self.state, self._policy, self._store.now_s)) is not None:
                await self._carry_out(action)
            await self._readiness.refresh(self._served)
            if unheard(self.state, self._store.now_s):
                await self._messenger.repeat(after_s=ACT_S)
        except BrokerError as error:
            log.warning("controller-waits-for-broker", reason=str(error))

    async def _carry_out(self, action: Action) -> None:
        match action:
            case Bridge():
                await self._bridge(action, self._journal.clock())
            case MakePlan(nodes=nodes, improve=improve):
                await self._plan(nodes, improve=improve)
            case RollBack(reason=reason):
                self._drop_update(reason)
            case Tell(nodes=names):
                await self._tell(names)
            case Announce(drain=drain):
                await self._switch(drain=drain)
            case Retire(epoch=epoch):
                await self._messenger.activate(epoch, drain=False)
                self._store.apply(Drained())
            case PlaceSpares(nodes=nodes):
                await self._readiness.place(self._served, nodes)
            case TellSpares(nodes=names):
                await self._readiness.tell(self._served, names)
            case Prepare():
                await self._readiness.prepare(self._served, action)
            case _:
                assert_never(action)

    # ---- a failure ---------------------------------------------------------------------------------------------

    async def _bridge(self, action: Bridge, noticed_s: float) -> None:
        """Push the way around: one message to all nodes."""
        decided_s = self._journal.clock()
        state = self.state
        if state.active is None or not action.lost & state.active.nodes:
            return  # done meanwhile
        record = self._failure(action.lost, noticed_s)
        option, now_s = action.choice.option, self._store.now_s
        names = [view.beat.node for view in usable(state, now_s)]
        standby = choose_standby_head(state, names, option.head, now_s) if self._policy.standby_head else ""
        route = bridge_route(
            option,
            self._served.models,
            epoch=next_epoch(state),
            standby_head=standby,
            codec=self._readiness.estimates(self._served).codec,
        )
        # Applied first: whatever happens meanwhile must not lead to the same bridge again.
        self._store.apply(Activated(route=route, drain=False, now_s=self._store.now_s))
        if state.active.head in action.lost:
            await self._observer.cut_off(state.active.head)
        try:
            await self._messenger.bridge(route, self._served.source.spec)
        except BrokerError as error:
            log.warning("bridge-not-announced", reason=str(error), hint="it is announced again")
        self._journal.bridged(record, action.choice, epoch=route.epoch, exit_name=route.exit, decided_s=decided_s)
        log.info("bridged", epoch=route.epoch, lost=sorted(action.lost), technique=route.technique)

    def _failure(self, nodes: frozenset[str], noticed_s: float) -> Record:
        """The record of the loss of these nodes: it may have begun already."""
        opened = self._journal.open
        if opened is not None and opened.kind == "failure" and nodes <= set(opened.nodes) and not opened.bridge_epoch:
            return opened
        views = [self.state.nodes[name] for name in sorted(nodes) if name in self.state.nodes]
        causes = {
            "left" if view.left else "disconnected" if view.pulse.gone_s is not None else "silent" for view in views
        }
        silence_s = max((self._store.now_s - view.pulse.last_heard_s for view in views), default=None)
        cause = "+".join(sorted(causes)) or "unknown"
        counted = self._observer.counted()
        return self._journal.begin("failure", cause, nodes, counted=counted, began_s=noticed_s, silence_s=silence_s)

    # ---- a plan ------------------------------------------------------------------------------------------------

    async def _plan(self, nodes: tuple[NodeSpec, ...], *, improve: bool) -> None:
        names = frozenset(node.name for node in nodes)
        gone = lost(self.state, self._store.now_s)
        if gone:
            record = self._failure(gone, self._journal.clock())
            record.choice = record.choice or best_way(self.state, self._store.now_s)
        if self._candidate is not None and self.state.healthy and self.state.plan and self.state.active:
            self._before_update = self.state.plan, self.state.active
        served = self._candidate or self._served
        try:
            plan, hops = await self._solve(served, nodes)
        except (NoPlanError, UnderstudyError) as error:
            self._without_plan(names, str(error), improve=improve)
            return
        if improve and self.state.plan is not None and plan.value_s > BETTER * self.state.plan.value_s:
            self._store.apply(KeptPlan(nodes=names))
            return
        route = self._route(served, plan, hops)
        cause = self._cause()
        self._store.apply(Planned(plan=plan, route=route, nodes=names))
        if self._journal.open is None:
            before = frozenset[str]() if self.state.active is None else self.state.active.nodes
            self._journal.begin("change", cause, names - before, counted=self._observer.counted())
        log.info("planned", epoch=route.epoch, stages=[f"{hop.node} {hop.part.part}" for hop in route.hops])

    async def _solve(self, served: Served, nodes: tuple[NodeSpec, ...]) -> tuple[Plan, tuple[Placed, ...]]:
        """A plan, and its stages as parts whose models are made."""
        plan = served.foresight.plan_for(nodes)
        if plan is None:
            # Solving takes CPU time: not on the event loop, which has heartbeats to hear.
            began_s = self._journal.clock()
            plan = await asyncio.to_thread(served.planner, nodes, self.state.epoch)
            self._readiness.experience.planned(self._journal.clock() - began_s)
        self._planned_at_s = self._journal.clock()
        hops = stages_of(plan, served.source.chain)
        for hop in hops:
            await served.model(hop.part)
        return plan, hops

    def _without_plan(self, names: frozenset[str], reason: str, *, improve: bool) -> None:
        if self._candidate is not None:
            self._drop_update(reason)
        elif improve:
            self._store.apply(KeptPlan(nodes=names))
        else:
            log.error("no-plan", reason=reason, nodes=sorted(names))
            self._store.apply(NoPlan(nodes=names, reason=reason))

    def _route(self, served: Served, plan: Plan, hops: tuple[Placed, ...]) -> Route:
        chain, healthy, now_s = served.source.chain, served.source.healthy, self._store.now_s
        # A head apart from the first stage sends cut 0, and takes cut B of a single stage, over the broker.
        largest_end = max(chain.cut_bytes[0], chain.cut_bytes[-1])
        ends_fit = largest_end <= self._data.max_payload_bytes - HEADER_RESERVE_BYTES
        head = choose_head(self.state, plan, now_s) if ends_fit else plan.stages[0].node
        stands_by = self._policy.standby_head and ends_fit
        standby = choose_standby_head(self.state, plan.nodes, head, now_s) if stands_by else ""
        return plan_route(
            hops,
            served.models,
            epoch=next_epoch(self.state),
            head=head,
            standby_head=standby,
            expected_accuracy=None if healthy is None else healthy.value,
            codecs={stage.first_block: stage.codec for stage in plan.stages},
        )

    def _cause(self) -> str:
        """What a plan is made for, where nothing has failed."""
        if self.state.active is None:
            return "start"
        if self.state.update != "none":
            return "update"
        serving = [view.beat for name, view in self.state.nodes.items() if name in self.state.active.nodes]
        return "leaving" if any(beat.leaving for beat in serving) else "node"

    async def _tell(self, names: tuple[str, ...]) -> None:
        route = self.state.route
        assert route is not None  # noqa: S101 - decide() tells only what is planned
        for name in names:
            await self._messenger.assign(name, route, (self._candidate or self._served).source.spec)
            self._store.apply(Told(node=name, epoch=route.epoch, now_s=self._store.now_s))

    async def _switch(self, *, drain: bool) -> None:
        """To the newest plan's route."""
        route, head = self.state.route, head_so_far(self.state)
        assert route is not None  # noqa: S101 - decide() announces only what is planned
        lives = head in {view.beat.node for view in alive(self.state, self._store.now_s)}
        previous = head if drain and lives and head != route.head else ""
        self._journal.planned(route.epoch)
        self._readiness.loaded(self._candidate or self._served, self._journal.clock() - self._planned_at_s)
        if self._candidate is not None:
            self._served.foresight.stop()
            self._served, self._candidate = self._candidate, None
            self._observer.speeds = SpeedMeter(self._served.source.chain)
            if self._update is not None and not self._update.done():
                self._update.set_result(None)
        # Applied first: a bridge must not come between the two. What is not announced is announced again.
        self._store.apply(Activated(route=route, drain=drain, now_s=self._store.now_s))
        if head and not lives:
            await self._observer.cut_off(head)
        await self._messenger.activate(route.epoch, drain=drain, previous_head=previous)
        log.info("activated", epoch=route.epoch, drain=drain)

    def _drop_update(self, reason: str) -> None:
        """Go on with the model that serves."""
        log.error("update-failed", reason=reason)
        self._candidate = None
        if self._before_update is not None:
            plan, route = self._before_update
            self._store.apply(UpdateDropped(plan=plan, route=route))
        if self._update is not None and not self._update.done():
            self._update.set_exception(UpdateError(f"the new model is not served, the one before goes on: {reason}"))
