"""Ready for the next failure: what is loaded besides the stages, and what to do about each failure, before it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import pairwise

import structlog

from broker.errors import UnderstudyError
from planner.cluster import Cluster, NodeSpec
from planner.part import Part
from planner.plan import Plan
from recovery.contingency import Setup, prepare
from recovery.decide import Policy, Prepare
from recovery.estimates import Accuracy, Estimates
from recovery.experience import Experience
from recovery.messenger import Messenger
from recovery.model import Served
from recovery.observer import Observer
from recovery.options import stages_of
from recovery.queries import loaded_spares, specs, usable
from recovery.routes import part_ref
from recovery.spares import place_spares
from recovery.state import CatalogueGrew, Prepared, SparesPlaced, Told
from recovery.store import Store

REFRESH_S = 3.0
"""How often it is looked at whether estimates are still right."""

NOTEWORTHY = 1.3
"""A speed or a time that has changed by less than this factor changes no decision."""

log = structlog.get_logger("understudy.controller")


class Readiness:
    """Carries out `PlaceSpares`, `TellSpares` and `Prepare`; `on_news`: there are more parts to choose."""

    def __init__(
        self,
        *,
        store: Store,
        messenger: Messenger,
        observer: Observer,
        policy: Policy,
        cluster: Cluster | None,
        on_news: Callable[[], None],
    ) -> None:
        self._store = store
        self._messenger = messenger
        self._observer = observer
        self._policy = policy
        self._cluster = cluster
        self._on_news = on_news
        self._refining: asyncio.Task[None] | None = None
        self._used: Estimates | None = None
        self._looked_s = 0.0
        self.experience = Experience()

    async def place(self, served: Served, nodes: tuple[NodeSpec, ...]) -> None:
        """Choose what to load besides the newest plan."""
        plan, route = self._store.state.plan, self._store.state.route
        assert plan is not None  # noqa: S101 - decide() checked
        assert route is not None  # noqa: S101 - decide() checked
        catalogue = await asyncio.to_thread(served.source.catalogue, plan)
        placed = await asyncio.to_thread(
            place_spares,
            plan,
            catalogue,
            nodes,
            self.estimates(served),
            self._policy.objectives,
            spare_memory_bytes=self._policy.spare_memory_bytes,
        )
        # Their files first: nodes may have some of them already, loaded for the controller before, and the next failure
        # may lead over these at once.
        placed = [spot for spot in placed if await self._is_made(served, spot.part)]
        self._store.apply(SparesPlaced(spares=tuple(placed), plan_epoch=route.epoch))
        self._refine(served, plan)
        log.info("spares-placed", epoch=route.epoch, spares=[f"{spot.node} {spot.part.name}" for spot in placed])

    async def _is_made(self, served: Served, part: Part) -> bool:
        try:
            if part.name not in served.models:
                await served.model(part)
        except UnderstudyError as error:
            log.warning("spare-not-made", part=part.name, reason=str(error))
            return False
        return True

    async def tell(self, served: Served, names: tuple[str, ...]) -> None:
        """Have these nodes load what was placed on them. Raises BrokerError."""
        epoch = self._store.state.spares_epoch
        for name in names:
            own = [spot.part for spot in self._store.state.spares if spot.node == name]
            parts = [part_ref(part, served.models) for part in own if await self._is_made(served, part)]
            await self._messenger.keep(name, parts, served.source.spec, epoch)
            self._store.apply(Told(node=name, epoch=epoch, now_s=self._store.now_s, spares=True))

    async def prepare(self, served: Served, action: Prepare) -> None:
        """Compute what to do about each failure, with what is loaded now: of nodes that start anew meanwhile it is not
        true any more."""
        state, now_s = self._store.state, self._store.now_s
        plan, route = state.plan, state.active
        assert plan is not None  # noqa: S101 - decide() checked
        assert route is not None  # noqa: S101 - decide() checked
        nodes, estimates = specs(usable(state, now_s)), self.estimates(served)
        setup = Setup(
            route=stages_of(plan, served.source.chain),
            spares=loaded_spares(state, now_s),
            nodes=nodes,
            head=route.head,
            standby_head=route.standby_head or None,
            estimates=estimates,
            objectives=self._policy.objectives,
            plans=served.foresight.by_loss(nodes),
        )
        self._used = estimates
        contingency = await asyncio.to_thread(prepare, setup)
        self._store.apply(Prepared(contingency=contingency, prepared_for=action.prepared_for, now_s=now_s))
        log.info("prepared", epoch=route.epoch, failures=len(contingency.table), spares=len(setup.spares))
        served.foresight.begin(
            nodes, setup.needed, plans_before=self._store.state.epoch, plan_s=estimates.timings.plan_s
        )

    async def refresh(self, served: Served) -> None:
        """Compute it again where more is known now of how fast things are here than when it was computed."""
        state, now_s = self._store.state, self._store.now_s
        if state.prepared_for is None or not state.healthy or state.draining or now_s - self._looked_s < REFRESH_S:
            return
        self._looked_s = now_s
        self._observe_latency(served)
        if served.foresight.is_news or (self._used is not None and differ(self._used, self.estimates(served))):
            await self.prepare(served, Prepare(prepared_for=state.prepared_for))

    def loaded(self, served: Served, seconds: float) -> None:
        """All nodes have loaded the newest plan, so long after it was made."""
        plan = self._store.state.plan
        if plan is not None:
            stages = stages_of(plan, served.source.chain)
            self.experience.loaded(seconds, max(spot.part.memory_bytes for spot in stages))

    def _observe_latency(self, served: Served) -> None:
        """What the head measures on the plan's route, less what the stages compute, is for the messages."""
        state, estimates = self._store.state, self.estimates(served)
        assert state.plan is not None  # noqa: S101 - refresh checked that it is healthy
        assert state.active is not None  # noqa: S101 - the same
        head = state.nodes[state.active.head].beat
        if head.answered_epoch != state.active_epoch or head.latency_s == 0:
            return
        hops = stages_of(state.plan, served.source.chain)
        if not all(hop.node in estimates.speeds for hop in hops):
            return
        computing_s = sum(estimates.part_s(hop.part, hop.node) for hop in hops)
        places = [state.active.head, *(hop.node for hop in hops), state.active.head]
        messages = sum(one != other for one, other in pairwise(places))
        self.experience.answered(head.latency_s, computing_s, messages)

    def stop(self) -> None:
        if self._refining is not None:
            self._refining.cancel()

    def estimates(self, served: Served) -> Estimates:
        """What is known now."""
        healthy = served.source.healthy
        return Estimates(
            chain=served.source.chain.within(self._policy.objectives.max_codec_loss),
            healthy=None if healthy is None else Accuracy(value=healthy.value, low=healthy.low, high=healthy.high),
            speeds=dict(self._observer.speeds.flops_per_s),
            part_seconds=served.source.part_seconds,
            cluster=self._cluster,
            timings=self.experience.timings,
        )

    def _refine(self, served: Served, plan: Plan) -> None:
        """Fit parts for this plan's stages where there are none, without making anything wait for it."""
        self.stop()
        self._refining = asyncio.create_task(self._refine_catalogue(served, plan), name="refine")

    async def _refine_catalogue(self, served: Served, plan: Plan) -> None:
        try:
            found = await served.source.refine(plan)
        except UnderstudyError as error:
            log.warning("parts-not-fitted", reason=str(error))
            return
        if found:
            log.info("parts-fitted", parts=found)
            self._store.apply(CatalogueGrew())
            self._on_news()


def differ(one: Estimates, other: Estimates) -> bool:
    """Whether decisions may differ between them."""
    if set(one.speeds) != set(other.speeds):
        return True
    return any(
        max(before, now) > NOTEWORTHY * max(min(before, now), 1e-9)
        for before, now in zip(_numbers(one), _numbers(other), strict=True)
    )


def _numbers(estimates: Estimates) -> Iterator[float]:
    yield from (estimates.speeds[node] for node in sorted(estimates.speeds))
    timings = estimates.timings
    load_bytes = sum(estimates.chain.block_memory_bytes)
    yield from (timings.switch_s, timings.plan_s, timings.heal_s(load_bytes), timings.message_s)
