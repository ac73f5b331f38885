"""Tells the nodes: assignments, spares, and which route is active."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from broker import control, subjects
from broker.control import Activate, Assignment, BlobRef, FlowSettings, PartRef, Route, Spares
from broker.port import Broker


class Messenger:
    """Sends control messages of one controller for one pipeline. Raises BrokerError where the broker takes none."""

    def __init__(
        self,
        broker: Broker,
        *,
        pipeline: str,
        controller: str,
        flow: FlowSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._pipeline = pipeline
        self._controller = controller
        self._flow = flow
        self._clock = clock
        self._announcement: Activate | None = None
        self._announced_at_s = 0.0

    async def assign(self, node: str, route: Route, spec: BlobRef) -> None:
        """Have a node load its parts of a route."""
        await self._broker.publish(subjects.assign(node), control.encode(self._assignment(route, spec)))

    async def keep(self, node: str, parts: Sequence[PartRef], spec: BlobRef, epoch: int) -> None:
        """Have a node load these spares, and no others."""
        message = Spares(
            pipeline=self._pipeline, controller=self._controller, epoch=epoch, spec=spec, parts=tuple(parts)
        )
        await self._broker.publish(subjects.spares(node), control.encode(message))

    async def activate(self, epoch: int, *, drain: bool, previous_head: str = "") -> None:
        """Have all nodes follow a route that they have loaded; see `broker.control.Activate`."""
        await self._announce(self._activation(epoch, drain=drain, previous_head=previous_head, assignment=None))

    async def bridge(self, route: Route, spec: BlobRef) -> None:
        """Have all nodes follow a route over parts that are loaded, at once."""
        assignment = self._assignment(route, spec)
        await self._announce(self._activation(route.epoch, drain=False, previous_head="", assignment=assignment))

    async def repeat(self, after_s: float) -> None:
        """Announce again what was announced last, if that is so long ago."""
        if self._announcement is not None and self._clock() - self._announced_at_s > after_s:
            await self._announce(self._announcement)

    async def _announce(self, announcement: Activate) -> None:
        self._announcement = announcement
        self._announced_at_s = self._clock()
        await self._broker.publish(subjects.activate(self._pipeline), control.encode(announcement))

    def _assignment(self, route: Route, spec: BlobRef) -> Assignment:
        return Assignment(pipeline=self._pipeline, controller=self._controller, spec=spec, route=route, flow=self._flow)

    def _activation(self, epoch: int, *, drain: bool, previous_head: str, assignment: Assignment | None) -> Activate:
        return Activate(
            pipeline=self._pipeline,
            controller=self._controller,
            epoch=epoch,
            drain=drain,
            previous_head=previous_head,
            assignment=assignment,
        )
