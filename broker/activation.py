"""What travels between stages: activations and failures, on `subjects.activation`. And a client's tensor message.

An activation of cut k holds one or more frames. Where the model's batch dimension is open, the frames are stacked along
the first axis of every tensor; otherwise a message holds one frame.

    header of an activation  = { "kind": "activation", "epoch", "cut", "frames": [[id, hops], ...] }
    header of a failure      = { "kind": "failure", "epoch", "cut", "frames": [...], "code", "reason" }, no tensors
    header of a tensor frame = { "id" (optional) }
    hops                     = [[node, cut, at, ms], ...]: which node took the frame at which cut, when it was done
                               with it (seconds since 1970, by that node's clock) and how long it had it
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker import wire
from broker.errors import WireError
from broker.port import Buffer
from broker.wire import Carried, Encoded, Tensor

MAX_ID_CHARACTERS = 256
MAX_FRAMES = 1024
MAX_HOPS = 256

HEADER_RESERVE_BYTES = 64 << 10
"""Part of the broker's payload limit that is kept for a message's header."""

MAX_DECODED_BYTES = 64 << 20
"""Of the arrays that a message's encoded tensors stand for: no broker takes more without a codec."""

Hop = tuple[str, int, float, float]
"""(node, cut, at in seconds since 1970, milliseconds)"""


@dataclass(frozen=True, slots=True)
class FrameTag:
    """What accompanies a frame on its way: its id, and the hops that it has made."""

    id: str
    hops: tuple[Hop, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """Frames at a cut. `tensors` maps names to arrays; the first axis counts frames where the batch is open. On the way
    between two nodes an array may be encoded."""

    epoch: int
    cut: int
    frames: tuple[FrameTag, ...]
    tensors: Mapping[str, Carried]

    @property
    def size_bytes(self) -> int:
        """As they are, encoded or not."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Frames that a stage could not process; goes to the head, which answers them with an error."""

    epoch: int
    cut: int
    frames: tuple[FrameTag, ...]
    code: str
    reason: str


def encode_activation(activation: Activation) -> list[Buffer]:
    header = {
        "kind": "activation",
        "epoch": activation.epoch,
        "cut": activation.cut,
        "frames": [[frame.id, frame.hops] for frame in activation.frames],
    }
    return wire.pack(header, activation.tensors)


def encode_failure(failure: Failure) -> list[Buffer]:
    header = {
        "kind": "failure",
        "epoch": failure.epoch,
        "cut": failure.cut,
        "frames": [[frame.id, frame.hops] for frame in failure.frames],
        "code": failure.code,
        "reason": failure.reason[:2000],
    }
    return wire.pack(header, {})


def decode(data: Buffer, *, max_decoded_bytes: int = MAX_DECODED_BYTES) -> Activation | Failure:
    """Read an activation or a failure. Encoded tensors stay encoded.

    Args:
        max_decoded_bytes: the most that the arrays may have together for which encoded tensors stand.

    Raises:
        WireError: not a valid one.
    """
    header, tensors = wire.unpack_carried(data)
    decoded_bytes = sum(tensor.decoded_bytes for tensor in tensors.values() if isinstance(tensor, Encoded))
    if decoded_bytes > max_decoded_bytes:
        raise WireError(f"the encoded tensors stand for {decoded_bytes} bytes, at most {max_decoded_bytes} are taken")
    kind = header.get("kind")
    epoch, cut = _count(header, "epoch"), _count(header, "cut")
    frames = _frames(header.get("frames"))
    if kind == "activation":
        if not tensors:
            raise WireError("an activation without tensors")
        return Activation(epoch=epoch, cut=cut, frames=frames, tensors=tensors)
    if kind == "failure":
        code, reason = header.get("code"), header.get("reason")
        if not isinstance(code, str) or not isinstance(reason, str):
            raise WireError("a failure needs a code and a reason")
        return Failure(epoch=epoch, cut=cut, frames=frames, code=code, reason=reason)
    raise WireError(f"kind {str(kind)[:40]!r} is neither 'activation' nor 'failure'")


def encode_tensor_frame(tensors: Mapping[str, Tensor], frame_id: str | None = None) -> list[Buffer]:
    """A tensor message for the input subject: named inputs of one frame."""
    return wire.pack({} if frame_id is None else {"id": frame_id}, tensors)


def decode_tensor_frame(data: Buffer) -> tuple[str | None, dict[str, Tensor]]:
    """The frame's id, if the message has one, and its tensors.

    Raises:
        WireError: not a valid tensor message.
    """
    header, tensors = wire.unpack(data)
    if not tensors:
        raise WireError("a tensor message without tensors")
    frame_id = header.get("id")
    return (None if frame_id is None else check_id(frame_id)), tensors


def check_id(frame_id: Any) -> str:
    """Raises WireError where `frame_id` is not a text of 1 to 256 characters."""
    if not isinstance(frame_id, str) or not 0 < len(frame_id) <= MAX_ID_CHARACTERS:
        raise WireError(f"a frame's id must be a text of 1 to {MAX_ID_CHARACTERS} characters")
    return frame_id


def _count(header: Mapping[str, Any], key: str) -> int:
    value = header.get(key)
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise WireError(f"{key!r} must be an integer >= 0")
    return value


def _frames(raw: Any) -> tuple[FrameTag, ...]:
    if not isinstance(raw, list) or not 0 < len(raw) <= MAX_FRAMES:
        raise WireError(f"'frames' must list 1 to {MAX_FRAMES} frames")
    return tuple(_frame(item) for item in raw)


def _frame(item: Any) -> FrameTag:
    if not isinstance(item, list) or len(item) != 2 or not isinstance(item[1], list) or len(item[1]) > MAX_HOPS:
        raise WireError(f"a frame is [id, hops] with at most {MAX_HOPS} hops")
    return FrameTag(check_id(item[0]), tuple(_hop(hop) for hop in item[1]))


def _hop(hop: Any) -> Hop:
    # Once per hop, frame and receiver: type() is ten times as fast as a class pattern of `match`.
    if type(hop) is list and len(hop) == 4:
        node, cut, at, ms = hop
        if type(node) is str and type(cut) is int and cut >= 0 and _is_finite(at) and _is_finite(ms):
            return node, cut, float(at), float(ms)
    raise WireError("a hop is [node, cut, at, ms], finite numbers")


def _is_finite(value: Any) -> bool:
    return (type(value) is float or type(value) is int) and math.isfinite(value)
