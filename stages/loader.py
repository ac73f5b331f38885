"""Turns an assignment into a deployment: fetch what is missing, load it, warm it up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

from broker.control import Assignment, BlobRef, StageAssignment
from stages.blobs import BlobExchange
from stages.deployment import Deployment
from stages.engine import Engine
from stages.errors import ModelError
from stages.flow import choose_flow
from stages.memory import trim
from stages.spec import PipelineSpec
from stages.worker import Deliver, StageWorker, WorkerCounters


class Loader:
    """Loads stages for one node. Engines are kept while a deployment uses them: a stage that stays the same from one
    epoch to the next is not loaded again."""

    def __init__(
        self,
        *,
        node: str,
        exchange: BlobExchange,
        executor: Executor,
        counters: WorkerCounters,
        threads: int,
        providers: Sequence[str],
    ) -> None:
        self._node = node
        self._exchange = exchange
        self._executor = executor
        self._counters = counters
        self._threads = threads
        self._providers = tuple(providers)
        self._engines: dict[BlobRef, Engine] = {}

    async def load(self, assignment: Assignment, deliver: Deliver) -> Deployment:
        """Fetch and load everything that the assignment names.

        Raises:
            UnderstudyError: something cannot be fetched or loaded; says what.
        """
        spec = PipelineSpec.from_json(await self._exchange.get(assignment.spec))
        _check_blocks(assignment, spec)
        cuts = tuple(hop.cut for hop in assignment.route.hops[:-1])
        flow = choose_flow(assignment.flow, spec, cuts)
        workers: dict[int, StageWorker] = {}
        for stage in assignment.stages:
            workers[stage.first_block] = StageWorker(
                node=self._node,
                first_block=stage.first_block,
                end_block=stage.end_block,
                spec=spec,
                flow=flow,
                engine=await self._engine(stage, spec),
                executor=self._executor,
                deliver=deliver,
                counters=self._counters,
            )
        return Deployment(assignment=assignment, spec=spec, flow=flow, workers=workers)

    def forget(self, used: Sequence[Assignment]) -> None:
        """Drop the engines that none of these assignments names."""
        kept = {stage.submodel for assignment in used for stage in assignment.stages}
        self._engines = {blob: engine for blob, engine in self._engines.items() if blob in kept}

    async def _engine(self, stage: StageAssignment, spec: PipelineSpec) -> Engine:
        engine = self._engines.get(stage.submodel)
        if engine is None:
            model = await self._exchange.get(stage.submodel)
            # In a thread of its own: the worker's thread may be serving an earlier epoch meanwhile.
            engine = await asyncio.to_thread(self._load, model, stage, spec)
            self._engines[stage.submodel] = engine
        return engine

    def _load(self, model: bytes, stage: StageAssignment, spec: PipelineSpec) -> Engine:
        outputs = spec.cuts[stage.end_block]
        engine = Engine.load(model, outputs=outputs, threads=self._threads, providers=self._providers)
        engine.warm_up(spec.cuts[stage.first_block])
        trim()
        return engine


def _check_blocks(assignment: Assignment, spec: PipelineSpec) -> None:
    ends = [stage.end_block for stage in assignment.stages]
    if assignment.route.hops[-1].cut != spec.blocks or any(end > spec.blocks for end in ends):
        raise ModelError(f"the assignment of epoch {assignment.epoch} does not fit a model of {spec.blocks} blocks")
