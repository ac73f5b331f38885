"""The controller role: a model, a recovery service, and the connections between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from broker import subjects
from broker.activation import HEADER_RESERVE_BYTES
from broker.connect import connect
from broker.control import FlowSettings
from broker.errors import BrokerError, UnderstudyError
from broker.jetstream import JetStream, NoJetStreamError
from broker.port import Broker
from broker.url import is_mqtt
from planner.cluster import Cluster
from planner.plan import Stage
from recovery.decide import Policy
from recovery.service import RecoveryService
from stages.blobs import BlobExchange, BlobStore
from stages.bundle import Bundle
from stages.feed import Feed
from stages.graph import ModelGraph
from stages.source import SubmodelSource
from understudy.bundles import check_stages
from understudy.discovery import statuses
from understudy.planning import PipelinePlanner
from understudy.rollout import Rollout
from understudy.term import Term
from understudy.versions import Versions

log = structlog.get_logger("understudy.controller")

LISTEN_S = 0.3
"""How long a starting controller waits for another one's answer."""


class PipelineTakenError(UnderstudyError):
    """Another controller serves the pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """What a controller serves, and where.

    Attributes:
        control_broker: None if the broker has no control account.
        system_broker: URL of the broker's system account, which tells of crashes at once; None: heartbeats alone do.
        standby: wait for the controller that serves to end, and take over.
        cluster: speeds and links of the nodes, by name; None: all nodes are equal and links are not counted.
        plan: the stages to serve with, while their nodes are there; none: the planner chooses.
    """

    pipeline: str
    broker: str
    control_broker: str | None = None
    system_broker: str | None = None
    stages: int | None = None
    cluster: Cluster | None = None
    plan: tuple[Stage, ...] = ()
    policy: Policy = field(default_factory=Policy)
    standby: bool = False
    cache: Path | None = None
    flow: FlowSettings = field(default_factory=FlowSettings)


@asynccontextmanager
async def both_brokers(broker: str, control_broker: str | None, *, name: str) -> AsyncIterator[tuple[Broker, Broker]]:
    """Connections for data and for control: two, also where both go to the same account, so that control messages do
    not queue behind tensors in one socket."""
    data = await connect(broker, name=name)
    try:
        control = await connect(control_broker or broker, name=f"{name}-control")
        try:
            yield data, control
        finally:
            await control.close()
    finally:
        await data.close()


async def run_controller(settings: ControllerSettings, bundle: Bundle, graph: ModelGraph) -> None:
    """Serve until cancelled. Where the broker keeps leases, of several controllers of a pipeline one serves, and the
    others stand by for it.

    Raises:
        BrokerUnreachableError: no broker answers.
        PipelineTakenError: another controller serves it, and this one was not started to stand by.
        ModelError: the model cannot be split as asked.
        NoJetStreamError: delivery is `durable`, and the broker stores nothing.
        NoLeaseError: it was started to stand by, and the broker keeps no leases.
    """
    check_stages(graph, settings.stages)
    name = f"understudy-{settings.pipeline}-controller"
    async with both_brokers(settings.broker, settings.control_broker, name=name) as (data, control):
        await _prepare_delivery(data, settings)

        async def is_served() -> bool:
            try:
                return settings.pipeline in await statuses(data, until=settings.pipeline, listen_s=LISTEN_S)
            except BrokerError:
                return True  # not connected: there is nothing that we could serve

        term = await Term.open(control, settings.pipeline, needed=settings.standby, is_served=is_served)
        if not settings.standby and not await term.try_begin():
            await _check_free(data, settings.pipeline)
        # Before it is needed: a controller that takes over has no time to read a model.
        store = BlobStore(settings.cache)
        exchange = BlobExchange(data, store)
        source = await SubmodelSource.open(bundle, graph, exchange, store)
        async with Versions(
            pipeline=settings.pipeline,
            control=control,
            manifest=bundle.manifest.to_json(),
            source=source,
            exchange=exchange,
            store=store,
            stages=settings.stages,
        ) as versions:
            while True:
                await term.begin()
                await term.serve(_serve(settings, data, control, versions, term))


async def _serve(settings: ControllerSettings, data: Broker, control: Broker, versions: Versions, term: Term) -> None:
    """One term, until cancelled."""
    control_url = settings.control_broker or settings.broker
    try:
        service = RecoveryService(
            pipeline=settings.pipeline,
            data=data,
            control_broker=control,
            source=await versions.begin(),
            policy=settings.policy,
            flow=settings.flow,
            planner_for=lambda chain: PipelinePlanner(
                chain,
                stages=settings.stages,
                max_payload_bytes=data.max_payload_bytes - HEADER_RESERVE_BYTES,
                cluster=settings.cluster,
                max_codec_loss=settings.policy.objectives.max_codec_loss,
                given=settings.plan,
            ),
            cluster=settings.cluster,
            # An MQTT broker tells of wills to everybody.
            system_url=settings.system_broker or (control_url if is_mqtt(control_url) else None),
        )
        rollout = Rollout(pipeline=settings.pipeline, control=control, service=service, versions=versions)
        async with asyncio.TaskGroup() as group:
            group.create_task(service.run(), name="recovery-service")
            group.create_task(rollout.run(), name="rollout")
    except asyncio.CancelledError:
        # Who has lost the lease must not disturb the next one; who has failed is started again.
        await versions.end(stopped=term.held)
        raise


async def _prepare_delivery(data: Broker, settings: ControllerSettings) -> None:
    if settings.flow.delivery == "durable":
        await Feed(data, settings.pipeline, settings.flow.store).make_streams()
        return
    try:
        left = await JetStream(data).stream_state(subjects.input_stream(settings.pipeline))
    except (BrokerError, NoJetStreamError):
        return
    if left is not None:
        hint = "they are from a time of durable delivery: serve them with it, or delete the stream"
        log.warning("stored-frames-are-not-served", frames=left["messages"], hint=hint)


async def _check_free(data: Broker, pipeline: str) -> None:
    if pipeline in await statuses(data, until=pipeline, listen_s=LISTEN_S):
        raise PipelineTakenError(
            f"pipeline '{pipeline}' has a controller at {data.url} already: stop that one, choose another --pipeline, "
            f"or add --standby to take over from it should it end"
        )
