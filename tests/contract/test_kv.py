"""A key-value bucket in a real nats-server: of each key the newest value."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.connect import connect
from broker.errors import BrokerError, NoRespondersError
from broker.kv import Bucket, NoBucketError
from broker.port import Broker
from broker.server import NatsServer
from tests.contract.conftest import Inbox, eventually

AGE_S = 2.0


@pytest.fixture
async def one(server: NatsServer) -> AsyncIterator[Broker]:
    broker = await connect(server.control_url, name="one")
    yield broker
    await broker.close()


@pytest.fixture
async def other(server: NatsServer) -> AsyncIterator[Broker]:
    broker = await connect(server.control_url, name="other")
    yield broker
    await broker.close()


@pytest.fixture
async def bucket(one: Broker) -> Bucket:
    made = Bucket(one, "things", storage="file")
    await made.prepare()
    return made


async def test_the_newest_value_of_a_key_is_there_for_everybody_until_it_is_removed(
    bucket: Bucket, other: Broker
) -> None:
    theirs = Bucket(other, "things", storage="file")
    await theirs.prepare()  # it is there: nothing happens to it
    assert await theirs.get("a") is None
    first = await bucket.put("a", b"first")
    second = await theirs.put("a", bytes(range(256)))
    await bucket.put("b", b"")
    assert first is not None
    assert second is not None
    assert second > first
    assert await bucket.get("a") == bytes(range(256))
    assert await bucket.get("b") == b""
    await theirs.remove("a")
    assert await bucket.get("a") is None
    assert await bucket.get("b") == b""
    await theirs.remove("a")


async def test_who_expects_another_value_than_the_newest_puts_nothing(bucket: Bucket) -> None:
    first = await bucket.put("a", b"first", expected=0)
    assert first is not None
    assert await bucket.put("a", b"second", expected=0) is None
    assert await bucket.put("a", b"second", expected=first + 1) is None
    assert await bucket.get("a") == b"first"
    assert await bucket.put("a", b"second", expected=first) == first + 1
    assert await bucket.get("a") == b"second"
    await bucket.remove("a")
    assert await bucket.put("a", b"third", expected=0) is not None


async def test_who_subscribes_to_a_key_hears_its_values_and_nothing_of_their_removal(
    bucket: Bucket, other: Broker
) -> None:
    inbox = Inbox()
    await other.subscribe(bucket.subject("a"), inbox)
    await bucket.put("a", b"first")
    await bucket.put("b", b"of another key")
    await bucket.remove("a")
    await bucket.put("a", b"second")
    assert [bytes(message.data) for message in await inbox.take(2)] == [b"first", b"second"]


async def test_a_value_that_another_client_has_deleted_is_not_there(bucket: Bucket, one: Broker) -> None:
    await bucket.put("a", b"first")
    await one.request(bucket.subject("a"), timeout_s=1.0, headers={"KV-Operation": "DEL"})
    assert await bucket.get("a") is None


async def test_a_value_is_gone_after_its_age(one: Broker) -> None:
    bucket = Bucket(one, "short", storage="memory", max_age_s=AGE_S)
    await bucket.prepare()
    await bucket.put("a", b"first")
    assert await bucket.get("a") == b"first"

    async def gone() -> bool:
        return await bucket.get("a") is None

    await eventually(gone, within_s=5 * AGE_S)


@pytest.mark.parametrize("storage", ["memory", "file"])
async def test_a_value_outlives_the_server_in_a_file_alone(server: NatsServer, storage: str) -> None:
    async def fresh() -> tuple[Broker, Bucket]:
        broker = await connect(server.control_url, name="one")
        return broker, Bucket(broker, "things", storage=storage)  # type: ignore[arg-type]

    broker, bucket = await fresh()
    await bucket.prepare()
    await bucket.put("a", b"first")
    await broker.close()
    await server.kill()
    await server.restart()
    broker, bucket = await fresh()
    try:
        if storage == "file":
            assert await bucket.get("a") == b"first"
        else:
            with pytest.raises(NoRespondersError):
                await bucket.put("a", b"second")
            with pytest.raises(BrokerError, match=r"\$KV\.things\.a"):
                await bucket.get("a")
    finally:
        await broker.close()


async def test_another_bucket_of_the_same_name_is_refused(bucket: Bucket, one: Broker) -> None:
    with pytest.raises(NoBucketError, match="'things'"):
        await Bucket(one, "things", storage="memory").prepare()


async def test_a_server_without_jetstream_has_no_bucket(without_jetstream: str) -> None:
    broker = await connect(without_jetstream, name="one")
    try:
        with pytest.raises(NoBucketError, match=r"has no JetStream: start nats-server with -js"):
            await Bucket(broker, "things", storage="file").prepare()
    finally:
        await broker.close()
