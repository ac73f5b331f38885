"""The controller's effects: hear nodes, carry out what `decide` says, answer status requests."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, assert_never

import structlog

from broker import control, subjects
from broker.activation import HEADER_RESERVE_BYTES
from broker.control import Activate, Assignment, Beat, BlobRef, Bye, FlowSettings, Route, RouteHop, StageAssignment
from broker.errors import BrokerError, UnderstudyError, WireError
from broker.port import Broker, Message
from planner.chain import Chain
from planner.cluster import NodeSpec
from planner.plan import NoPlanError, Plan, Stage
from recovery.decide import Announce, MakePlan, Policy, Tell, decide, unheard
from recovery.rates import RateMeter
from recovery.state import (
    Activated,
    ClusterState,
    Event,
    Heard,
    Left,
    NoPlan,
    Planned,
    Told,
    apply,
    choose_head,
    usable,
)
from recovery.status import status

log = structlog.get_logger("understudy.controller")

TICK_S = 0.25
"""How often time alone (a silence) may lead to a decision."""

Planner = Callable[[Sequence[NodeSpec], int], Plan]
"""Makes a plan for the nodes that are there, in a thread; told how many plans were before it. Raises NoPlanError."""


class ModelSource(Protocol):
    """What the service needs of the model: its chain, and content-addressed pieces that nodes can fetch."""

    chain: Chain
    spec: BlobRef

    async def submodel(self, first_block: int, end_block: int) -> BlobRef:
        """Cut the sub-model of blocks [first_block, end_block) and offer it to the nodes."""


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
        planner: Planner,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline = subjects.check_name("pipeline", pipeline)
        self._data = data
        self._control = control_broker
        self._source = source
        self._policy = policy
        self._flow = flow
        self._planner = planner
        self._clock = clock
        self._id = secrets.token_hex(8)
        self._wake = asyncio.Event()
        self._rates = RateMeter()
        self._announced_at_s = 0.0
        self.state = ClusterState(pipeline=pipeline, started_s=clock())

    async def run(self) -> None:
        """Serve until cancelled."""
        heard = await self._control.subscribe(subjects.BEATS, self._on_beat)
        left = await self._control.subscribe(subjects.BYE, self._on_bye)
        asked = await self._data.subscribe(subjects.STATUS, self._on_status)
        log.info("controller-started", pipeline=self._pipeline, blocks=self._source.chain.blocks)
        try:
            while True:
                await self._act()
                self._wake.clear()
                try:
                    async with asyncio.timeout(TICK_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            for subscription in (heard, left, asked):
                await subscription.unsubscribe()

    def snapshot(self) -> dict[str, Any]:
        """The status document (see `recovery.status`)."""
        return status(self.state, self._data.url, self._rates.frames_per_s, self._clock())

    def _apply(self, event: Event) -> None:
        self.state = apply(self.state, event)

    async def _on_beat(self, message: Message) -> None:
        try:
            news = control.decode(message.data, Beat)
        except WireError as error:
            log.warning("beat-malformed", subject=message.subject, reason=error.reason)
            return
        if message.subject != subjects.beat(news.node):
            log.warning("beat-malformed", subject=message.subject, reason=f"it names node {news.node}")
            return
        before = self.state.nodes.get(news.node)
        self._apply(Heard(beat=news, now_s=self._clock()))
        if news.is_head and news.pipeline == self._pipeline:
            self._rates.count(news.incarnation, news.answered, self._clock())
        if before is None or before.beat.incarnation != news.incarnation:
            log.info("node-joined", node=news.node, pid=news.pid, memory_bytes=news.memory_bytes or None)
        if before is None or _says_more(before.beat, news):
            self._wake.set()

    async def _on_bye(self, message: Message) -> None:
        try:
            bye = control.decode(message.data, Bye)
        except WireError as error:
            log.warning("bye-malformed", reason=error.reason)
            return
        log.info("node-left", node=bye.node)
        self._apply(Left(bye=bye))
        self._wake.set()

    async def _on_status(self, message: Message) -> None:
        if message.reply:
            await self._data.publish(message.reply, json.dumps(self.snapshot()).encode())

    async def _act(self) -> None:
        """Act until nothing is left to do."""
        try:
            while (action := decide(self.state, self._policy, self._clock())) is not None:
                match action:
                    case MakePlan(nodes=nodes):
                        await self._plan(nodes)
                    case Tell(nodes=names):
                        await self._tell(names)
                    case Announce(epoch=epoch):
                        await self._announce(epoch)
                    case _:
                        assert_never(action)
            # A node that missed the announcement hears it again.
            if unheard(self.state, self._clock()) and self._clock() - self._announced_at_s > TICK_S:
                await self._announce(self.state.active_epoch)
        except BrokerError as error:
            log.warning("controller-waits-for-broker", reason=str(error))

    async def _plan(self, nodes: tuple[NodeSpec, ...]) -> None:
        # Solving takes CPU time: not on the event loop, which has heartbeats to hear.
        try:
            plan = await asyncio.to_thread(self._planner, nodes, self.state.epoch)
        except NoPlanError as error:
            log.error("no-plan", reason=str(error), nodes=[node.name for node in nodes])
            self._apply(NoPlan(nodes=frozenset(node.name for node in nodes), reason=str(error)))
            return
        # A head apart from the first stage sends cut 0, and takes cut B of a single stage, over the broker.
        ends = (self._source.chain.cut_bytes[0], self._source.chain.cut_bytes[-1])
        ends_fit = max(ends) <= self._data.max_payload_bytes - HEADER_RESERVE_BYTES
        head = choose_head(self.state, plan, self._clock()) if ends_fit else plan.stages[0].node
        self._apply(Planned(plan=plan, head=head))
        log.info("planned", epoch=self.state.epoch, stages=[_readable(stage) for stage in plan.stages])

    async def _tell(self, names: tuple[str, ...]) -> None:
        plan, head, epoch = self.state.plan, self.state.head, self.state.epoch
        assert plan is not None  # noqa: S101 - decide() tells only what is planned
        hops = tuple(RouteHop(cut=stage.first_block, node=stage.node) for stage in plan.stages)
        end = RouteHop(cut=self._source.chain.blocks, node=head)
        route = Route(epoch=epoch, head=head, hops=(*hops, end))
        for name in names:
            try:
                stages = [await self._assignment(stage) for stage in plan.stages if stage.node == name]
            except UnderstudyError as error:
                log.error("submodel-failed", node=name, reason=str(error))
                there = usable(self.state, self._clock())
                self._apply(NoPlan(nodes=frozenset(view.beat.node for view in there), reason=str(error)))
                return
            assignment = Assignment(
                pipeline=self._pipeline,
                controller=self._id,
                epoch=epoch,
                spec=self._source.spec,
                stages=tuple(stages),
                route=route,
                flow=self._flow,
            )
            await self._control.publish(subjects.assign(name), control.encode(assignment))
            self._apply(Told(node=name, epoch=epoch, now_s=self._clock()))

    async def _assignment(self, stage: Stage) -> StageAssignment:
        blob = await self._source.submodel(stage.first_block, stage.end_block)
        return StageAssignment(first_block=stage.first_block, end_block=stage.end_block, submodel=blob)

    async def _announce(self, epoch: int) -> None:
        message = control.encode(Activate(pipeline=self._pipeline, epoch=epoch))
        await self._control.publish(subjects.activate(self._pipeline), message)
        self._announced_at_s = self._clock()
        if self.state.active_epoch != epoch:
            log.info("activated", epoch=epoch)
            self._apply(Activated(epoch=epoch))


def _says_more(before: Beat, news: Beat) -> bool:
    """Whether the beat says something that may lead to a decision at once."""
    seen, new = (
        (b.incarnation, b.pipeline, b.assigned_epoch, b.ready_epoch, b.active_epoch, b.failure) for b in (before, news)
    )
    return seen != new


def _readable(stage: Stage) -> str:
    return f"{stage.node}:[{stage.first_block},{stage.end_block})"
