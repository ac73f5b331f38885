"""A reply subject and headers, which MQTT 3.1.1 has not: they travel in an envelope around the payload.

    envelope = 8 magic bytes, msgpack map {"reply": text, "headers": {text: text}}, the payload

A message with neither of them travels as it is, so that `mosquitto_pub -f image.jpg` and `mosquitto_sub` need not know
of envelopes. MQTT 5 has properties for both; nats-server does not speak it, and one way that works everywhere is
simpler than two. No frame begins like an envelope: not an image, nor `.npy`, nor a tensor message, nor JSON.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgpack

from broker.errors import WireError
from broker.port import Buffer

MAGIC = b"\x00ustd\x01\r\n"
MAX_HEADER_BYTES = 64 << 10
MAX_HEADERS = 64


def wrap(reply: str, headers: Mapping[str, str]) -> bytes:
    """What goes before the payload; nothing where there is neither a reply subject nor a header.

    Raises:
        WireError: the headers are too many or too long.
    """
    if not reply and not headers:
        return b""
    packed = msgpack.packb({"reply": reply, "headers": dict(headers)})
    if len(packed) > MAX_HEADER_BYTES or len(headers) > MAX_HEADERS:
        raise WireError(f"{len(headers)} headers of {len(packed)} bytes: at most {MAX_HEADERS} and {MAX_HEADER_BYTES}")
    return MAGIC + bytes(packed)


def unwrap(data: Buffer) -> tuple[Buffer, str, dict[str, str]]:
    """The payload (a view where there was an envelope), the reply subject, and the headers.

    Raises:
        WireError: it begins like an envelope and is none.
    """
    if len(data) < len(MAGIC) or data[: len(MAGIC)] != MAGIC:
        return data, "", {}
    view = memoryview(data)[len(MAGIC) :]
    unpacker = msgpack.Unpacker(
        raw=False,
        strict_map_key=True,
        max_buffer_size=MAX_HEADER_BYTES,
        max_str_len=MAX_HEADER_BYTES,
        max_map_len=MAX_HEADERS,
        max_array_len=0,
        max_bin_len=0,
        max_ext_len=0,
    )
    unpacker.feed(view[:MAX_HEADER_BYTES])
    try:
        document = unpacker.unpack()
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError(f"not an envelope of ours: {str(error) or type(error).__name__}") from error
    reply, headers = (document.get("reply"), document.get("headers")) if isinstance(document, dict) else (None, None)
    if not isinstance(reply, str) or not isinstance(headers, dict):
        raise WireError("an envelope is a map of 'reply' and 'headers'")
    if not all(isinstance(item, str) for pair in headers.items() for item in pair):
        raise WireError("an envelope's headers are texts")
    return view[unpacker.tell() :], reply, headers
