"""Ready for the next failure: what is loaded besides the stages, and what to do about each failure, before it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from broker.control import PartRef
from broker.errors import UnderstudyError
from planner.cluster import Cluster, NodeSpec
from planner.plan import Plan
from recovery.contingency import Setup, prepare
from recovery.decide import Policy, Prepare
from recovery.estimates import Accuracy, Estimates
from recovery.messenger import Messenger
from recovery.model import Served
from recovery.observer import Observer
from recovery.options import stages_of
from recovery.routes import part_ref
from recovery.spares import place_spares
from recovery.state import CatalogueGrew, Prepared, SparesPlaced, Told, loaded_spares, specs, usable
from recovery.store import Store

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
            self._estimates(served),
            self._policy.objectives,
            spare_memory_bytes=self._policy.spare_memory_bytes,
        )
        self._store.apply(SparesPlaced(spares=tuple(placed), plan_epoch=route.epoch))
        self._refine(served, plan)
        log.info("spares-placed", epoch=route.epoch, spares=[f"{spot.node} {spot.part.name}" for spot in placed])

    async def tell(self, served: Served, names: tuple[str, ...]) -> None:
        """Have these nodes load what was placed on them. Raises BrokerError."""
        epoch = self._store.state.spares_epoch
        for name in names:
            parts: list[PartRef] = []
            for spot in self._store.state.spares:
                if spot.node == name:
                    try:
                        await served.model(spot.part)
                        parts.append(part_ref(spot.part, served.models))
                    except UnderstudyError as error:
                        log.warning("spare-not-made", part=spot.part.name, reason=str(error))
            await self._messenger.keep(name, parts, served.source.spec, epoch)
            self._store.apply(Told(node=name, epoch=epoch, now_s=self._store.now_s, spares=True))

    async def prepare(self, served: Served, action: Prepare) -> None:
        """Compute what to do about each failure, with what is loaded now."""
        state, now_s = self._store.state, self._store.now_s
        plan, route = state.plan, state.active
        assert plan is not None  # noqa: S101 - decide() checked
        assert route is not None  # noqa: S101 - decide() checked
        setup = Setup(
            route=stages_of(plan, served.source.chain),
            spares=loaded_spares(state, now_s),
            nodes=specs(usable(state, now_s)),
            head=route.head,
            standby_head=route.standby_head or None,
            estimates=self._estimates(served),
            objectives=self._policy.objectives,
        )
        contingency = await asyncio.to_thread(prepare, setup)
        now_s = self._store.now_s
        self._store.apply(Prepared(contingency=contingency, prepared_for=action.prepared_for, now_s=now_s))
        log.info("prepared", epoch=route.epoch, failures=len(contingency.table), spares=len(setup.spares))

    def stop(self) -> None:
        if self._refining is not None:
            self._refining.cancel()

    def _estimates(self, served: Served) -> Estimates:
        healthy, speeds = served.source.healthy, self._observer.speeds
        return Estimates(
            chain=served.source.chain,
            healthy=None if healthy is None else Accuracy(value=healthy.value, low=healthy.low, high=healthy.high),
            speeds={} if speeds is None else dict(speeds.flops_per_s),
            cluster=self._cluster,
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
