"""What a node must know of a pipeline besides its sub-models: the manifest, and the tensors at every cut."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from stages.errors import ModelError
from stages.graph import ModelGraph
from stages.manifest import Manifest
from stages.tensor import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSpec:
    """Travels from the controller to the nodes as JSON, content-addressed like a sub-model.

    Attributes:
        manifest: of the bundle.
        cuts: B + 1 tuples: the tensors of each cut; cut 0 are the model's inputs, cut B its outputs.
        dynamic_batch: frames may be stacked along the first axis of every tensor.
    """

    manifest: Manifest
    cuts: tuple[tuple[TensorSpec, ...], ...]
    dynamic_batch: bool

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.cuts[0]

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.cuts[-1]

    @property
    def blocks(self) -> int:
        """B."""
        return len(self.cuts) - 1

    def cut_bytes(self, cut: int) -> int:
        """Bytes of one frame's activation at a cut."""
        return sum(tensor.size_bytes for tensor in self.cuts[cut])

    @classmethod
    def of(cls, graph: ModelGraph, manifest: Manifest, *, dynamic_batch: bool) -> PipelineSpec:
        # Parts, codecs and files are the controller's affair.
        manifest = manifest.model_copy(update={"parts": (), "codecs": (), "files": {}})
        return cls(manifest=manifest, cuts=tuple(cut.tensors for cut in graph.cuts), dynamic_batch=dynamic_batch)

    def to_json(self) -> bytes:
        return TypeAdapter(PipelineSpec).dump_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> PipelineSpec:
        """Raises ModelError where `data` is not a specification of this version."""
        try:
            return TypeAdapter(PipelineSpec).validate_json(data)
        except ValidationError as error:
            raise ModelError(
                f"the pipeline's specification is not understood ({error.error_count()} errors): is every "
                f"node of the same version as the controller?"
            ) from error
