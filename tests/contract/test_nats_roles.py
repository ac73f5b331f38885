"""What each role may not do, against a real server: what is refused does not arrive, while what is allowed does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog

from broker import roles, subjects
from broker.connect import connect
from broker.errors import BrokerError, NoRespondersError, PermissionDeniedError
from broker.lease import Lease, NoLeaseError
from broker.presence import watch_presence
from broker.roles import Account, User
from broker.server import NatsServer
from tests.contract.conftest import Inbox, eventually
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


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    users = (NODE_A, NODE_B, ANY_NODE_OF_A, CONTROLLER_A, CONTROLLER_B)
    async with await NatsServer.start(users=users) as server:
        yield server


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


def url_of(server: NatsServer, user: User, account: Account) -> str:
    return server.url if user is CLIENT else server.url_of(user, account)


def everything(server: NatsServer, account: Account) -> str:
    """Whoever hears, and may send, all of an account."""
    return {"DATA": server.operator_url, "CTRL": server.control_url, "SYS": server.system_url}[account]


@pytest.mark.parametrize(
    ("user", "account", "refused", "allowed"),
    [case[1:] for case in REFUSED_TO_PUBLISH],
    ids=[case[0] for case in REFUSED_TO_PUBLISH],
)
async def test_may_not_publish(
    server: NatsServer, log: list[Any], user: User, account: Account, refused: str, allowed: str
) -> None:
    listener = await connect(everything(server, account))
    sender = await connect(url_of(server, user, account))
    heard = Inbox()
    await listener.subscribe(refused if refused.startswith("$") else ">", heard)
    if refused.startswith("$"):
        await listener.subscribe(allowed, heard)
    for _ in range(20):
        await sender.publish(refused, b"x")
    await sender.publish(allowed, b"x")
    await sender.flush()
    assert (await heard.next()).subject == allowed
    assert heard.waiting == 0
    await eventually(lambda: "broker_refused" in [entry["event"] for entry in log])
    [said] = [entry for entry in log if entry["event"] == "broker_refused"]
    assert (said["action"], said["subject"]) == ("publish", refused)
    assert "docs/security.md" in said["hint"]
    assert user.password not in str(log)
    await sender.close()
    await listener.close()


@pytest.mark.parametrize(
    ("user", "account", "refused", "allowed"),
    [case[1:] for case in REFUSED_TO_SUBSCRIBE],
    ids=[case[0] for case in REFUSED_TO_SUBSCRIBE],
)
async def test_may_not_subscribe(server: NatsServer, user: User, account: Account, refused: str, allowed: str) -> None:
    listener = await connect(url_of(server, user, account))
    sender = await connect(everything(server, account))
    hears_refused, hears_allowed = Inbox(), Inbox()
    with pytest.raises(PermissionDeniedError, match="may not subscribe") as caught:
        await listener.subscribe(refused, hears_refused)
    assert caught.value.subject == refused
    await listener.subscribe(allowed, hears_allowed)
    await sender.publish(refused.replace(">", "x"), b"x")
    await sender.publish(allowed.replace("*", "x"), b"x")
    await hears_allowed.next()
    assert hears_refused.waiting == 0
    await sender.close()
    await listener.close()


async def test_what_the_broker_says_of_itself_reaches_its_own_account_alone(server: NatsServer) -> None:
    system = await connect(server.system_url)
    heard: dict[str, Inbox] = {name: Inbox() for name in ("operator", "control", "system")}
    others = {
        name: await connect(url) for name, url in (("operator", server.operator_url), ("control", server.control_url))
    }
    for name, broker in others.items():
        with pytest.raises(NoRespondersError):
            await broker.request("$SYS.REQ.SERVER.PING.IDZ", timeout_s=1)
        await broker.subscribe("$SYS.>", heard[name])
    await system.subscribe("$SYS.ACCOUNT.*.CONNECT", heard["system"])
    await (await connect(server.url, name="newcomer")).close()
    while b"newcomer" not in bytes((await heard["system"].next()).data):
        pass
    for name, broker in others.items():
        await broker.flush()
        assert heard[name].waiting == 0
        await broker.close()
    await system.close()


async def test_a_controller_hears_of_connections_and_ends_one_and_may_do_no_more(
    server: NatsServer, log: list[Any]
) -> None:
    url = server.url_of(CONTROLLER_A, "SYS")
    watch = await watch_presence(url, lambda process: None)
    await eventually(lambda: watch.active)
    await watch.close()
    assert "presence-unavailable" not in [entry["event"] for entry in log]
    system = await connect(url)
    with pytest.raises(PermissionDeniedError):
        await system.request("$SYS.REQ.SERVER.PING.CONFIG", timeout_s=5)
    with pytest.raises(PermissionDeniedError):
        await system.subscribe("$SYS.>", Inbox())
    await system.close()


async def test_the_lease_is_the_controllers_alone(server: NatsServer) -> None:
    holder, node = await connect(server.url_of(CONTROLLER_A, "CTRL")), await connect(server.url_of(NODE_A, "CTRL"))
    lease = Lease(holder, "a", "me")
    await lease.prepare()
    assert await lease.try_acquire()
    assert await lease.renew()
    for broker, name in ((node, "a"), (holder, "b")):
        with pytest.raises((PermissionDeniedError, NoLeaseError)):
            await Lease(broker, name, "thief").try_acquire()
    assert await lease.renew()
    await lease.release()
    await holder.close()
    await node.close()


async def test_a_request_that_is_refused_fails_at_once(server: NatsServer) -> None:
    client = await connect(server.url)
    async with asyncio.timeout(30):
        with pytest.raises(
            PermissionDeniedError, match=r"may not publish to 'understudy\._\.update\.a'.*docs/security"
        ):
            await client.request(subjects.update("a"), b"{}", timeout_s=60)
    await client.close()


async def test_refusals_do_not_flood_the_log(server: NatsServer, log: list[Any]) -> None:
    client = await connect(server.url)
    for number in range(200):
        await client.publish(subjects.activation("a", number, "one"), b"x")
    await client.flush()
    await eventually(lambda: "broker_refuses_much" in [entry["event"] for entry in log])
    said = [entry for entry in log if entry["event"] == "broker_refused"]
    assert len(said) == 32
    assert sum(entry["event"] == "broker_refuses_much" for entry in log) == 1
    await client.close()


async def test_a_subscription_whose_right_was_lost_is_said_after_the_reconnect(log: list[Any]) -> None:
    node = roles.node("a", "one")
    async with await NatsServer.start(users=[node]) as server:
        broker = await connect(server.url_of(node, "DATA"))
        await broker.subscribe(subjects.frames_in("a"), Inbox())
        rights = roles.Rights(publish=("x",), subscribe=("_INBOX.>",))
        node.rights["DATA"] = rights
        await server.restart()
        await eventually(lambda: any(entry["event"] == "broker_refused" for entry in log))
        await broker.close()


@pytest.mark.parametrize("user", [NODE_A, CONTROLLER_A], ids=["node", "controller"])
@pytest.mark.parametrize("account", ["DATA", "CTRL"])
async def test_a_wrong_password_is_refused(server: NatsServer, user: User, account: Account) -> None:
    url = server.url_of(user, account).replace(user.password, "guess")
    with pytest.raises(BrokerError, match="authorization failed"):
        await connect(url)
