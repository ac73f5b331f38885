"""Where sub-models come from: cut from the model on demand, kept by hash, offered to the nodes."""

from __future__ import annotations

import asyncio

import numpy as np

from broker.control import BlobRef
from planner.chain import Chain
from stages.blobs import BlobExchange, BlobStore
from stages.bundle import Bundle
from stages.engine import Engine
from stages.errors import FrameError
from stages.graph import ModelGraph
from stages.spec import PipelineSpec


class SubmodelSource:
    """The controller's side of a model. Make it with `open`."""

    def __init__(self, graph: ModelGraph, exchange: BlobExchange, store: BlobStore, spec: PipelineSpec) -> None:
        self._graph = graph
        self._exchange = exchange
        self._store = store
        self._cut: dict[tuple[int, int], BlobRef] = {}
        self._lock = asyncio.Lock()
        self.chain: Chain = graph.chain()
        self.spec: BlobRef = store.put(spec.to_json())

    @classmethod
    async def open(cls, bundle: Bundle, graph: ModelGraph, exchange: BlobExchange, store: BlobStore) -> SubmodelSource:
        """Check whether frames may be stacked, and offer the specification.

        Raises:
            EngineError: onnxruntime cannot load the model.
        """
        stackable = graph.dynamic_batch and await asyncio.to_thread(_frames_are_independent, graph)
        source = cls(graph, exchange, store, PipelineSpec.of(graph, bundle.manifest, dynamic_batch=stackable))
        await exchange.offer(source.spec)
        return source

    async def submodel(self, first_block: int, end_block: int) -> BlobRef:
        """Cut, store and offer the sub-model of blocks [first_block, end_block)."""
        async with self._lock:
            ref = self._cut.get((first_block, end_block))
            if ref is None:
                data = await asyncio.to_thread(self._graph.submodel, first_block, end_block)
                ref = self._cut[first_block, end_block] = await asyncio.to_thread(self._store.put, data)
            await self._exchange.offer(ref)
            return ref


def _frames_are_independent(graph: ModelGraph) -> bool:
    """Whether a batch of two different frames gives what the two give alone. An open first dimension may also be a
    sequence, or a network may mix its batch: then frames must not be stacked."""
    engine = Engine.load(graph.submodel(0, len(graph.blocks)), outputs=graph.outputs)
    random = np.random.default_rng(0)
    singles = [{spec.name: _sample(random, spec.example_shape, spec.dtype) for spec in graph.inputs} for _ in range(2)]
    try:
        alone = [engine.run(single) for single in singles]
        both = engine.run({name: np.concatenate([single[name] for single in singles]) for name in singles[0]})
        return all(
            np.allclose(both[name], np.concatenate([one[name] for one in alone]), rtol=1e-3, atol=1e-4, equal_nan=True)
            for name in both
        )
    except (FrameError, ValueError):
        return False


def _sample(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray[tuple[int, ...], np.dtype]:
    kind = np.dtype(dtype)
    return random.random(shape).astype(kind) if kind.kind == "f" else np.ones(shape, kind)
