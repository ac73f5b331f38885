"""Turns an assignment into a deployment: fetch what is missing, load it, warm it up; and keeps spares loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from broker.control import Assignment, BlobRef, PartRef
from stages.blobs import BlobExchange
from stages.deployment import Deployment
from stages.engine import Engine
from stages.errors import ModelError
from stages.flow import choose_flow
from stages.memory import trim
from stages.spec import PipelineSpec
from stages.worker import Deliver, Packing, StageWorker, WorkerCounters


class Loader:
    """Loads parts for one node. An engine is kept while a deployment uses it or it is a spare: a part that stays the
    same from one epoch to the next is not loaded again, and a route over spares needs no loading at all."""

    def __init__(
        self,
        *,
        node: str,
        exchange: BlobExchange,
        executor: Executor,
        counters: WorkerCounters,
        threads: int,
        providers: Sequence[str],
        message_bytes: Callable[[], int],
    ) -> None:
        """`message_bytes`: the most that the tensors of one message may have."""
        self._node = node
        self._exchange = exchange
        self._executor = executor
        self._counters = counters
        self._threads = threads
        self._providers = tuple(providers)
        self._message_bytes = message_bytes
        self._engines: dict[BlobRef, Engine] = {}
        self._specs: dict[BlobRef, PipelineSpec] = {}
        self._loading = asyncio.Lock()

    async def load(self, assignment: Assignment, deliver: Deliver) -> Deployment:
        """Fetch and load everything that the assignment names.

        Raises:
            UnderstudyError: something cannot be fetched or loaded; says what.
        """
        await self._specify(assignment.spec)
        _check_blocks(assignment, self._specs[assignment.spec])
        for part in assignment.route.parts_on(self._node):
            await self.keep(part, assignment.spec)
        deployment = self.assemble(assignment, deliver)
        assert deployment is not None  # noqa: S101 - everything was loaded just now
        return deployment

    def assemble(self, assignment: Assignment, deliver: Deliver) -> Deployment | None:
        """The deployment where all that it needs is loaded already, else None."""
        spec = self._specs.get(assignment.spec)
        parts = assignment.route.parts_on(self._node)
        if spec is None or any(part.model not in self._engines for part in parts):
            return None
        flow = choose_flow(assignment.flow, spec, tuple(hop.part.first_block for hop in assignment.route.hops))
        workers = {
            part.first_block: StageWorker(
                node=self._node,
                first_block=part.first_block,
                end_block=part.end_block,
                spec=spec,
                flow=flow,
                engine=self._engines[part.model],
                executor=self._executor,
                deliver=deliver,
                counters=self._counters,
                packing=self._packing(assignment, part),
            )
            for part in parts
        }
        return Deployment(assignment=assignment, spec=spec, flow=flow, workers=workers)

    def _packing(self, assignment: Assignment, part: PartRef) -> Packing | None:
        codec = assignment.route.codec_from(self._node, part.end_block)
        return None if codec == "none" else Packing(codec=codec, limit_bytes=self._message_bytes)

    async def keep(self, part: PartRef, spec: BlobRef) -> None:
        """Have the part's engine loaded, and warm.

        Raises:
            UnderstudyError: it cannot be fetched or loaded; says what.
        """
        await self._specify(spec)
        if part.end_block > self._specs[spec].blocks:
            raise ModelError(f"part {part.part} does not fit a model of {self._specs[spec].blocks} blocks")
        async with self._loading:
            if part.model in self._engines:
                return
            model = await self._exchange.get(part.model)
            # In a thread of its own: the worker's thread may be serving an earlier epoch meanwhile.
            self._engines[part.model] = await asyncio.to_thread(self._load, model, part, self._specs[spec])

    def forget(self, used: Sequence[PartRef]) -> None:
        """Drop the engines of all other parts."""
        kept = {part.model for part in used}
        self._engines = {blob: engine for blob, engine in self._engines.items() if blob in kept}

    async def _specify(self, ref: BlobRef) -> None:
        if ref not in self._specs:
            self._specs[ref] = PipelineSpec.from_json(await self._exchange.get(ref))

    def _load(self, model: bytes, part: PartRef, spec: PipelineSpec) -> Engine:
        outputs = spec.cuts[part.end_block]
        engine = Engine.load(model, outputs=outputs, threads=self._threads, providers=self._providers)
        engine.warm_up(spec.cuts[part.first_block])
        trim()
        return engine


def _check_blocks(assignment: Assignment, spec: PipelineSpec) -> None:
    if assignment.route.blocks != spec.blocks:
        raise ModelError(
            f"the route of epoch {assignment.epoch} has {assignment.route.blocks} blocks, the model {spec.blocks}"
        )
