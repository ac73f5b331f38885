"""Control messages: between controllers and nodes, on the control subjects of `broker.subjects`.

Each is a frozen dataclass, sent as a msgpack map of its fields. pydantic checks what arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgpack
from pydantic import Field, TypeAdapter, ValidationError

from broker.errors import WireError
from broker.port import Buffer

MAX_CONTROL_BYTES = 1 << 20
MAX_BLOB_BYTES = 2 << 30
"""Of a sub-model: what an ONNX file can hold."""

Count = Annotated[int, Field(ge=0, lt=1 << 53)]
"""Exact in every language that counts in doubles."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
PipelineOrNone = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,62})?$")]
Text = Annotated[str, Field(max_length=4096)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Interval = Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRef:
    """Content that is fetched through the broker: its SHA-256 (hex) and its size."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0, le=MAX_BLOB_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRef:
    """Blocks [first_block, end_block)."""

    first_block: Count
    end_block: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class StageAssignment:
    """A stage that a node shall host, and the sub-model that it runs."""

    first_block: Count
    end_block: Count
    submodel: BlobRef

    def __post_init__(self) -> None:
        if self.first_block >= self.end_block:
            raise ValueError(f"a stage of blocks [{self.first_block}, {self.end_block}) is empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteHop:
    """The activation of `cut` goes to `node`."""

    cut: Count
    node: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """For each cut that starts a stage, the node that it goes to; the last hop is cut B, which goes to the head."""

    epoch: Count
    head: Name
    hops: tuple[RouteHop, ...]

    def __post_init__(self) -> None:
        cuts = [hop.cut for hop in self.hops]
        if len(cuts) < 2 or cuts[0] != 0 or cuts != sorted(set(cuts)):
            raise ValueError(
                f"a route needs hops from cut 0 to the last cut, each later than the one before: {cuts[:20]}"
            )
        if self.hops[-1].node != self.head:
            raise ValueError("the last cut must go to the head")

    def node_of(self, cut: int) -> str:
        for hop in self.hops:
            if hop.cut == cut:
                return hop.node
        raise KeyError(cut)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSettings:
    """How many frames may be where. 0 means: choose from the model's sizes."""

    window: Count = 0
    queue_frames: Count = 4096
    queue_bytes: Count = 256 << 20
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 64
    resend_after_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 4
    top_k: Annotated[int, Field(ge=1)] = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a node shall load, and the route that it will serve once the epoch is activated."""

    pipeline: Name
    controller: Text
    epoch: Count
    spec: BlobRef
    stages: tuple[StageAssignment, ...]
    route: Route
    flow: FlowSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate:
    """Frames follow the route of `epoch` from now on; older epochs are over."""

    pipeline: Name
    epoch: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRate:
    """How fast messages come from a node, where the link from it was busy often enough to tell."""

    sender: Name
    bytes_per_s: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A node's heartbeat, also sent at once when something in it changes.

    Attributes:
        incarnation: random, new at every start of the node's process.
        pipeline: what it works for; empty while it is free.
        assigned_epoch, ready_epoch, active_epoch: the newest epoch that it was told of, has loaded, serves. 0: none.
        failure: why the assigned epoch could not be loaded; empty if nothing is wrong.
        memory_bytes: its limit for stages; 0: no limit.
        in_flight, answered, failed: the head's counters; 0 on other nodes.
        dropped: messages that the node dropped because they were malformed, stale or over a bound.
        busy_s: seconds of inference since the start.
        rss_bytes: memory of the process.
        links: rates of the links into the node, measured from the activations that come over them.
    """

    node: Name
    incarnation: Text
    pid: Count
    host: Text
    pipeline: PipelineOrNone
    assigned_epoch: Count
    ready_epoch: Count
    active_epoch: Count
    stages: tuple[StageRef, ...]
    failure: Text
    memory_bytes: Count
    threads: Count
    providers: tuple[str, ...]
    is_head: bool
    in_flight: Count
    waiting: Count
    answered: Count
    failed: Count
    frames: Count
    dropped: Count
    busy_s: Seconds
    rss_bytes: Count
    interval_s: Interval
    links: tuple[LinkRate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """A node stops on purpose."""

    node: Name
    incarnation: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOrder:
    """Measure the way to node `to`, for about so long. A request: the node answers it with a `ProbeResult`."""

    to: Name
    seconds: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a node measured on the way to another.

    Attributes:
        bytes_per_s: with messages one behind the other: what the slowest part of the way lets through.
        alone_bytes_per_s: of one message with no other on the way: its bytes over the time that it takes beyond that
            of an empty message. Smaller where a broker stores a message before it sends it on.
        overhead_s: how long an empty message takes.
        size_bytes: that were sent to find out.
        failure: why nothing was measured; empty if nothing is wrong, and the numbers are 0 otherwise.
    """

    node: Name
    to: Name
    bytes_per_s: Rate
    alone_bytes_per_s: Rate
    overhead_s: Seconds
    size_bytes: Count
    failure: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAck:
    """Says when a chunk arrived, by the receiver's clock, which starts anywhere: differences alone have a meaning."""

    probe: Text
    sequence: Count
    at_s: Seconds


_KINDS = (Beat, Bye, Assignment, Activate, ProbeOrder, ProbeResult, ProbeAck)

Control = TypeVar("Control", Beat, Bye, Assignment, Activate, ProbeOrder, ProbeResult, ProbeAck)


_ADAPTERS: Mapping[Any, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in _KINDS}


def encode(message: Beat | Bye | Assignment | Activate | ProbeOrder | ProbeResult | ProbeAck) -> bytes:
    packed = msgpack.packb(message, default=_fields)
    assert isinstance(packed, bytes)  # noqa: S101 - msgpack has no type hints
    return packed


def _fields(part: Any) -> dict[str, Any]:
    # Not dataclasses.asdict: it copies deeply, which costs more than the rest of a heartbeat.
    return {name: getattr(part, name) for name in part.__slots__}


def decode(data: Buffer, kind: type[Control]) -> Control:
    """Read a control message.

    Raises:
        WireError: not a valid message of that kind.
    """
    if len(data) > MAX_CONTROL_BYTES:
        raise WireError(f"a control message of {len(data)} bytes exceeds {MAX_CONTROL_BYTES}")
    try:
        raw = msgpack.unpackb(data, raw=False, strict_map_key=True, max_array_len=1024, max_map_len=64)
        return _ADAPTERS[kind].validate_python(raw)  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WireError(f"not a valid {kind.__name__}: {where}: {first['msg']}") from error
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError(f"not a msgpack map: {str(error) or type(error).__name__}") from error
