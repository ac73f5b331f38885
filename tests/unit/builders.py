"""Small values that several unit tests need: specifications, activations, heartbeats, sub-models of a few operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from broker.activation import Activation, FrameTag
from broker.control import Beat, BlobRef, PartRef, Route, RouteHop
from broker.wire import Tensor
from stages.manifest import Accuracy, Manifest, OutputSpec, TensorInput
from stages.spec import PipelineSpec
from stages.tensor import TensorSpec


def tensor(name: str, *shape: int | None, dtype: str = "float32") -> TensorSpec:
    """Open dimensions (None) are 1 for one frame."""
    return TensorSpec(name=name, dtype=dtype, shape=shape, example_shape=tuple(size or 1 for size in shape))


def pipeline_spec(
    *cuts: TensorSpec | tuple[TensorSpec, ...],
    dynamic_batch: bool = True,
    labels: tuple[str, ...] | None = None,
    classify: bool = False,
    softmax: bool = False,
    accuracy: Accuracy | None = None,
) -> PipelineSpec:
    """A specification with these cuts; a single tensor stands for a cut of one."""
    listed = tuple(cut if isinstance(cut, tuple) else (cut,) for cut in cuts)
    manifest = Manifest(
        name="tiny",
        task="classify" if classify else "tensors",
        labels=labels,
        input=TensorInput(names=tuple(spec.name for spec in listed[0])),
        output=OutputSpec(names=tuple(spec.name for spec in listed[-1]), softmax=softmax),
        accuracy=accuracy,
    )
    return PipelineSpec(manifest=manifest, cuts=listed, dynamic_batch=dynamic_batch)


def activation(tensors: dict[str, Tensor], ids: Sequence[str] = ("a",), *, cut: int = 0, epoch: int = 1) -> Activation:
    return Activation(epoch=epoch, cut=cut, frames=tuple(map(FrameTag, ids)), tensors=tensors)


def numbers(*values: float, width: int = 2) -> Tensor:
    """One row per value, `width` times that value."""
    return np.repeat(np.asarray(values, np.float32)[:, None], width, axis=1)


def beat(node: str, **changes: Any) -> Beat:
    """The heartbeat of a free node, 100 ms apart."""
    facts: dict[str, Any] = {
        "node": node,
        "incarnation": f"{node}-1",
        "pid": 1,
        "host": "host",
        "pipeline": "",
        "assigned_epoch": 0,
        "ready_epoch": 0,
        "active_epoch": 0,
        "stages": (),
        "failure": "",
        "controller": "",
        "spares": (),
        "spares_epoch": 0,
        "memory_bytes": 0,
        "threads": 1,
        "providers": ("CPU",),
        "is_head": False,
        "in_flight": 0,
        "waiting": 0,
        "answered": 0,
        "failed": 0,
        "answered_epoch": 0,
        "oldest_epoch": 0,
        "sent_again": 0,
        "degraded": 0,
        "superseded": 0,
        "latency_s": 0.0,
        "leaving": False,
        "frames": 0,
        "dropped": 0,
        "busy_s": 0.0,
        "rss_bytes": 0,
        "links": (),
        "interval_s": 0.1,
    }
    return Beat(**{**facts, **changes})


BLOB = BlobRef(sha256="0f" * 32, size_bytes=5)


def part_ref(name: str, model: BlobRef = BLOB) -> PartRef:
    """The part of this name: `stage:0-2` stands for blocks 0 and 1."""
    first, _, end = name.split(":")[1].partition("-")
    return PartRef(part=name, first_block=int(first), end_block=int(end), model=model)


def route(epoch: int, *hops: tuple[str, str], head: str | None = None, **facts: Any) -> Route:
    """The route of an epoch over (node, name of the part); the head is the first hop's node."""
    made = tuple(RouteHop(node=node, part=part_ref(name)) for node, name in hops)
    blocks = made[-1].part.end_block
    return Route(epoch=epoch, blocks=blocks, hops=made, head=head or hops[0][0], **facts)
