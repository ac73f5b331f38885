"""A model as blocks and cuts (SEIFER, arXiv 2304.11941, section III): read from an ONNX file, for any network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from planner.chain import Chain
from stages import cost
from stages.cuts import Profile, choose_cuts
from stages.dataflow import Dataflow
from stages.errors import ModelError
from stages.inputs import SUPPORTED
from stages.memory import ARENA_FACTOR
from stages.residual import is_skippable
from stages.shapes import resolve_shapes
from stages.submodel import MAX_MODEL_BYTES, extract
from stages.tensor import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# They change how a result is laid out, not what it says.
LAYOUT_OPS = frozenset({"Reshape", "Flatten", "Squeeze", "Identity"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A boundary between two blocks.

    Attributes:
        index: 0 (the input) .. B (the output).
        tensors: what crosses it, which is the activation: at cut 0 and B in the file's order; in between the inputs
            that are used later, then in the order in which the nodes make them. A graph output that is made early
            crosses all later cuts.
    """

    index: int
    tensors: tuple[TensorSpec, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of one frame's activation."""
        return sum(tensor.size_bytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The nodes between two neighbouring cuts.

    Attributes:
        index: 0 .. B - 1.
        ops: operator type -> how many of it, in the order of first use; static nodes do not count.
        parameters: elements of the weights that it reads, each tensor once.
        memory_bytes: bytes of all static tensors that it reads, each once.
        peak_bytes: largest sum of live activations while its nodes run one by one, for one frame.
        flops: floating-point operations for one frame; a multiply-add is two.
        skippable: the identity can replace it: shapes match and it adds its result to its input.
        nodes: indices of its nodes in canonical order (`Dataflow.nodes`).
    """

    index: int
    ops: Mapping[str, int]
    parameters: int
    memory_bytes: int
    peak_bytes: int
    flops: int
    skippable: bool
    nodes: tuple[int, ...]


class ModelGraph:
    """One ONNX model, cut into blocks.

    Attributes:
        name: the file's stem, or the name that was given.
        inputs: the real inputs; initializers that the file lists as inputs are not among them.
        outputs: the graph outputs.
        cuts: B + 1 cuts.
        blocks: B >= 1 blocks; one if the model has no place to cut.
        dynamic_batch: every tensor of every cut has the same open first dimension, and no other dimension follows it:
            frames can be stacked. It cannot tell whether the model mixes the frames of a batch.
        ends_in_softmax: the single output is a Softmax, but for reshaping.
    """

    def __init__(self, model: ModelProto, *, name: str, shapes: Mapping[str, Sequence[int]] | None) -> None:
        """For internal use: `load` and `from_model` check the model first; `model` must not change afterwards."""
        self.name = name
        self._model = model
        self._flow = Dataflow.of(model)
        self._check()
        self._functions = {(function.domain, function.name): function for function in model.functions}
        resolved = resolve_shapes(model, self._flow, shapes)
        self._specs = resolved.specs
        self._check_ends()
        self._ends = self._choose_boundaries()
        self.inputs = self._spec_tuple(self._flow.inputs)
        self.outputs = self._spec_tuple(self._flow.outputs)
        self.cuts = tuple(
            Cut(index=index, tensors=self._spec_tuple(self._flow.crossing(boundary)))
            for index, boundary in enumerate(self._ends)
        )
        self.blocks = tuple(self._block(index, *span) for index, span in enumerate(self._spans()))
        self.dynamic_batch = all(tensor.name in resolved.batched for cut in self.cuts for tensor in cut.tensors)
        self.ends_in_softmax = self._has_softmax_end()

    @classmethod
    def load(cls, path: Path, *, shapes: Mapping[str, Sequence[int]] | None = None) -> ModelGraph:
        """Reads an ONNX file, with its external data if it has any.

        Args:
            path: the file.
            shapes: input name -> shape of one frame. Without it every open dimension counts as 1.

        Raises:
            ModelError: the file is missing, not ONNX, invalid, or a tensor cannot be sent; the message says which.
        """
        if path.is_dir():
            raise ModelError(f"'{path}' is a directory: name the .onnx file in it")
        if not path.is_file():
            raise ModelError(f"there is no model file '{path}'")
        try:
            model = onnx.load(path, format="protobuf")
        except Exception as error:
            raise ModelError(f"'{path}' cannot be read as an ONNX model: {error}") from error
        return cls(model, name=path.stem, shapes=shapes)

    @classmethod
    def from_model(
        cls, model: ModelProto, *, name: str, shapes: Mapping[str, Sequence[int]] | None = None
    ) -> ModelGraph:
        """The same for a model in memory, which is copied. Raises ModelError."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return cls(copy, name=name, shapes=shapes)

    def chain(self) -> Chain:
        """The model as the planner sees it, with memory as onnxruntime needs it (see `stages.memory`)."""
        return Chain(
            name=self.name,
            cut_bytes=tuple(cut.size_bytes for cut in self.cuts),
            block_memory_bytes=tuple(block.memory_bytes for block in self.blocks),
            block_peak_bytes=tuple(math.ceil(ARENA_FACTOR * block.peak_bytes) for block in self.blocks),
            block_flops=tuple(block.flops for block in self.blocks),
        )

    def submodel(self, first_block: int, end_block: int) -> bytes:
        """The blocks [first_block, end_block) as a serialised ONNX model; the same bytes every time.

        Its inputs are the tensors of cut `first_block`, its outputs those of cut `end_block`, in their order. A tensor
        that only passes through is both an input and an output, and one that is not read still is an input:
        onnxruntime takes and returns them for every dtype.

        Raises:
            ModelError: the range is empty or outside the model, or the result is above protobuf's limit of 2 GiB.
        """
        if not 0 <= first_block < end_block <= len(self.blocks):
            raise ModelError(
                f"model '{self.name}' has {len(self.blocks)} blocks: [{first_block}, {end_block}) is not a run of them"
            )
        nodes = [node for block in self.blocks[first_block:end_block] for node in block.nodes]
        inputs, outputs = self.cuts[first_block].tensors, self.cuts[end_block].tensors
        name = f"{self.name} {first_block}..{end_block}"
        return extract(self._model, self._flow, nodes, inputs=inputs, outputs=outputs, name=name)

    def _spec_tuple(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        return tuple(self._specs[name] for name in names)

    def _spans(self) -> list[tuple[int, int]]:
        """Per block its dynamic positions [start, end)."""
        return [(before + 1, end + 1) for before, end in pairwise(self._ends)]

    def _is_weighted(self, node: NodeProto) -> bool:
        return cost.is_weighted(node, self._functions)

    def _is_skippable(self, start: int, end: int) -> bool:
        return is_skippable(self._flow, self._specs, start, end, self._is_weighted)

    def _check(self) -> None:
        graph, flow = self._model.graph, self._flow
        if not flow.inputs or not flow.outputs:
            missing = "outputs" if flow.inputs else "inputs"
            raise ModelError(
                f"model '{self.name}' has no {missing}: it is not an ONNX network, or was exported without them"
            )
        if [tuple(node.output) for node in graph.node] != [tuple(node.output) for node in flow.nodes]:
            graph.ClearField("node")
            graph.node.extend(flow.nodes)
        if self._model.ByteSize() > MAX_MODEL_BYTES:
            return  # the checker cannot serialise it; onnxruntime will judge the sub-models
        try:
            onnx.checker.check_model(self._model)
        except Exception as error:
            raise ModelError(f"model '{self.name}' is not valid ONNX: {error}") from error

    def _check_ends(self) -> None:
        if not self._flow.dynamic:
            raise ModelError(f"model '{self.name}' does not compute anything from its inputs")
        for name in self._flow.outputs:
            if self._specs[name].dtype not in SUPPORTED:
                raise ModelError(self._unsupported(name))

    def _unsupported(self, name: str) -> str:
        return (
            f"model '{self.name}': tensor '{name}' has type {self._specs[name].dtype}, which cannot be sent between "
            f"nodes: export the model with one of {', '.join(sorted(SUPPORTED))} there"
        )

    def _choose_boundaries(self) -> list[int]:
        """-1, the interior boundaries to cut at, and n - 1."""
        flow, last = self._flow, len(self._flow.dynamic) - 1
        blocked = {name: int(self._specs[name].dtype not in SUPPORTED) for name in flow.made}
        bad = flow.crossing_totals(blocked)
        if bad and all(bad):
            raise ModelError(self._unsupported(next(name for name, flag in blocked.items() if flag)))
        counts = flow.crossing_totals(dict.fromkeys(flow.made, 1))
        sizes = {name: cost.tensor_bytes(self._specs[name]) for name in flow.made}
        profile = Profile(
            weighted=[int(self._is_weighted(flow.nodes[index])) for index in flow.dynamic],
            flops=[cost.node_flops(flow.nodes[index], self._specs) for index in flow.dynamic],
            weight_bytes=[self._memory_bytes([index]) for index in flow.dynamic],
            spans=flow.spans(),
            allowed=[not flag and count > 0 for flag, count in zip(bad, counts, strict=True)],
            crossing_bytes=flow.crossing_totals(sizes),
        )
        return [-1, *choose_cuts(profile, self._is_skippable), last]

    def _static_reads(self, nodes: Sequence[int]) -> list[TensorSpec]:
        names = dict.fromkeys(name for node in nodes for name in self._flow.reads[node] if self._flow.is_static(name))
        return [self._specs[name] for name in names]

    def _memory_bytes(self, nodes: Sequence[int]) -> int:
        return sum(cost.tensor_bytes(spec) for spec in self._static_reads(nodes))

    def _block(self, index: int, start: int, end: int) -> Block:
        nodes = self._flow.dynamic[start:end]
        ops: dict[str, int] = {}
        for node in nodes:
            ops[self._flow.nodes[node].op_type] = ops.get(self._flow.nodes[node].op_type, 0) + 1
        return Block(
            index=index,
            ops=ops,
            parameters=cost.parameters(self._static_reads(nodes)),
            memory_bytes=self._memory_bytes(nodes),
            peak_bytes=cost.peak_bytes(self._flow, self._specs, start, end),
            flops=sum(cost.node_flops(self._flow.nodes[node], self._specs) for node in nodes),
            skippable=self._is_skippable(start, end),
            nodes=nodes,
        )

    def _has_softmax_end(self) -> bool:
        if len(self._flow.outputs) != 1:
            return False
        makers = {name: self._flow.node_at(at) for name, at in self._flow.made.items() if at >= 0}
        node = makers.get(self._flow.outputs[0])
        while node is not None and node.op_type in LAYOUT_OPS:
            node = makers.get(node.input[0])
        return node is not None and node.op_type == "Softmax"
