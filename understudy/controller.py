"""The controller role: a model, a recovery service, and the connections between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.activation import HEADER_RESERVE_BYTES
from broker.connect import connect
from broker.control import FlowSettings
from broker.errors import UnderstudyError
from broker.port import Broker
from broker.url import is_mqtt
from planner.cluster import Cluster
from recovery.decide import Policy
from recovery.service import RecoveryService
from stages.blobs import BlobExchange, BlobStore
from stages.bundle import Bundle
from stages.errors import ModelError
from stages.graph import ModelGraph
from stages.source import SubmodelSource
from understudy.discovery import statuses
from understudy.planning import PipelinePlanner
from understudy.rollout import Rollout
from understudy.term import Term

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
    """

    pipeline: str
    broker: str
    control_broker: str | None = None
    system_broker: str | None = None
    stages: int | None = None
    cluster: Cluster | None = None
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
        NoLeaseError: it was started to stand by, and the broker keeps no leases.
    """
    check_stages(graph, settings.stages)
    name = f"understudy-{settings.pipeline}-controller"
    control_url = settings.control_broker or settings.broker
    async with both_brokers(settings.broker, settings.control_broker, name=name) as (data, control):
        term = await Term.open(control, settings.pipeline, needed=settings.standby)
        if not settings.standby and not await term.try_begin():
            await _check_free(data, settings.pipeline)
        # Before it is needed: a controller that takes over has no time to read a model.
        store = BlobStore(settings.cache)
        exchange = BlobExchange(data, store)
        source = await SubmodelSource.open(bundle, graph, exchange, store)
        while True:
            await term.begin()
            service = RecoveryService(
                pipeline=settings.pipeline,
                data=data,
                control_broker=control,
                source=source,
                policy=settings.policy,
                flow=settings.flow,
                planner_for=lambda chain: PipelinePlanner(
                    chain,
                    stages=settings.stages,
                    max_payload_bytes=data.max_payload_bytes - HEADER_RESERVE_BYTES,
                    cluster=settings.cluster,
                ),
                cluster=settings.cluster,
                # The broker tells of wills to everybody.
                system_url=settings.system_broker or (control_url if is_mqtt(control_url) else None),
            )
            rollout = Rollout(
                pipeline=settings.pipeline,
                control=control,
                service=service,
                exchange=exchange,
                store=store,
                stages=settings.stages,
            )
            await term.serve(_both(service.run(), rollout.run()))


async def _both(service: Coroutine[Any, Any, None], rollout: Coroutine[Any, Any, None]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(service, name="recovery-service")
        group.create_task(rollout, name="rollout")


async def _check_free(data: Broker, pipeline: str) -> None:
    if pipeline in await statuses(data, until=pipeline, listen_s=LISTEN_S):
        raise PipelineTakenError(
            f"pipeline '{pipeline}' has a controller at {data.url} already: stop that one, choose another --pipeline, "
            f"or add --standby to take over from it should it end"
        )


def check_stages(graph: ModelGraph, stages: int | None) -> None:
    """Raises ModelError where the model has fewer blocks than stages are asked for."""
    blocks = len(graph.blocks)
    if stages is None or stages <= blocks:
        return
    if blocks == 1:
        raise ModelError(f"model '{graph.name}' has no cut: it can only run in one stage, not in {stages}")
    raise ModelError(f"model '{graph.name}' can be cut into at most {blocks} stages, {stages} were asked for")


async def load_model(bundle: Bundle) -> ModelGraph:
    """Read and cut the bundle's model, off the event loop."""
    return await asyncio.to_thread(ModelGraph.load, bundle.model_path, shapes=bundle.manifest.shapes)
