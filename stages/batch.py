"""Frames stacked along the first axis: joined into one activation, and split into several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from broker.activation import Activation
from broker.errors import WireError
from broker.wire import plain
from stages.spec import PipelineSpec


def check(activation: Activation, spec: PipelineSpec) -> None:
    """Raises WireError where the tensors are not those of the cut: names, dtypes, shapes, number of frames."""
    if activation.cut > spec.blocks:
        raise WireError(f"cut {activation.cut} does not exist: the model has cuts 0 to {spec.blocks}")
    expected = spec.cuts[activation.cut]
    if len(activation.tensors) != len(expected):
        raise WireError(f"cut {activation.cut} has {len(expected)} tensors, not {len(activation.tensors)}")
    count = len(activation.frames)
    if count > 1 and not spec.dynamic_batch:
        raise WireError(f"{count} frames in one activation, but this model's frames cannot be stacked")
    for tensor in expected:
        array = activation.tensors.get(tensor.name)
        if array is None or array.dtype.name != tensor.dtype or len(array.shape) != len(tensor.shape):
            raise WireError(f"cut {activation.cut} needs tensor {tensor.name!r}: {tensor.dtype} of {tensor.shape}")
        if any(want is not None and want != got for want, got in zip(tensor.shape, array.shape, strict=True)):
            raise WireError(f"tensor {tensor.name!r} has shape {array.shape}, the model's is {tensor.shape}")
        if spec.dynamic_batch and array.shape[0] != count:
            raise WireError(f"tensor {tensor.name!r} holds {array.shape[0]} frames, the message names {count}")


def join(activations: Sequence[Activation]) -> Activation:
    """One activation with the frames of all (same epoch and cut), none of them encoded. A single one is returned as it
    is."""
    first = activations[0]
    if len(activations) == 1:
        return first
    return Activation(
        epoch=first.epoch,
        cut=first.cut,
        frames=tuple(frame for activation in activations for frame in activation.frames),
        tensors={name: np.concatenate([plain(a.tensors)[name] for a in activations]) for name in first.tensors},
    )


def can_join(one: Activation, other: Activation) -> bool:
    """Frames of different sizes (an open image size, say) cannot be stacked."""
    return all(tensor.shape[1:] == other.tensors[name].shape[1:] for name, tensor in one.tensors.items())


def parts_below(activation: Activation, limit_bytes: int) -> Iterator[Activation]:
    """Activations with the same frames, each of at most `limit_bytes` of tensors where one frame is not larger.
    What is to be divided must not be encoded."""
    count = len(activation.frames)
    per_part = max(1, limit_bytes * count // max(1, activation.size_bytes))
    if per_part >= count:
        yield activation
        return
    tensors = plain(activation.tensors)
    for start in range(0, count, per_part):
        yield Activation(
            epoch=activation.epoch,
            cut=activation.cut,
            frames=activation.frames[start : start + per_part],
            tensors={name: tensor[start : start + per_part] for name, tensor in tensors.items()},
        )
