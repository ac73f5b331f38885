"""Files that describe a chain (`chain.json`), a cluster (`cluster.json`, `cluster.yaml`) or a plan.

docs/planner.md describes them. Sizes may carry units (`512 MB`); bandwidths are bytes per second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from broker.codecs import Codec
from planner.chain import Chain, ChainError, SecondsSource
from planner.cluster import Cluster, ClusterError, NodeSpec
from planner.codec import CodecCost, CodecError
from planner.plan import Stage
from understudy.fields import SizeOrZero
from understudy.files import explain, read_yaml
from understudy.quantities import ConfigError

Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


def _no_link(value: Any) -> Any:
    return 0.0 if value is None else value


Link = Annotated[Number, BeforeValidator(_no_link)]
"""Bytes per second; null or 0: there is no link."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CodecEntry(_Strict):
    """See `planner.codec.CodecCost`."""

    name: Codec
    ratio: tuple[Number, ...]
    encode_s_per_byte: tuple[Number, ...]
    decode_s_per_byte: tuple[Number, ...]
    accuracy_loss: Annotated[float, Field(ge=0, le=1)] | None = None
    flops_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class ChainFile(_Strict):
    """See `planner.chain.Chain`."""

    name: str
    cut_bytes: tuple[Count, ...]
    block_memory_bytes: tuple[Count, ...]
    block_peak_bytes: tuple[Count, ...]
    block_flops: tuple[Count, ...]
    block_seconds: dict[str, tuple[Number, ...]] = Field(default_factory=dict)
    block_seconds_source: dict[str, SecondsSource] = Field(default_factory=dict)
    codecs: tuple[CodecEntry, ...] = ()
    frame_bytes: Count | None = None


class NodeEntry(_Strict):
    """See `planner.cluster.NodeSpec`."""

    name: str
    memory_bytes: SizeOrZero | None = None
    flops_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class ClusterFile(_Strict):
    """See `planner.cluster.Cluster`."""

    topology: Literal["mesh", "star"] = "mesh"
    nodes: tuple[NodeEntry, ...]
    bandwidth_bytes_per_s: tuple[tuple[Link, ...], ...] | None = None
    up_bytes_per_s: tuple[Link, ...] | None = None
    down_bytes_per_s: tuple[Link, ...] | None = None
    source_bytes_per_s: tuple[Link, ...] | None = None
    sink_bytes_per_s: tuple[Link, ...] | None = None
    message_overhead_s: Number = 0.0
    max_payload_bytes: SizeOrZero | None = None


class StageEntry(_Strict):
    """See `planner.plan.Stage`. Whoever is given a plan chooses the codecs anew, by the same rule."""

    first_block: Count
    end_block: Annotated[int, Field(gt=0)]
    node: str
    codec: Codec = "none"


class PlanFile(BaseModel):
    """What `understudy plan --json` prints: what else it says of the plan is not looked at."""

    model_config = ConfigDict(frozen=True)

    stages: Annotated[tuple[StageEntry, ...], Field(min_length=1)]


Model = TypeVar("Model", ChainFile, ClusterFile, PlanFile)


def load_chain(path: Path) -> Chain:
    """Read a chain.

    Raises:
        ConfigError: missing, malformed, or lists that do not fit together.
    """
    entry = _read(path, ChainFile)
    try:
        codecs = tuple(CodecCost(**codec.model_dump()) for codec in entry.codecs)
        return Chain(**{**entry.model_dump(exclude={"codecs"}), "codecs": codecs})
    except (ChainError, CodecError) as error:
        raise ConfigError(f"{path}: {error}") from error


def load_cluster(path: Path) -> Cluster:
    """Read a cluster.

    Raises:
        ConfigError: missing, malformed, or lists that do not fit together.
    """
    entry = _read(path, ClusterFile)
    nodes = tuple(NodeSpec(**node.model_dump()) for node in entry.nodes)
    try:
        return Cluster(**{**entry.model_dump(exclude={"nodes"}), "nodes": nodes})
    except ClusterError as error:
        raise ConfigError(f"{path}: {error}") from error


def load_plan(path: Path) -> tuple[Stage, ...]:
    """Read the stages of a plan. Whether they fit a model and a cluster is seen when they are priced.

    Raises:
        ConfigError: missing or malformed.
    """
    return tuple(Stage(**entry.model_dump()) for entry in _read(path, PlanFile).stages)


def _read(path: Path, kind: type[Model]) -> Model:
    try:
        return kind.model_validate(read_yaml(path))
    except ValidationError as error:
        nested: dict[str, type[BaseModel]] = {"nodes": NodeEntry, "stages": StageEntry, "codecs": CodecEntry}
        raise explain(error, str(path), kind, nested) from error
