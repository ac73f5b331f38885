"""What each role may not do on mosquitto, with the files that `broker.mosquitto` writes: what is refused does not
arrive, while what is allowed does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker import roles, subjects
from broker.connect import connect
from broker.errors import BrokerUnreachableError, PermissionDeniedError, RequestTimeoutError
from broker.mosquitto import render_acl, render_passwords
from broker.mqtt_presence import MqttPresence
from broker.port import Message
from broker.presence import NodeProcess, connection_name
from broker.roles import User
from tests.contract.authority import Authority
from tests.contract.conftest import Inbox, eventually
from tests.contract.mqtt_servers import MqttServer, mosquitto, nats_listener
from tests.contract.refusals import (
    ANY_NODE_OF_A,
    CLIENT,
    CONTROLLER_A,
    CONTROLLER_B,
    NODE_A,
    NODE_B,
    REFUSED_TO_PUBLISH,
    REFUSED_TO_SUBSCRIBE,
)

OPERATOR = roles.operator()
USERS = (CLIENT, OPERATOR, NODE_A, NODE_B, ANY_NODE_OF_A, CONTROLLER_A, CONTROLLER_B)
INCARNATION = "0123456789abcdef"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[MqttServer]:
    passwords, acl = tmp_path / "passwords", tmp_path / "acl"
    passwords.write_text(render_passwords(USERS))
    acl.write_text(render_acl(USERS))
    async with mosquitto(f"allow_anonymous false\npassword_file {passwords}\nacl_file {acl}\n") as server:
        yield server


def url_of(server: MqttServer, user: User) -> str:
    return server.url.replace("//", f"//{user.name}:{user.password}@")


def with_topics(cases: list[tuple[str, User, str, str, str]]) -> list[object]:
    """Those that MQTT can say: what begins with '$' is NATS's."""
    return [
        pytest.param(user, refused, allowed, id=what) for what, user, _, refused, allowed in cases if "$" not in refused
    ]


@pytest.mark.parametrize(("user", "refused", "allowed"), with_topics(REFUSED_TO_PUBLISH))
async def test_may_not_publish(server: MqttServer, user: User, refused: str, allowed: str) -> None:
    listener, sender = await connect(url_of(server, OPERATOR)), await connect(url_of(server, user))
    heard = Inbox()
    await listener.subscribe(">", heard)
    await sender.publish(refused, b"x")
    await sender.publish(allowed, b"x")
    assert (await heard.next()).subject == allowed
    await sender.flush()
    await listener.flush()
    assert refused not in [message.subject for message in await heard.take(heard.waiting)]
    await sender.close()
    await listener.close()


@pytest.mark.parametrize(("user", "refused", "allowed"), with_topics(REFUSED_TO_SUBSCRIBE))
async def test_what_may_not_be_heard_does_not_arrive(
    server: MqttServer, user: User, refused: str, allowed: str
) -> None:
    """mosquitto grants the subscription, and delivers nothing."""
    curious, listener = await connect(url_of(server, user)), await connect(url_of(server, user))
    sender = await connect(url_of(server, OPERATOR))
    hears_refused, hears_allowed = Inbox(), Inbox()
    await curious.subscribe(refused, hears_refused)
    await listener.subscribe(allowed, hears_allowed)
    secret, public = (subject.replace(">", "x").replace("*", "x") for subject in (refused, allowed))
    await sender.publish(secret, b"x")
    await sender.publish(public, b"x")
    await hears_allowed.next()
    await curious.flush()
    heard = [message.subject for message in await hears_refused.take(hears_refused.waiting)]
    assert secret not in heard
    for one in (curious, listener, sender):
        await one.close()


async def test_a_retained_route_is_the_controllers_alone(server: MqttServer) -> None:
    route = subjects.activate("a")
    controller, node, client = [await connect(url_of(server, user)) for user in (CONTROLLER_A, NODE_A, CLIENT)]
    await controller.publish(route, b"true")
    await controller.flush()
    for other in (node, client):
        await other.publish(route, b"forged")
        await other.flush()
    heard = Inbox()
    await node.subscribe(route, heard)
    assert bytes((await heard.next()).data) == b"true"
    assert heard.waiting == 0
    for one in (controller, node, client):
        await one.close()


async def test_an_answer_is_for_who_has_asked(server: MqttServer) -> None:
    node, asks, curious = [await connect(url_of(server, user)) for user in (CONTROLLER_A, CLIENT, CLIENT)]
    heard, answers = Inbox(), Inbox()
    await curious.subscribe("_INBOX.>", heard)

    async def answer(message: Message) -> None:
        await node.publish(message.reply, b"answer")

    await node.subscribe(subjects.STATUS, answer)
    assert bytes((await asks.request(subjects.STATUS, timeout_s=5)).data) == b"answer"
    # Nor can an answer be made up.
    inbox = asks.new_inbox()
    await asks.subscribe(inbox, answers)
    await curious.publish(inbox, b"forged")
    await curious.flush()
    await node.publish(inbox, b"true")
    assert bytes((await answers.next()).data) == b"true"
    await curious.flush()  # whose message to itself is all that it hears
    assert not [one for one in await heard.take(heard.waiting) if bytes(one.data)]
    for each in (node, asks, curious):
        await each.close()


async def test_a_request_that_is_refused_is_not_answered(server: MqttServer) -> None:
    operator, client = await connect(url_of(server, OPERATOR)), await connect(url_of(server, CLIENT))
    heard = Inbox()
    await operator.subscribe(subjects.update("a"), heard)
    with pytest.raises(RequestTimeoutError):
        await client.request(subjects.update("a"), b"{}", timeout_s=0.2)
    await client.flush()
    await operator.flush()
    assert heard.waiting == 0
    await client.close()
    await operator.close()


async def test_the_controller_hears_of_a_crash_and_cuts_off_who_hangs(server: MqttServer) -> None:
    process, gone = NodeProcess("one", INCARNATION), asyncio.Event()
    watch = await MqttPresence.start(url_of(server, CONTROLLER_A), lambda found: gone.set())
    node = await connect(url_of(server, NODE_A), name=process.connection_name)
    lost = asyncio.Event()
    node.on_connection(lambda connected: None if connected else lost.set())
    assert await watch.cut_off(process)
    async with asyncio.timeout(5):
        await lost.wait()
    await eventually(lambda: node.connected)  # it is alive after all
    for suffix in ("", "-control"):
        await crash(server, NODE_A, process.connection_name + suffix)
    async with asyncio.timeout(5):
        await gone.wait()
    await node.close()
    await watch.close()


async def test_nobody_leaves_another_ones_last_will(server: MqttServer) -> None:
    listener, forger = await connect(url_of(server, CONTROLLER_A)), await connect(url_of(server, NODE_B))
    heard = Inbox()
    await listener.subscribe(subjects.GONE, heard)
    await forger.publish(subjects.gone(connection_name("one", INCARNATION)), b"")
    await forger.flush()
    await crash(server, NODE_B, connection_name("two", INCARNATION))
    assert (await heard.next()).subject == subjects.gone(connection_name("two", INCARNATION))
    assert heard.waiting == 0
    await listener.close()
    await forger.close()


async def test_the_roles_come_by_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    (tmp_path / "passwords").write_text(render_passwords(USERS))
    settings = f"allow_anonymous false\npassword_file {tmp_path}/passwords\n"
    files = f"certfile {authority.folder}/server.pem\nkeyfile {authority.folder}/server.key\n"
    async with mosquitto(settings + files) as server:
        url = url_of(server, NODE_A).replace("mqtt://", "mqtts://") + authority.trusting
        node = await connect(url)
        await node.flush()
        await node.close()
        with pytest.raises(BrokerUnreachableError, match="authorization failed"):
            await connect(url.replace(NODE_A.password, "guess"))


@pytest.mark.parametrize("user", USERS, ids=lambda user: user.name)
async def test_a_wrong_password_is_refused(server: MqttServer, user: User) -> None:
    with pytest.raises(BrokerUnreachableError, match="authorization failed") as caught:
        await connect(url_of(server, user).replace(user.password, "guess"))
    assert "guess" not in str(caught.value)


async def test_who_has_no_user_is_refused(server: MqttServer) -> None:
    with pytest.raises(BrokerUnreachableError, match="authorization failed"):
        await connect(server.url)


def test_no_password_can_be_read_in_the_files() -> None:
    written = render_passwords(USERS) + render_acl(USERS)
    assert not [user for user in USERS if user.password in written]


async def test_a_subscription_that_the_broker_refuses_is_an_error() -> None:
    """nats-server's listener refuses one; mosquitto does not."""
    async with nats_listener() as listener:
        client = await connect(listener.client_url)
        with pytest.raises(PermissionDeniedError, match=r"may not subscribe to 'understudy\.a\.in'.*docs/security"):
            await client.subscribe(subjects.frames_in("a"), Inbox())
        await client.subscribe(subjects.results_out("a"), Inbox())
        await client.close()


async def crash(server: MqttServer, user: User, name: str) -> None:
    """End a connection of that name without a goodbye."""
    from broker.mqtt_link import Link, LinkSettings
    from broker.mqtt_topics import topic_of
    from broker.url import Credentials

    settings = LinkSettings(
        client_id=name,
        credentials=Credentials(user=user.name, password=user.password),
        will=topic_of(subjects.gone(name)),
    )
    link = await Link.open(server.url, settings, on_message=lambda *_: None, on_confirmed=lambda _: None)
    link.abort()
    await link.lost()
