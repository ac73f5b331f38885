"""Control messages: between controllers and nodes, on the control subjects of `broker.subjects`.

Each is a frozen dataclass, sent as a msgpack map of its fields. pydantic checks what arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import msgpack
from pydantic import TypeAdapter, ValidationError

from broker.errors import WireError
from broker.port import Buffer

MAX_CONTROL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRef:
    """Content that is fetched through the broker: its SHA-256 (hex) and its size."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRef:
    """Blocks [first_block, end_block)."""

    first_block: int
    end_block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageAssignment:
    """A stage that a node shall host, and the sub-model that it runs."""

    first_block: int
    end_block: int
    submodel: BlobRef


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteHop:
    """The activation of `cut` goes to `node`."""

    cut: int
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """For each cut that starts a stage, the node that it goes to; the last hop is cut B, which goes to the head."""

    epoch: int
    head: str
    hops: tuple[RouteHop, ...]

    def node_of(self, cut: int) -> str:
        for hop in self.hops:
            if hop.cut == cut:
                return hop.node
        raise KeyError(cut)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSettings:
    """How many frames may be where. 0 means: choose from the model's sizes."""

    window: int = 0
    queue_frames: int = 4096
    queue_bytes: int = 256 << 20
    max_batch: int = 64
    resend_after_s: float = 5.0
    max_attempts: int = 4
    top_k: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a node shall load, and the route that it will serve once the epoch is activated."""

    pipeline: str
    controller: str
    epoch: int
    spec: BlobRef
    stages: tuple[StageAssignment, ...]
    route: Route
    flow: FlowSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate:
    """Frames follow the route of `epoch` from now on; older epochs are over."""

    pipeline: str
    epoch: int


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
    """

    node: str
    incarnation: str
    pid: int
    host: str
    pipeline: str
    assigned_epoch: int
    ready_epoch: int
    active_epoch: int
    stages: tuple[StageRef, ...]
    failure: str
    memory_bytes: int
    threads: int
    providers: tuple[str, ...]
    is_head: bool
    in_flight: int
    waiting: int
    answered: int
    failed: int
    frames: int
    dropped: int
    busy_s: float
    rss_bytes: int
    interval_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """A node stops on purpose."""

    node: str
    incarnation: str


Control = TypeVar("Control", Beat, Bye, Assignment, Activate)


_ADAPTERS: Mapping[Any, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Beat, Bye, Assignment, Activate)}


def encode(message: Beat | Bye | Assignment | Activate) -> bytes:
    packed = msgpack.packb(asdict(message))
    assert isinstance(packed, bytes)  # noqa: S101 - msgpack has no type hints
    return packed


def decode(data: Buffer, kind: type[Control]) -> Control:
    """Read a control message.

    Raises:
        WireError: not a valid message of that kind.
    """
    if len(data) > MAX_CONTROL_BYTES:
        raise WireError(f"a control message of {len(data)} bytes exceeds {MAX_CONTROL_BYTES}")
    try:
        raw = msgpack.unpackb(data, raw=False, strict_map_key=True)
        return _ADAPTERS[kind].validate_python(raw)  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WireError(f"not a valid {kind.__name__}: {where}: {first['msg']}") from error
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError(f"not a msgpack map: {error or type(error).__name__}") from error
