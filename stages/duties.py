"""What a node is told to do: which parts to load, which route to serve, what to keep loaded for routes to come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from broker import subjects
from broker.activation import Activation, Failure
from broker.control import Activate, Assignment, PartRef, Spares
from broker.errors import UnderstudyError
from broker.malformed import Malformed
from broker.port import Broker, Message, Subscription
from stages.dataplane import DataPlane
from stages.loader import Loader
from stages.worker import Deliver

log = structlog.get_logger("understudy.node")


class Duties:
    """Carries out `Assignment`, `Spares` and `Activate`.

    Attributes:
        pipeline: what the node works for; empty while it is free.
        controller: who assigned the newest epoch.
        assigned_epoch: the newest epoch that it was told of.
        failure: why that could not be loaded; empty if nothing is wrong.
        spares, spares_epoch: names of the spares that are loaded, and the number of the newest `Spares`.
    """

    def __init__(
        self,
        *,
        node: str,
        pipeline: str,
        broker: Broker,
        loader: Loader,
        plane: DataPlane,
        on_news: Callable[[], None],
        malformed: Malformed,
    ) -> None:
        """`broker`: the connection for control. `on_news` is called when a beat should go out at once."""
        self._node = node
        self._broker = broker
        self._loader = loader
        self._plane = plane
        self._on_news = on_news
        self._malformed = malformed
        self._assigned: Assignment | None = None
        self._plan: Assignment | None = None
        self._wanted: tuple[PartRef, ...] = ()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._subscriptions: list[Subscription] = []
        self.pipeline = pipeline
        self.controller = ""
        self.assigned_epoch = 0
        self.failure = ""
        self.spares: set[str] = set()
        self.spares_epoch = 0

    async def start(self) -> None:
        """Listen for what controllers say."""
        for subject, handler in (
            (subjects.assign(self._node), self._on_assign),
            (subjects.spares(self._node), self._on_spares),
            (subjects.activate("*"), self._on_activate),
        ):
            self._subscriptions.append(await self._broker.subscribe(subject, handler))

    def check(self) -> None:
        """Raise the error of a task that ended with one: a defect of ours."""
        for task in self._tasks.values():
            if task.done() and not task.cancelled():
                task.result()

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        for subscription in self._subscriptions:
            await subscription.unsubscribe()

    # ---- assignments -------------------------------------------------------------------------------------------

    async def _on_assign(self, message: Message) -> None:
        assignment = self._malformed.decode(message, Assignment)
        if assignment is None or not self._serves(assignment.pipeline):
            return
        if assignment.epoch <= self.assigned_epoch:
            return
        await self._take(assignment)
        self._assigned = assignment
        self._begin("load", self._load(assignment))
        self._on_news()

    async def _take(self, assignment: Assignment) -> None:
        self.pipeline = assignment.pipeline
        self.controller = assignment.controller
        self.assigned_epoch = assignment.epoch
        self.failure = ""
        await self._plane.listen(assignment.pipeline)

    async def _load(self, assignment: Assignment) -> None:
        try:
            deployment = await self._loader.load(assignment, self._deliver_for(assignment.epoch))
        except UnderstudyError as error:
            log.error("load-failed", epoch=assignment.epoch, reason=str(error))
            self.failure = str(error)[:1000]
            self._on_news()
            return
        self._plane.add(deployment)
        log.info("loaded", epoch=assignment.epoch, parts=[p.part for p in assignment.route.parts_on(self._node)])
        self._on_news()

    def _deliver_for(self, epoch: int) -> Deliver:
        async def deliver(message: Activation | Failure) -> None:
            await self._plane.deliver(epoch, message)

        return deliver

    # ---- spares ------------------------------------------------------------------------------------------------

    async def _on_spares(self, message: Message) -> None:
        spares = self._malformed.decode(message, Spares)
        if spares is None or not self._serves(spares.pipeline) or spares.epoch < self.spares_epoch:
            return
        self.pipeline = spares.pipeline
        self.spares_epoch = spares.epoch
        await self._plane.listen(spares.pipeline)
        self._begin("keep", self._keep(spares))
        self._on_news()

    async def _keep(self, spares: Spares) -> None:
        """Load what is not loaded yet. A spare that cannot be loaded is not reported: routes go without it."""
        kept = set(self._wanted) & set(spares.parts)
        self._wanted = spares.parts
        self.spares = {part.part for part in kept} & self.spares
        self._forget()
        for part in spares.parts:
            try:
                await self._loader.keep(part, spares.spec)
            except UnderstudyError as error:
                log.warning("spare-not-loaded", part=part.part, reason=str(error))
                continue
            if part.part not in self.spares:
                self.spares.add(part.part)
                self._on_news()
        log.info("spares-loaded", parts=sorted(self.spares))

    # ---- activations -------------------------------------------------------------------------------------------

    async def _on_activate(self, message: Message) -> None:
        activate = self._malformed.decode(message, Activate)
        if activate is None or activate.pipeline != self.pipeline:
            return
        if message.retained and activate.controller != self.controller:
            return  # said before this node worked for that controller, which may be long gone
        if activate.epoch == self._plane.active_epoch and not activate.drain:
            await self._plane.retire()
            self._forget()
        if activate.epoch <= self._plane.active_epoch:
            return
        if activate.assignment is not None and not await self._assemble(activate.assignment):
            return
        if self._assigned is not None and self._assigned.epoch == activate.epoch:
            self._plan = self._assigned
        await self._plane.switch_to(activate)
        self._forget()
        log.info("switched", epoch=activate.epoch, head=self._plane.lead.leads)
        self._on_news()

    async def _assemble(self, assignment: Assignment) -> bool:
        """Make the deployment of a route over parts that are loaded. False: one is not."""
        if assignment.epoch > self.assigned_epoch:
            await self._take(assignment)
        route = assignment.route
        needed = route.parts_on(self._node) or self._node in (route.head, route.standby_head)
        if not needed:
            return True
        deployment = self._loader.assemble(assignment, self._deliver_for(assignment.epoch))
        if deployment is None:
            # Of a plan that came meanwhile this says nothing: that is being loaded.
            if assignment.epoch == self.assigned_epoch:
                self.failure = f"epoch {assignment.epoch} was activated, and its parts are not loaded"
            log.error("not-loaded", epoch=assignment.epoch)
            self._on_news()
            return False
        self._plane.add(deployment)
        return True

    # ---- helpers -----------------------------------------------------------------------------------------------

    def _begin(self, kind: str, work: Coroutine[Any, Any, None]) -> None:
        """Start a task in place of the one of its kind before it."""
        before = self._tasks.get(kind)
        if before is not None:
            before.cancel()
        self._tasks[kind] = asyncio.create_task(work, name=f"{kind}-on-{self._node}")

    def _forget(self) -> None:
        """Drop the engines of parts that no route needs any more and that are no spares. Those of the newest plan stay
        while a way around a failure is active: the next failure's way may use them again."""
        assignments = [deployment.assignment for deployment in self._plane.deployments]
        # The newest assignment may be loading.
        assignments += [assignment for assignment in (self._plan, self._assigned) if assignment is not None]
        used = [part for assignment in assignments for part in assignment.route.parts_on(self._node)]
        self._loader.forget([*used, *self._wanted])

    def _serves(self, pipeline: str) -> bool:
        if self.pipeline in ("", pipeline):
            return True
        log.warning("assignment-refused", pipeline=pipeline, serves=self.pipeline)
        return False
