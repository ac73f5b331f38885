"""What a way of answering that was really taken is worth: the parts on its path, run on images that no fit has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.prepared import Unseen
from bench.recovery.cluster import Ready
from planner.part import Part, Technique, stage_part
from stages.bundle import Bundle
from stages.fitting import part_of, quantised, skip_model
from stages.fitting.activations import Runner
from stages.graph import ModelGraph
from stages.manifest import PartRecord

Span = tuple[str, int, int]
"""A node, and the blocks [first, end) that it answered for."""


def spans(hops: Sequence[tuple[str, int]], blocks: int) -> list[Span]:
    ends = [cut for _, cut in hops[1:]] + [blocks]
    return [(node, cut, end) for (node, cut), end in zip(hops, ends, strict=True)]


def parts_on(hops: Sequence[tuple[str, int]], ready: Ready, known: Mapping[str, Part], blocks: int) -> list[Part]:
    """The parts that a result's path went through: a stage, or the most accurate spare of these blocks that its node
    holds (results do not name parts).

    Raises:
        LookupError: the node held none of these blocks.
    """
    found = []
    for node, first, end in spans(hops, blocks):
        if ready.stages.get(node) == (first, end):
            found.append(known[f"stage:{first}-{end}"])
            continue
        held = [known[name] for name in ready.spares.get(node, ()) if name.split(":")[1] == f"{first}-{end}"]
        if not held:
            raise LookupError(f"{node} holds nothing for blocks {first}-{end}")
        found.append(max(held, key=lambda part: (part.accuracy or (part.technique == "standby"), part.name)))
    return found


@dataclass(slots=True)
class Judge:
    """Runs paths of parts on labelled images, and remembers."""

    bundle: Bundle
    unseen: Unseen
    _graph: ModelGraph = field(init=False)
    _records: dict[str, PartRecord] = field(init=False)
    _values: dict[tuple[str, ...], NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._graph = ModelGraph.load(self.bundle.model_path, shapes=self.bundle.manifest.shapes or None)
        self._records = {part_of(record).name: record for record in self.bundle.manifest.parts}

    @property
    def blocks(self) -> int:
        return len(self._graph.blocks)

    def known(self, ready: Ready) -> dict[str, Part]:
        """Parts by name: the bundle's, and the stages, copies and skips that every plan has."""
        found = {name: part_of(record) for name, record in self._records.items()}
        chain = self._graph.chain()
        for first, end in ready.stages.values():
            names: tuple[Technique, ...] = ("none", "standby")
            for part in (stage_part(chain, first, end, technique) for technique in names):
                found.setdefault(part.name, part)
        for part_name in {name for parts in ready.spares.values() for name in parts} - set(found):
            technique, blocks, *variant = part_name.split(":")
            first, end = map(int, blocks.split("-"))
            found[part_name] = Part(
                technique=technique,  # type: ignore[arg-type]  # the controller's log names parts as `Part.name` does
                first_block=first,
                end_block=end,
                variant=variant[0] if variant else "",
            )
        return found

    def accuracy(self, parts: Sequence[Part]) -> float:
        """The share of right answers of this path."""
        right = self._answers(parts) == np.asarray(self.unseen.labels)
        return float(np.mean(right))

    def noise(self, parts: Sequence[Part]) -> float:
        """One standard error of how far this path's accuracy is from the healthy network's: from the images of which
        only one of the two is right."""
        labels = np.asarray(self.unseen.labels)
        whole = [stage_part(self._graph.chain(), 0, self.blocks)]
        right, healthy = (self._answers(path) == labels for path in (parts, whole))
        return float(np.sqrt(np.count_nonzero(right != healthy)) / len(labels))

    def _answers(self, parts: Sequence[Part]) -> NDArray[Any]:
        value = self.unseen.inputs
        names: tuple[str, ...] = ()
        for part in parts:
            names = (*names, part.name)
            if names not in self._values:
                self._values[names] = self._run(part, value)
            value = self._values[names]
        answers: NDArray[Any] = value.reshape(len(value), -1).argmax(axis=1)
        return answers

    def _run(self, part: Part, value: NDArray[Any]) -> NDArray[Any]:
        graph = self._graph
        source, target = (graph.cuts[cut].tensors[0] for cut in (part.first_block, part.end_block))
        model = model_of(self.bundle, graph, part, self._records.get(part.name))
        return Runner(model, source, target, batched=graph.dynamic_batch)(value)


def model_of(bundle: Bundle, graph: ModelGraph, part: Part, record: PartRecord | None) -> bytes:
    """The part as ONNX: from the bundle's file where `record` names one, else made from the network."""
    first, end = part.first_block, part.end_block
    if record is not None and record.file is not None:
        return bundle.path(record.file).read_bytes()
    if part.variant:
        return quantised(graph, first, end, 8 if part.variant == "int8" else 4)
    return skip_model(graph, first, end) if part.technique == "skip" else graph.submodel(first, end)
