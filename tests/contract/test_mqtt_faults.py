"""MQTT connections that are lost, refused or taken over: on mosquitto and on nats-server's listener."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import paho.mqtt.client as paho
import pytest

from broker import subjects
from broker.connect import connect
from broker.errors import BrokerError, BrokerUnreachableError, PayloadTooLargeError
from broker.lease import Lease, NoLeaseError
from broker.mqtt_session import OUTBOUND_BUFFER_BYTES
from broker.port import Message
from broker.presence import CONTROL_SUFFIX, NodeProcess, NoPresence, connection_name, watch_presence
from stages.blobs import CHUNK_BYTES, BlobExchange, BlobStore
from tests.contract.authority import Authority
from tests.contract.conftest import Inbox, eventually
from tests.contract.mqtt_servers import MqttServer, mosquitto, nats_listener
from tests.contract.talker import check_cut_off, end, start_talker

BROKERS = {"mosquitto": mosquitto, "nats-server": nats_listener}
ONE = NodeProcess("one", "0123456789abcdef")


@pytest.fixture(params=list(BROKERS))
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[MqttServer]:
    async with BROKERS[request.param]() as server:
        yield server


# ---- a broker that goes away ---------------------------------------------------------------------------------------


async def test_a_restart_loses_no_subscription_and_what_was_published_meanwhile_is_sent(broker: MqttServer) -> None:
    here, there, inbox, told = await connect(broker.url), await connect(broker.url), Inbox(), []
    await there.subscribe("a.*", inbox)
    here.on_connection(told.append)
    await broker.kill()
    await eventually(lambda: not here.connected and not there.connected)
    await broker.start()
    await eventually(lambda: there.connected)  # what comes before its subscriptions are back is for nobody
    await here.publish("a.b", b"in between", headers={"k": "v"})
    message = await inbox.next()
    assert (bytes(message.data), message.headers) == (b"in between", {"k": "v"})
    await here.flush()
    assert told == [False, True]
    await here.close()
    await there.close()


async def test_while_the_broker_is_away_publishing_goes_on_until_the_buffer_is_full(broker: MqttServer) -> None:
    here = await connect(broker.url)
    await broker.kill()
    await eventually(lambda: not here.connected)
    piece = bytes(4 << 20)
    for _ in range(OUTBOUND_BUFFER_BYTES // len(piece) - 1):
        await here.publish("a", piece)
    with pytest.raises(BrokerError, match="outbound buffer is full"):
        await here.publish("a", piece)
    assert not await here.publish_now([Message(subject="a", data=b"")], lambda: True)
    with pytest.raises(BrokerError, match="not confirmed within"):
        await here.flush(timeout_s=0.1)
    await here.close()


async def test_an_answer_that_was_put_out_at_once_does_not_come_again_on_another_connection(broker: MqttServer) -> None:
    here, there, inbox = await connect(broker.url), await connect(broker.url), Inbox()
    out = subjects.results_out("p")
    assert await here.publish_now([Message(subject=out, data=b"1")], lambda: True)
    await broker.kill()
    await broker.start()
    await eventually(lambda: here.connected and there.connected)
    await there.subscribe(out, inbox)
    await here.flush()
    assert await here.publish_now([Message(subject=out, data=b"2")], lambda: True)
    assert bytes((await inbox.next()).data) == b"2"
    assert inbox.waiting == 0
    await here.close()
    await there.close()


async def test_of_several_servers_the_one_that_is_there_is_used(broker: MqttServer) -> None:
    here = await connect(f"mqtt://127.0.0.1:1,{broker.url}")
    await here.flush()
    await here.close()


async def run(*command: str) -> tuple[int | None, str]:
    """Exit code, and what it wrote to stderr."""
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await child.communicate()
    return child.returncode, errors.decode()


# ---- what is refused -----------------------------------------------------------------------------------------------


async def test_where_nobody_listens_the_error_says_so() -> None:
    with pytest.raises(
        BrokerUnreachableError, match=r"no broker answers at mqtt://127\.0\.0\.1:1 \(connection refused\)"
    ):
        await connect("mqtt://127.0.0.1:1", connect_timeout_s=1.0)


async def test_a_command_whose_broker_does_not_say_a_word_ends_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        code, errors = await run(sys.executable, "-m", "understudy", "status", "--broker", url)
    assert code == 2
    assert errors.splitlines() == [f"understudy: no broker answers at {url} (timed out): start one, or check --broker"]


async def test_a_wrong_password_fails_at_once_and_is_not_shown(tmp_path: Path) -> None:
    # A file of passwords without any: nobody gets in.
    (tmp_path / "passwords").touch()
    async with mosquitto(f"allow_anonymous false\npassword_file {tmp_path / 'passwords'}\n") as server:
        address = server.url.removeprefix("mqtt://")
        with pytest.raises(BrokerUnreachableError, match="authorization failed") as caught:
            await connect(f"mqtt://me:secret@{address}", connect_timeout_s=10)
        assert "secret" not in str(caught.value)


async def test_over_tls_the_certificate_is_checked_and_large_messages_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    files = ["-keyout", str(key), "-out", str(certificate)]
    assert (await run(*command.split(), *files))[0] == 0
    async with mosquitto(f"certfile {certificate}\nkeyfile {key}\n") as server:
        url = server.url.replace("mqtt://", "mqtts://")
        code, errors = await run(sys.executable, "-m", "understudy", "status", "--broker", url)
        assert code == 2
        assert "certificate" in errors
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        here, there, inbox = await connect(url), await connect(f"{url}?ca={certificate}"), Inbox()
        await there.subscribe("a", inbox)
        for size in (10, 4 << 20, 100_000, 0):
            await here.publish("a", bytes(size))
        assert await here.publish_now([Message(subject="a", data=bytes(1 << 20))], lambda: True)
        assert [len(message.data) for message in await inbox.take(5)] == [10, 4 << 20, 100_000, 0, 1 << 20]
        await here.flush()
        await here.close()
        await there.close()


async def test_a_broker_that_wants_a_certificate_or_does_not_take_ours_is_said_to(
    tmp_path: Path,
) -> None:
    """In TLS 1.3 it looks at it after the handshake, and ends the connection."""
    authority, other = Authority(tmp_path / "authority"), Authority(tmp_path / "other")
    settings = (
        f"certfile {authority.folder}/server.pem\nkeyfile {authority.folder}/server.key\n"
        f"cafile {authority.ca}\nrequire_certificate true\n"
    )
    async with mosquitto(settings) as server:
        url = server.url.replace("mqtt://", "mqtts://")
        known = await connect(url + authority.known)
        await known.flush()
        await known.close()
        with pytest.raises(BrokerUnreachableError, match="wants a certificate of ours: add"):
            await connect(url + authority.trusting)
        with pytest.raises(BrokerUnreachableError, match="does not accept our certificate"):
            await connect(f"{url}{authority.trusting}&{other.known.partition('&')[2]}")


async def test_what_ends_the_connection_without_an_answer_is_no_broker() -> None:
    async def end(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(end, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnreachableError, match="it ended the connection before it answered"):
            await connect(f"mqtt://127.0.0.1:{port}", connect_timeout_s=0.5)


async def test_headers_count_towards_the_limit(broker: MqttServer) -> None:
    here = await connect(broker.url)
    with pytest.raises(PayloadTooLargeError):
        await here.publish("a", bytes(here.max_payload_bytes), headers={"k": "v"})
    await here.flush()
    await here.close()


async def test_there_is_no_lease(broker: MqttServer) -> None:
    here = await connect(broker.url)
    with pytest.raises(NoLeaseError, match="MQTT has no JetStream"):
        await Lease(here, "digits", "me").prepare()
    await here.close()


async def test_the_route_is_kept_for_who_comes_later_and_recognised_as_old(broker: MqttServer) -> None:
    here, there, before, later = await connect(broker.url), await connect(broker.url), Inbox(), Inbox()
    await there.subscribe(subjects.activate("*"), before)
    await here.publish(subjects.activate("digits"), b"route")
    assert not (await before.next()).retained
    await here.flush()
    newcomer = await connect(broker.url)
    await newcomer.subscribe(subjects.activate("*"), later)
    message = await later.next()
    assert (bytes(message.data), message.retained) == (b"route", True)
    for one in (here, there, newcomer):
        await one.close()


async def test_an_event_that_a_stranger_had_the_broker_keep_is_not_heard_again(broker: MqttServer) -> None:
    camera = paho.Client(paho.CallbackAPIVersion.VERSION2)
    camera.connect("127.0.0.1", urlsplit(broker.url).port or 1883)
    camera.loop_start()
    camera.publish("understudy/digits/in", b"old", qos=1, retain=True).wait_for_publish(10)
    here, inbox = await connect(broker.url), Inbox()
    await here.subscribe(subjects.frames_in("digits"), inbox)
    camera.publish("understudy/digits/in", b"new", qos=1, retain=True)
    assert bytes((await inbox.next()).data) == b"new"
    camera.disconnect()
    camera.loop_stop()
    await here.close()


# ---- who is there --------------------------------------------------------------------------------------------------


async def test_a_killed_process_is_told_once_and_one_that_says_goodbye_is_not(broker: MqttServer) -> None:
    gone: list[NodeProcess] = []
    watch = await watch_presence(broker.url, gone.append)
    assert watch.active
    name = connection_name("polite", "f" * 16)
    polite = [await connect(broker.url, name=name), await connect(broker.url, name=name + CONTROL_SUFFIX)]
    for one in polite:
        await one.close()
    await end(await start_talker(broker.url, broker.url, ONE.connection_name))
    await eventually(lambda: bool(gone))
    assert gone == [ONE]
    await watch.close()


async def test_what_a_stopped_process_has_on_the_way_reaches_nobody_once_it_is_cut_off(broker: MqttServer) -> None:
    gone: list[NodeProcess] = []
    watch = await watch_presence(broker.url, gone.append)
    listener = await connect(broker.url)
    child = await start_talker(broker.url, broker.url, ONE.connection_name)
    try:
        await check_cut_off(child, listener, lambda: watch.cut_off(ONE))
        assert gone == []  # its other connection is there
    finally:
        await end(child)
        await listener.close()
        await watch.close()


async def test_where_no_broker_answers_heartbeats_alone_decide() -> None:
    assert isinstance(await watch_presence("mqtt://127.0.0.1:1", lambda _: None), NoPresence)


# ---- blobs ----------------------------------------------------------------------------------------------------------


async def test_of_several_holders_one_sends_a_chunk(broker: MqttServer) -> None:
    blob = os.urandom(3 * CHUNK_BYTES + 17)
    holders = [await connect(broker.url) for _ in range(3)]
    exchanges = [BlobExchange(holder, BlobStore(None)) for holder in holders]
    for exchange in exchanges:
        ref = exchange._store.put(blob)
        await exchange.offer(ref)
    seen = 0  # bytes of all answers, to whomever

    async def count(message: Message) -> None:
        nonlocal seen
        seen += len(message.data)

    spy = await connect(broker.url)
    await spy.subscribe("_INBOX.>", count)
    own = await connect(broker.url)
    exchange = BlobExchange(own, BlobStore(None))
    assert await exchange.get(ref) == blob
    await spy.flush()
    await eventually(lambda: seen >= len(blob))
    assert seen < 1.5 * len(blob)
    await spy.close()
    for one in (*exchanges, exchange):
        await one.close()
    for holder in (*holders, own):
        await holder.close()
