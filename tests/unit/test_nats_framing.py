"""The receiving side of the fast path: whatever the pieces in which bytes arrive, the same frames come out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.errors import ProtocolError

from broker.nats_framing import SCRATCH_BYTES, Frame, Framing


def feed(framing: Framing, data: bytes, pieces: list[int]) -> None:
    """Deliver bytes as an event loop does, in pieces of the given sizes (repeated) or what fits in the buffer."""
    turn = 0
    while data:
        buffer = framing.get_buffer(-1)
        count = min(len(data), len(buffer), pieces[turn % len(pieces)])
        buffer[:count] = data[:count]
        buffer.release()
        framing.buffer_updated(count)
        data, turn = data[count:], turn + 1


async def received(framing: Framing) -> list[tuple[object, ...]]:
    out: list[tuple[object, ...]] = []
    for item in await framing.items():
        if isinstance(item, Frame):
            item.finish()
            out.append((item.sid, item.subject, item.reply, item.header, bytes(item.data)))
        else:
            out.append((item,))
    return out


def message(sid: int, subject: bytes, reply: bytes, header: bytes | None, payload: bytes) -> bytes:
    names = b" ".join(filter(None, (subject, str(sid).encode(), reply)))
    if header is None:
        return b"MSG %s %d\r\n%s\r\n" % (names, len(payload), payload)
    return b"HMSG %s %d %d\r\n%s%s\r\n" % (names, len(header), len(header) + len(payload), header, payload)


HEADER = b"NATS/1.0\r\na: b\r\n\r\n"
frames = st.tuples(
    st.integers(1, 10**6),
    st.sampled_from([b"a", b"a.b.c", b"MSG", b"s" * 300]),
    st.sampled_from([b"", b"_INBOX.x.y"]),
    st.sampled_from([None, HEADER, b"NATS/1.0 503\r\n\r\n"]),
    st.one_of(
        st.binary(max_size=40),
        st.integers(0, 3 * SCRATCH_BYTES).map(lambda size: (b"PING\r\nMSG a 1 3\r\n" * (size // 17 + 1))[:size]),
        st.integers(-3, 3).map(lambda more: bytes(SCRATCH_BYTES + more)),
    ),
)
lines = st.sampled_from([b"PING", b"PONG", b"+OK", b"-ERR 'x'", b"INFO {}"]).map(lambda line: (line,))


@settings(deadline=None)
@given(st.lists(st.one_of(frames, lines), min_size=1, max_size=8), st.lists(st.integers(1, 70_000), min_size=1))
async def test_frames_come_out_whatever_the_pieces(items: list[Any], pieces: list[int]) -> None:
    framing = Framing()
    stream = b"".join(item[0] + b"\r\n" if len(item) == 1 else message(*item) for item in items)
    if len(stream) > 10_000:
        pieces = [max(piece, 97) for piece in pieces]
    feed(framing, stream, pieces)
    assert await received(framing) == items


async def test_one_byte_at_a_time_is_enough() -> None:
    framing = Framing()
    items: list[Any] = [
        (1, b"a", b"", None, b"xyz"),
        (b"PING",),
        (2, b"b", b"r", HEADER, b""),
        (3, b"c", b"", HEADER, b"\r\n"),
    ]
    feed(framing, b"".join(item[0] + b"\r\n" if len(item) == 1 else message(*item) for item in items), [1])
    assert await received(framing) == items


async def test_a_line_longer_than_the_scratch_buffer_is_taken() -> None:
    framing = Framing()
    line = b"INFO " + b"x" * (5 * SCRATCH_BYTES)
    feed(framing, b"PING\r\n" + line + b"\r\nPONG\r\n", [10_000])
    assert await received(framing) == [(b"PING",), (line,), (b"PONG",)]


async def test_a_payload_is_received_in_a_buffer_of_its_own() -> None:
    framing = Framing()
    payload = bytes(range(256)) * 4_000
    feed(framing, message(1, b"a", b"", None, payload) * 2, [100_000])
    first, second = await framing.items()
    assert isinstance(first, Frame)
    assert isinstance(second, Frame)
    first.finish()
    second.finish()
    assert isinstance(first.data, bytearray)
    first.data[:] = bytes(len(payload))
    assert second.data == payload


@pytest.mark.parametrize("line", [b"MSG a", b"MSG a x 3", b"MSG a 1 -3", b"HMSG a 1 20 10", b"HMSG a 1 x 10"])
async def test_what_is_not_the_protocol_is_an_error(line: bytes) -> None:
    framing = Framing()
    feed(framing, line + b"\r\n" + HEADER + b"xxxxxxxx", [1_000])
    with pytest.raises(ProtocolError):
        await framing.items()
