"""Which frame a message on the input subject is.

The head and the standby head both see it, and must agree about it without a word between them. A publisher may name the
frame, in a header or in a tensor message; a stored frame without a name is named after its place in the store;
otherwise its content stands for it: two equal images without a name are two frames, and it does not matter which of
them an answer is for.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from broker.activation import check_id, decode_tensor_frame
from broker.errors import WireError
from broker.headers import ID_HEADER, REPLY_HEADER
from broker.jetstream import is_stored, stored
from broker.port import Buffer, Message
from stages.intake import looks_like_msgpack

DIGEST_BYTES = 8
ENTRY_BYTES = 2 * DIGEST_BYTES

_MADE_UP = re.compile(r"([0-9a-f]{16})-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Identity:
    """`id`: the frame's name, None where it has none. `key`: the same for every copy of the frame: its name, or a hash
    of its content."""

    id: str | None
    key: str


def identify(message: Message) -> Identity:
    """Raises WireError where the publisher's name for the frame is not usable."""
    header = message.headers.get(ID_HEADER)
    if header is not None:
        return Identity(check_id(header), header)
    if looks_like_msgpack(message.data):
        try:
            own = decode_tensor_frame(message.data)[0]
        except WireError:
            own = None  # the intake will say what is wrong with it
        if own is not None:
            return Identity(own, own)
    if (place := stored(message.reply)) is not None:
        return Identity(place.id, place.id)
    return Identity(None, blake2b(message.data, digest_size=8).hexdigest())


def reply_and_ack(message: Message) -> tuple[str, str]:
    """Where a frame's result is wanted, and what takes its acknowledgement; each may be empty."""
    if is_stored(message.reply):
        return message.headers.get(REPLY_HEADER, ""), message.reply
    return message.reply, ""


def make_id(identity: Identity) -> str:
    """A name for a frame that has none: its key, and a part that is different each time."""
    return identity.id or f"{identity.key}-{secrets.token_hex(4)}"


def digest(key: str) -> bytes:
    """What stands for a key where many are sent: 8 bytes."""
    return blake2b(key.encode(), digest_size=DIGEST_BYTES).digest()


def entry(frame_id: str) -> bytes:
    """A frame in the list of those that a head will finish: the digests of its key, and of its id."""
    return mark_of(frame_id) + digest(frame_id)


def entries(frame_ids: Iterable[str]) -> bytes:
    """A list of frames, as heads and nodes tell it each other."""
    return b"".join(map(entry, frame_ids))


def split(answer: Buffer, size: int) -> list[bytes]:
    """Such a list (`ENTRY_BYTES` each), or one of digests (`DIGEST_BYTES`)."""
    data = bytes(answer)
    return [data[i : i + size] for i in range(0, len(data), size)]


def is_named(frame: bytes) -> bool:
    """Whether an `entry` is that of a frame whose publisher has named it: its key is its id."""
    return frame[:DIGEST_BYTES] == frame[DIGEST_BYTES:]


def mark_of(frame_id: str) -> bytes:
    """The digest of the key of a frame that has this id at a head."""
    return digest(keys_of(frame_id)[-1])


def keys_of(frame_id: str) -> tuple[str, ...]:
    """The keys that a frame of this id may have: the id, and what `make_id` made it from."""
    made_up = _MADE_UP.fullmatch(frame_id)
    return (frame_id,) if made_up is None else (frame_id, made_up[1])
