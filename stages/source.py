"""Where sub-models come from: cut from the model on demand, kept by hash, offered to the nodes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from broker.control import BlobRef
from planner.chain import Chain
from planner.part import Part, stage_part
from planner.plan import Plan
from stages.blobs import BlobExchange, BlobStore
from stages.bundle import Bundle
from stages.chain import chain_of
from stages.engine import Engine
from stages.errors import FrameError, ModelError
from stages.fitting import can_skip, part_of, quantised, skip_model
from stages.graph import ModelGraph
from stages.manifest import CALIBRATION_FILE, Accuracy, Manifest, PartRecord
from stages.refit import refit
from stages.spec import PipelineSpec


class SubmodelSource:
    """The controller's side of a model. Make it with `open`."""

    def __init__(
        self, graph: ModelGraph, bundle: Bundle, exchange: BlobExchange, store: BlobStore, spec: PipelineSpec
    ) -> None:
        self._bundle = bundle
        self._graph = graph
        self._manifest = bundle.manifest
        self._exchange = exchange
        self._store = store
        self._made: dict[str, BlobRef] = {}
        self._records: dict[str, PartRecord] = {}
        self._refitted: set[tuple[int, int]] = set()
        self._lock = asyncio.Lock()
        self.chain: Chain = chain_of(graph, bundle.manifest)
        self.part_seconds = _by_part(bundle.manifest)
        self.spec: BlobRef = store.put(spec.to_json())

    @classmethod
    async def open(cls, bundle: Bundle, graph: ModelGraph, exchange: BlobExchange, store: BlobStore) -> SubmodelSource:
        """Check whether frames may be stacked, and offer the specification.

        Raises:
            EngineError: onnxruntime cannot load the model.
        """
        stackable = graph.dynamic_batch and await asyncio.to_thread(_frames_are_independent, graph)
        spec = PipelineSpec.of(graph, bundle.manifest, dynamic_batch=stackable)
        source = cls(graph, bundle, exchange, store, spec)
        await asyncio.to_thread(source._take_parts, bundle)
        await exchange.offer(source.spec)
        return source

    def _take_parts(self, bundle: Bundle) -> None:
        """Read the fitted parts: the bundle's folder may be gone when they are needed."""
        for record in bundle.manifest.parts:
            self._take_part(record, None if record.file is None else bundle.path(record.file).read_bytes())

    def _take_part(self, record: PartRecord, model: bytes | None) -> None:
        """Into the catalogue; `model` is None for what is made from the network."""
        name = part_of(record).name
        self._records[name] = record
        if model is not None and record.file is not None:
            self._made[name] = self._store.put(model)

    @property
    def healthy(self) -> Accuracy | None:
        """The accuracy of the whole network, to compare parts with; None: it was never measured."""
        return self._manifest.accuracy or self._manifest.held_out

    def catalogue(self, plan: Plan) -> list[Part]:
        """The parts that may stand by: those of the bundle, and for this plan's stages also what needs no fitting."""
        found = {
            part.name: part for stage in plan.stages for part in self._unfitted(stage.first_block, stage.end_block)
        }
        found |= {name: self._anchored(part_of(record)) for name, record in self._records.items()}
        return list(found.values())

    def _anchored(self, part: Part) -> Part:
        """With its accuracy relative to the network's own. The parts may have been measured on other images than that,
        such as some that the network was trained on, which flatter all of them alike."""
        healthy, reference = self.healthy, self._manifest.held_out
        if healthy is None or reference is None or part.accuracy is None or reference.value == 0:
            return part
        factor = healthy.value / reference.value
        numbers = {name: getattr(part, name) for name in ("accuracy", "low", "high")}
        scaled = {name: None if value is None else min(1.0, value * factor) for name, value in numbers.items()}
        return replace(part, accuracy=scaled["accuracy"], low=scaled["low"], high=scaled["high"])

    async def refine(self, plan: Plan) -> int:
        """Fit parts for stages of this plan that have none, in a process of its own with the least priority. How many
        are new in the catalogue; 0 where the bundle has no calibration data.

        Raises:
            UnderstudyError: fitting failed.
        """
        fitted = {(record.first_block, record.end_block) for record in self._records.values()}
        spans = [(stage.first_block, stage.end_block) for stage in plan.stages]
        missing = [span for span in spans if span not in fitted and span not in self._refitted]
        if not missing or CALIBRATION_FILE not in self._manifest.files or self._bundle.folder is None:
            return 0
        self._refitted.update(missing)
        parts = await refit(self._bundle, missing)
        fresh = [part for part in parts if part_of(part.record).name not in self._records]
        for part in fresh:
            await asyncio.to_thread(self._take_part, part.record, part.model)
        return len(fresh)

    async def model(self, part: Part) -> BlobRef:
        """Make, store and offer the part's model.

        Raises:
            ModelError: it cannot be made.
        """
        async with self._lock:
            ref = self._made.get(part.name)
            if ref is None:
                data = await asyncio.to_thread(self._make, part)
                ref = self._made[part.name] = await asyncio.to_thread(self._store.put, data)
            await self._exchange.offer(ref)
            return ref

    def _make(self, part: Part) -> bytes:
        first, end = part.first_block, part.end_block
        match part.technique, part.variant:
            case (("none" | "standby"), ""):
                return self._graph.submodel(first, end)
            case "standby", "int8":
                return quantised(self._graph, first, end, 8)
            case "standby", "int4":
                return quantised(self._graph, first, end, 4)
            case "skip", _:
                return skip_model(self._graph, first, end)
        raise ModelError(f"the bundle of '{self._graph.name}' has no part {part.name}")

    def _unfitted(self, first: int, end: int) -> list[Part]:
        """A copy of the stage, and the identity where shapes match: they need no calibration data."""
        copy = stage_part(self.chain, first, end, "standby")
        if not can_skip(self._graph, first, end):
            return [copy]
        skip = Part(technique="skip", first_block=first, end_block=end, peak_bytes=2 * self.chain.cut_bytes[first])
        return [copy, skip]


def _by_part(manifest: Manifest) -> dict[str, dict[str, float]]:
    """Part name to node to seconds."""
    found: dict[str, dict[str, float]] = {}
    for node, profile in manifest.profile.items():
        for part, seconds in profile.part_seconds.items():
            found.setdefault(part, {})[node] = seconds
    return found


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
