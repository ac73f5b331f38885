"""Control messages: between controllers and nodes, on the control subjects of `broker.subjects`.

Each is a frozen dataclass, sent as a msgpack map of its fields. pydantic checks what arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import msgpack
from pydantic import Field, TypeAdapter, ValidationError

from broker.codecs import Codec
from broker.errors import WireError
from broker.port import Buffer

MAX_CONTROL_BYTES = 1 << 20
MAX_BLOB_BYTES = 2 << 30
"""Of a sub-model: what an ONNX file can hold."""

Count = Annotated[int, Field(ge=0, lt=1 << 53)]
"""Exact in every language that counts in doubles."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
PipelineOrNone = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,62})?$")]
NameOrNone = PipelineOrNone
PartName = Annotated[str, Field(pattern=r"^[a-z-]+:[0-9]+-[0-9]+(:[A-Za-z0-9_.+-]+)?$", max_length=200)]
PartNameOrNone = Annotated[str, Field(pattern=r"^([a-z-]+:[0-9]+-[0-9]+(:[A-Za-z0-9_.+-]+)?)?$", max_length=200)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Technique = Literal["none", "standby", "stand-in", "skip", "exit"]
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
class PartRef:
    """A model that takes the activation of cut `first_block` to that of cut `end_block`: a stage, or what stands by for
    one. `part` is its name (`planner.part`), `model` its ONNX file."""

    part: PartName
    first_block: Count
    end_block: Count
    model: BlobRef

    def __post_init__(self) -> None:
        if self.first_block >= self.end_block:
            raise ValueError(f"a part of blocks [{self.first_block}, {self.end_block}) is empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteHop:
    """The activation of cut `part.first_block` goes to `node`, which runs the part. Whoever sends it there uses
    `codec`; a first hop has none, since the head sends frames as they are."""

    node: Name
    part: PartRef
    codec: Codec = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way of every frame of an epoch: hops from cut 0 to cut `blocks`, whose activation goes to the head.

    Attributes:
        head: the node that hosts the head.
        standby_head: the node that takes over from it; empty: none.
        technique, exit, expected_accuracy: how answers of this epoch come about; in every result.
    """

    epoch: Count
    blocks: Count
    hops: tuple[RouteHop, ...]
    head: Name
    standby_head: NameOrNone = ""
    technique: Technique = "none"
    exit: PartNameOrNone = ""
    expected_accuracy: Share | None = None

    def __post_init__(self) -> None:
        cuts = [0]
        for hop in self.hops:
            if hop.part.first_block != cuts[-1]:
                raise ValueError(f"a route's hops must join: cut {cuts[-1]} is followed by cut {hop.part.first_block}")
            cuts.append(hop.part.end_block)
        if not self.hops or cuts[-1] != self.blocks:
            raise ValueError(f"a route must reach cut {self.blocks}, this one ends at cut {cuts[-1]}")

    def node_of(self, cut: int) -> str:
        """Where the activation of a cut goes. Raises KeyError where the route does not pass it."""
        if cut == self.blocks:
            return self.head
        for hop in self.hops:
            if hop.part.first_block == cut:
                return hop.node
        raise KeyError(cut)

    @property
    def node_before_head(self) -> str:
        """The last on the way that is not the head's: an answer comes of what that one has sent. Empty: there is none,
        and the head's node does all."""
        return next((hop.node for hop in reversed(self.hops) if hop.node != self.head), "")

    def codec_from(self, node: str, cut: int) -> Codec:
        """What this node uses for the activation of a cut that it sends on: nothing within itself, nor to the head."""
        hop = next((hop for hop in self.hops if hop.part.first_block == cut), None)
        return "none" if hop is None or hop.node == node else hop.codec

    def parts_on(self, node: str) -> tuple[PartRef, ...]:
        return tuple(hop.part for hop in self.hops if hop.node == node)

    @property
    def nodes(self) -> frozenset[str]:
        """Every node that the route needs; the standby head's is not among them."""
        return frozenset({hop.node for hop in self.hops} | {self.head})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """What the broker keeps of a pipeline whose delivery is `durable`.

    Attributes:
        input_bytes: of frames that wait; above that a publisher is refused.
        result_bytes, result_age_s: results are kept within both.
        replicas: servers of a cluster that keep a copy.
    """

    input_bytes: Annotated[int, Field(ge=1)] = 1 << 30
    result_bytes: Annotated[int, Field(ge=1)] = 256 << 20
    result_age_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600.0
    replicas: Annotated[int, Field(ge=1, le=5)] = 1


Delivery = Literal["at-least-once", "latest", "durable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSettings:
    """How many frames may be where, and what is promised of them (docs/delivery.md). 0 means: choose from the model's
    sizes."""

    window: Count = 0
    queue_frames: Count = 4096
    queue_bytes: Count = 256 << 20
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 64
    resend_after_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 4
    top_k: Annotated[int, Field(ge=1)] = 5
    delivery: Delivery = "at-least-once"
    ordered: bool = False
    store: StoreSettings = StoreSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The route of an epoch: a node loads the parts that the route places on it, and serves it once it is activated."""

    pipeline: Name
    controller: Text
    spec: BlobRef
    route: Route
    flow: FlowSettings

    @property
    def epoch(self) -> int:
        return self.route.epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Spares:
    """What a node shall keep loaded besides its stages, for routes to come. Replaces what it was told before; `epoch`
    counts these messages, and is none of a route."""

    pipeline: Name
    controller: Text
    epoch: Count
    spec: BlobRef
    parts: tuple[PartRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate:
    """Frames follow the route of `epoch` from now on.

    Attributes:
        drain: frames that are in flight finish on the route before; otherwise that one is over, and the head sends them
            again. Also sent with False for an epoch that is active: whatever is older is over now.
        previous_head: the node that hosts the head until now, where that is alive: it is asked what it will finish.
        assignment: the route itself, where the nodes have not been told of it before: a way around a failure, over
            parts that are loaded.
    """

    pipeline: Name
    controller: Text
    epoch: Count
    drain: bool
    previous_head: NameOrNone
    assignment: Assignment | None

    def __post_init__(self) -> None:
        if self.assignment is not None and self.assignment.epoch != self.epoch:
            raise ValueError(f"epoch {self.epoch} is activated with the route of epoch {self.assignment.epoch}")


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
        controller: who assigned it; empty: nobody did.
        spares, spares_epoch: names of the parts that it has loaded for routes to come, and the epoch of the newest
            `Spares` that it was told.
        memory_bytes: its limit for stages; 0: no limit.
        in_flight, waiting, answered, failed: the head's counters; 0 on other nodes.
        answered_epoch: the newest epoch of which the head has put out an answer; sent at once when that changes.
        oldest_epoch: the oldest epoch that a frame in flight was sent on; 0: none is in flight.
        sent_again, degraded: of the head: frames sent a second time, answers by another technique than `none`.
        superseded: of the head: frames that a newer one replaced (`latest` delivery).
        latency_s: of the head: mean over the last answers of the active epoch; 0: none yet.
        leaving: it wants to stop, and waits until the pipeline goes on without it.
        dropped: messages that the node dropped because they were malformed, stale or over a bound.
        malformed: messages that were not understood, by their kind (`broker.malformed`).
        busy_s: seconds of inference since the start.
        rss_bytes: memory of the process.
        tasks: of asyncio that have not ended.
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
    controller: Text
    spares: tuple[PartName, ...]
    spares_epoch: Count
    memory_bytes: Count
    threads: Count
    providers: tuple[str, ...]
    is_head: bool
    in_flight: Count
    waiting: Count
    answered: Count
    failed: Count
    answered_epoch: Count
    oldest_epoch: Count
    sent_again: Count
    degraded: Count
    superseded: Count
    latency_s: Seconds
    leaving: bool
    frames: Count
    dropped: Count
    busy_s: Seconds
    rss_bytes: Count
    interval_s: Interval
    links: tuple[LinkRate, ...]
    malformed: Mapping[Text, Count] = field(default_factory=dict)
    tasks: Count = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm:
    """A head that was paused asks the controller whether it still is the head. A request: answered by `Confirmed`."""

    node: Name
    incarnation: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """`head`: whether the node that asked is."""

    head: bool


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


_KINDS = (Beat, Confirm, Confirmed, Bye, Assignment, Spares, Activate, ProbeOrder, ProbeResult, ProbeAck)

Control = TypeVar(
    "Control", Beat, Confirm, Confirmed, Bye, Assignment, Spares, Activate, ProbeOrder, ProbeResult, ProbeAck
)


_ADAPTERS: Mapping[Any, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in _KINDS}


def encode(
    message: Beat | Confirm | Confirmed | Bye | Assignment | Spares | Activate | ProbeOrder | ProbeResult | ProbeAck,
) -> bytes:
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
