"""Fitted parts: an ONNX model and the record that the manifest keeps of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from planner.part import Part
from stages.graph import ModelGraph
from stages.manifest import Accuracy, PartRecord, PartTechnique
from stages.memory import ARENA_FACTOR

BITS = {TensorProto.INT4: 4, TensorProto.UINT4: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPart:
    """A part as a model with the contract of `ModelGraph.submodel(first_block, end_block)`.

    Attributes:
        record: what the manifest says of it.
        model: serialised ONNX.
    """

    record: PartRecord
    model: bytes

    def with_accuracy(self, accuracy: Accuracy) -> FittedPart:
        return FittedPart(record=self.record.model_copy(update={"accuracy": accuracy}), model=self.model)


def part_of(record: PartRecord) -> Part:
    """The record as the planner sees it."""
    accuracy = record.accuracy
    return Part(
        technique=record.technique,
        first_block=record.first_block,
        end_block=record.end_block,
        variant=record.variant,
        memory_bytes=record.memory_bytes,
        peak_bytes=record.peak_bytes,
        flops=record.flops,
        accuracy=None if accuracy is None else accuracy.value,
        low=None if accuracy is None else accuracy.low,
        high=None if accuracy is None else accuracy.high,
    )


def fitted(model: bytes, technique: PartTechnique, first: int, end: int, variant: str) -> FittedPart:
    """A stand-in or an exit, with its costs read from its graph; it is kept in a file of the bundle."""
    graph = ModelGraph.from_model(onnx.load_model_from_string(model), name="part")
    record = PartRecord(
        technique=technique,
        first_block=first,
        end_block=end,
        variant=variant,
        file=f"parts/{technique}-{first}-{end}-{variant}.onnx",
        memory_bytes=weight_bytes(model),
        peak_bytes=math.ceil(ARENA_FACTOR * max(block.peak_bytes for block in graph.blocks)),
        flops=sum(block.flops for block in graph.blocks),
    )
    return FittedPart(record=record, model=model)


def derived(
    graph: ModelGraph, model: bytes, technique: PartTechnique, first: int, end: int, variant: str
) -> FittedPart:
    """A skip or a standby: made from the network where it is wanted, so that no file holds it."""
    blocks = graph.blocks[first:end] if technique == "standby" else ()
    crossing = 2 * graph.cuts[first].size_bytes
    # A quantised weight becomes float32 in working memory while it is used.
    unpacked = max((block.memory_bytes for block in blocks), default=0) if variant.startswith("int") else 0
    record = PartRecord(
        technique=technique,
        first_block=first,
        end_block=end,
        variant=variant,
        memory_bytes=weight_bytes(model),
        peak_bytes=math.ceil(ARENA_FACTOR * max((block.peak_bytes for block in blocks), default=crossing)) + unpacked,
        flops=sum(block.flops for block in blocks),
    )
    return FittedPart(record=record, model=model)


def weight_bytes(model: bytes) -> int:
    """Bytes of a model's initializers, packed as they are in the file."""
    total = 0
    for tensor in onnx.load_model_from_string(model).graph.initializer:
        elements = math.prod(tensor.dims)
        bits = BITS.get(tensor.data_type)
        total += math.ceil(elements * (bits or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) / 8)
    return total
