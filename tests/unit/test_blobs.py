"""Blobs: kept by hash, fetched from whoever has them, and never taken for something that they are not."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgpack
import pytest

from broker import subjects
from broker.connect import connect
from broker.control import BlobRef
from broker.memory import MemoryBroker
from broker.port import Broker, Handler, Message
from broker.url import parse_broker_url
from stages.blobs import CHUNK_BYTES, CHUNK_TIMEOUT_S, BlobError, BlobExchange, BlobStore

SEARCH = msgpack.packb({"offset": 0, "length": 0})
DATA = bytes(index * 7 % 251 for index in range(3 * CHUNK_BYTES + 17))


def ref_of(data: bytes) -> BlobRef:
    return BlobRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def age(folder: Path, ref: BlobRef, seconds: float) -> None:
    path = folder / ref.sha256
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


# ---- the store ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_is_put_is_there_whole_and_in_pieces(tmp_path: Path, on_disk: bool) -> None:
    store = BlobStore(tmp_path / "new" / "cache" if on_disk else None)
    ref = store.put(b"0123456789")
    assert ref == ref_of(b"0123456789")
    assert store.get(ref) == b"0123456789"
    assert store.read(ref.sha256, 3, 4) == b"3456"
    assert store.read(ref.sha256, 8, 100) == b"89"
    assert store.get(ref_of(b"other")) is None
    assert store.read(ref_of(b"other").sha256, 0, 1) is None


def test_the_cache_outlives_the_process(tmp_path: Path) -> None:
    ref = BlobStore(tmp_path).put(DATA)
    assert BlobStore(tmp_path).get(ref) == DATA


@pytest.mark.parametrize("damage", [b"", b"short", DATA[:-1], DATA[:-1] + b"!", DATA + b"!"])
def test_a_damaged_file_is_not_given_out_and_is_removed(tmp_path: Path, damage: bytes) -> None:
    store = BlobStore(tmp_path)
    ref = store.put(DATA)
    (tmp_path / ref.sha256).write_bytes(damage)
    assert store.get(ref) is None
    assert not (tmp_path / ref.sha256).exists()


def test_a_folder_that_cannot_be_written_is_replaced_by_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = BlobStore(tmp_path / "file")
    ref = store.put(DATA)
    assert store.get(ref) == DATA
    assert store.read(ref.sha256, 1, 2) == DATA[1:3]


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    store = BlobStore(tmp_path)
    assert store.get(store.put(DATA)) == DATA
    assert list(tmp_path.iterdir()) == []


def test_the_least_recently_used_blobs_make_room(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, limit_bytes=250)
    first, second = store.put(b"1" * 100), store.put(b"2" * 100)
    age(tmp_path, first, 200)
    age(tmp_path, second, 100)
    assert store.get(first) is not None  # used: now the second is the oldest
    third = store.put(b"3" * 100)
    assert [store.get(ref) is not None for ref in (first, second, third)] == [True, False, True]


def test_the_cache_stays_within_its_limit(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, limit_bytes=1000)
    for number in range(40):
        store.put(bytes([number]) * 90)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1000


@pytest.mark.parametrize("where", ["absolute", "relative"])
def test_a_reference_that_is_no_hash_never_touches_a_file_elsewhere(tmp_path: Path, where: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    sha256 = str(precious) if where == "absolute" else "../precious"
    (tmp_path / "cache").mkdir()
    store = BlobStore(tmp_path / "cache")
    with pytest.raises(BlobError, match="is not a SHA-256"):
        store.read(sha256, 0, 100)
    with pytest.raises(BlobError, match="is not a SHA-256"):
        store.get(BlobRef(sha256=sha256, size_bytes=7))
    assert precious.read_text() == "keep me"


# ---- the exchange ---------------------------------------------------------------------------------------------------

Join = Callable[[Path | None], BlobExchange]


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    broker = await connect("memory://blobs")
    yield broker
    await broker.close()


@pytest.fixture
async def join(broker: Broker) -> AsyncIterator[Join]:
    made: list[BlobExchange] = []

    def join(folder: Path | None = None) -> BlobExchange:
        made.append(BlobExchange(broker, BlobStore(folder)))
        return made[-1]

    yield join
    for exchange in made:
        await exchange.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt, so that a test of a failure does not wait for the others."""
    monkeypatch.setattr("stages.blobs.ATTEMPTS", 1)
    monkeypatch.setattr("stages.blobs.CHUNK_TIMEOUT_S", 0.2)


async def offer_by_hand(broker: Broker, ref: BlobRef, on_request: Handler) -> None:
    """A holder that says that it has the blob, and answers requests for it in its own way."""
    own = broker.new_inbox()

    async def say(message: Message) -> None:
        await broker.publish(message.reply, b"", reply=own)

    await broker.subscribe(own, on_request)
    await broker.subscribe(subjects.blob(ref.sha256), say)


async def offered(exchange: BlobExchange, data: bytes) -> BlobRef:
    ref = exchange._store.put(data)
    await exchange.offer(ref)
    return ref


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, len(DATA)])
async def test_a_blob_is_fetched_whole_from_who_has_it(join: Join, tmp_path: Path, size: int) -> None:
    ref = await offered(join(None), DATA[:size])
    assert await join(tmp_path).get(ref) == DATA[:size]
    assert (tmp_path / ref.sha256).read_bytes() == DATA[:size]


async def test_what_is_in_the_cache_is_not_asked_for(join: Join, tmp_path: Path) -> None:
    ref = BlobStore(tmp_path).put(DATA)
    assert await join(tmp_path).get(ref) == DATA


async def test_a_node_that_fetched_a_blob_gives_it_to_its_peers(join: Join, tmp_path: Path) -> None:
    controller, first, second = join(None), join(tmp_path / "1"), join(tmp_path / "2")
    ref = await offered(controller, DATA)
    await first.get(ref)
    await controller.close()
    assert await second.get(ref) == DATA


async def test_a_node_without_a_cache_folder_gives_what_it_fetched_to_its_peers(join: Join) -> None:
    controller, first = join(None), join(None)
    ref = await offered(controller, DATA)
    await first.get(ref)
    await controller.close()
    assert await join(None).get(ref) == DATA


async def test_a_damaged_cache_file_is_fetched_again(join: Join, tmp_path: Path) -> None:
    ref = await offered(join(None), DATA)
    node = join(tmp_path)
    await node.get(ref)
    (tmp_path / ref.sha256).write_bytes(b"rotten")
    assert await node.get(ref) == DATA
    assert (tmp_path / ref.sha256).read_bytes() == DATA


@pytest.mark.usefixtures("impatient")
async def test_a_blob_that_nobody_has_is_named_with_the_reason(join: Join) -> None:
    with pytest.raises(BlobError, match=r"cannot be fetched: nobody listens"):
        await join(None).get(ref_of(b"nowhere"))


@pytest.mark.usefixtures("impatient")
async def test_a_holder_that_has_lost_the_blob_is_named_as_the_reason(join: Join, tmp_path: Path) -> None:
    ref = await offered(join(tmp_path), DATA)
    (tmp_path / ref.sha256).unlink()
    with pytest.raises(BlobError, match="0 bytes came in place of"):
        await join(None).get(ref)


async def test_a_holder_whose_file_was_damaged_does_not_spoil_what_others_fetch(join: Join, tmp_path: Path) -> None:
    controller, damaged = join(None), join(tmp_path)
    ref = await offered(controller, DATA)
    await damaged.get(ref)
    (tmp_path / ref.sha256).write_bytes(bytes(len(DATA)))
    assert await join(None).get(ref) == DATA


@pytest.mark.usefixtures("impatient")
async def test_what_has_another_hash_than_was_asked_for_is_refused_and_not_kept(
    broker: Broker, join: Join, tmp_path: Path
) -> None:
    ref = ref_of(b"right")

    async def lie(message: Message) -> None:
        await broker.publish(message.reply, b"wrong")

    await offer_by_hand(broker, ref, lie)
    with pytest.raises(BlobError, match="has another hash, twice"):
        await join(tmp_path).get(ref)
    assert list(tmp_path.iterdir()) == []


async def test_a_chunk_that_was_damaged_on_its_way_is_fetched_again(broker: Broker, join: Join) -> None:
    ref, asked = ref_of(b"right"), []

    async def stumble(message: Message) -> None:
        asked.append(message)
        await broker.publish(message.reply, b"wrong" if len(asked) == 1 else b"right")

    await offer_by_hand(broker, ref, stumble)
    assert await join(None).get(ref) == b"right"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"\xc1",
        msgpack.packb(5),
        msgpack.packb([]),
        msgpack.packb({}),
        msgpack.packb({"offset": -1, "length": 1}),
        msgpack.packb({"offset": 0, "length": -1}),
        msgpack.packb({"offset": 0, "length": CHUNK_BYTES + 1}),
        msgpack.packb({"offset": "0", "length": 1}),
        msgpack.packb({"offset": 10**9, "length": 1}),
    ],
    ids=repr,
)
async def test_a_malformed_request_is_answered_with_nothing(broker: Broker, join: Join, request_bytes: bytes) -> None:
    exchange = join(None)
    ref = await offered(exchange, DATA)
    await broker.publish(subjects.blob(ref.sha256), request_bytes, reply="not.answered")
    found = await broker.request(subjects.blob(ref.sha256), SEARCH, timeout_s=5)
    answer = await broker.request(found.reply, request_bytes, timeout_s=5)
    assert bytes(answer.data) == b""
    assert exchange._malformed.counts == {"blob": 2}


async def test_chunks_fit_the_broker_however_small_its_messages_are(tmp_path: Path) -> None:
    small = await MemoryBroker.connect(parse_broker_url("memory://small"), max_payload_bytes=1000)
    holder, asker = BlobExchange(small, BlobStore(None)), BlobExchange(small, BlobStore(tmp_path))
    ref = await offered(holder, DATA[:2345])
    assert await asker.get(ref) == DATA[:2345]
    await small.close()


async def test_a_closed_exchange_offers_nothing_any_more(broker: Broker, join: Join) -> None:
    exchange = join(None)
    ref = await offered(exchange, DATA)
    await exchange.close()
    assert not broker._hub._subscriptions  # type: ignore[attr-defined]
    await exchange.offer(ref)
    assert len(broker._hub._subscriptions) == 2  # type: ignore[attr-defined]
    assert await join(None).get(ref) == DATA


# ---- holders that hang -----------------------------------------------------------------------------------------------


class Holders:
    """All who hold a blob, each of which says so; of the requests for a chunk some go to a holder that hangs."""

    def __init__(self, broker: Broker, data: bytes, *, hung: Callable[[int], bool]) -> None:
        self._broker = broker
        self._data = data
        self._hung = hung
        self.asked = 0

    async def __call__(self, message: Message) -> None:
        self.asked += 1
        if not self._hung(self.asked - 1):
            request = msgpack.unpackb(message.data)
            end = request["offset"] + request["length"]
            await self._broker.publish(message.reply, self._data[request["offset"] : end])


async def test_a_holder_that_never_answers_holds_up_no_fetch(broker: Broker, join: Join) -> None:
    data = DATA[:1000]
    ref = ref_of(data)
    holders = Holders(broker, data, hung=lambda number: number == 0)
    await offer_by_hand(broker, ref, holders)
    began = time.monotonic()
    assert await join(None).get(ref) == data
    assert time.monotonic() - began < CHUNK_TIMEOUT_S
    assert holders.asked == 2


async def test_a_second_holder_that_hangs_as_well_holds_up_no_fetch(broker: Broker, join: Join) -> None:
    data = DATA[:1000]
    ref = ref_of(data)
    holders = Holders(broker, data, hung=lambda number: number < 2)
    await offer_by_hand(broker, ref, holders)
    began = time.monotonic()
    assert await join(None).get(ref) == data
    assert time.monotonic() - began < CHUNK_TIMEOUT_S
    assert holders.asked == 3


async def test_holders_that_are_cut_off_hold_up_nothing(
    broker: Broker, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.blobs.LEAST_PATIENCE_S", 60.0)
    silent: list[Message] = []

    async def hear(message: Message) -> None:
        silent.append(message)

    for _ in range(5):
        await broker.subscribe(subjects.blob(ref_of(DATA).sha256), hear)
    ref = await offered(join(None), DATA)
    async with asyncio.timeout(CHUNK_TIMEOUT_S):
        assert await join(None).get(ref) == DATA
    assert len(silent) == 5 * 4  # each was asked about every chunk


async def test_an_answer_that_names_no_holder_is_an_attempt_that_failed(
    broker: Broker, join: Join, impatient: None
) -> None:
    async def answer(message: Message) -> None:
        await broker.publish(message.reply, b"what?")

    await broker.subscribe(subjects.blob(ref_of(DATA).sha256), answer)
    with pytest.raises(BlobError, match="does not say whom to ask"):
        await join(None).get(ref_of(DATA))


async def test_a_holder_that_hangs_makes_nobody_more_patient_with_it(tmp_path: Path) -> None:
    """Half of the requests go to a holder that hangs: chunk after chunk is as late as the first, and not later."""
    small = await MemoryBroker.connect(parse_broker_url("memory://hung"), max_payload_bytes=1000)
    data = DATA[:30_000]  # 60 chunks, four at a time
    ref = ref_of(data)
    holders = Holders(small, data, hung=lambda number: number % 2 == 0)
    await offer_by_hand(small, ref, holders)
    exchange = BlobExchange(small, BlobStore(tmp_path))
    try:
        async with asyncio.timeout(3 * CHUNK_TIMEOUT_S):
            assert await exchange.get(ref) == data
    finally:
        await exchange.close()
        await small.close()
