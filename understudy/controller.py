"""The controller role: a model, a recovery service, and the connections between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from broker.activation import HEADER_RESERVE_BYTES
from broker.connect import connect
from broker.control import FlowSettings
from broker.errors import UnderstudyError
from broker.port import Broker
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

LISTEN_S = 0.3
"""How long a starting controller waits for another one's answer."""


class PipelineTakenError(UnderstudyError):
    """Another controller serves the pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """What a controller serves, and where.

    Attributes:
        control_broker: None if the broker has no control account.
        cluster: speeds and links of the nodes, by name; None: all nodes are equal and links are not counted.
    """

    pipeline: str
    broker: str
    control_broker: str | None = None
    stages: int | None = None
    cluster: Cluster | None = None
    expected_nodes: int = 1
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
    """Serve until cancelled.

    Raises:
        BrokerUnreachableError: no broker answers.
        PipelineTakenError: another controller serves it.
        ModelError: the model cannot be split as asked.
    """
    check_stages(graph, settings.stages)
    name = f"understudy-{settings.pipeline}-controller"
    async with both_brokers(settings.broker, settings.control_broker, name=name) as (data, control):
        await _check_free(data, settings.pipeline)
        store = BlobStore(settings.cache)
        exchange = BlobExchange(data, store)
        source = await SubmodelSource.open(bundle, graph, exchange, store)
        service = RecoveryService(
            pipeline=settings.pipeline,
            data=data,
            control_broker=control,
            source=source,
            policy=Policy(expected_nodes=settings.expected_nodes),
            flow=settings.flow,
            planner=PipelinePlanner(
                source.chain,
                stages=settings.stages,
                max_payload_bytes=data.max_payload_bytes - HEADER_RESERVE_BYTES,
                cluster=settings.cluster,
            ),
        )
        await service.run()


async def _check_free(data: Broker, pipeline: str) -> None:
    if pipeline in await statuses(data, until=pipeline, listen_s=LISTEN_S):
        raise PipelineTakenError(
            f"pipeline '{pipeline}' has a controller at {data.url} already: stop that one, or choose another --pipeline"
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
