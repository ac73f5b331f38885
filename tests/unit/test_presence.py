"""Who is connected, told by the broker: names of connections, what the events add up to, and real processes killed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.connect import connect
from broker.nats_presence import ConnectionEvent, Connections, NatsPresence
from broker.presence import (
    CONTROL_SUFFIX,
    NodeProcess,
    NoPresence,
    connection_name,
    parse_connection_name,
    watch_presence,
)
from broker.server import NatsServer
from tests.contract.conftest import eventually
from tests.contract.talker import check_cut_off, end, start_talker

INCARNATION = "0123456789abcdef"
ONE = NodeProcess("one", INCARNATION)
DATA, CONTROL = connection_name("one", INCARNATION), connection_name("one", INCARNATION) + CONTROL_SUFFIX

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True)
incarnations = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)


# ---- names ---------------------------------------------------------------------------------------------------------


@given(names, incarnations, st.sampled_from(["", CONTROL_SUFFIX]))
def test_a_connection_of_a_node_says_whose_it_is(node: str, incarnation: str, role: str) -> None:
    assert parse_connection_name(connection_name(node, incarnation) + role) == NodeProcess(node, incarnation)


@pytest.mark.parametrize("node", ["a-control", f"a-{INCARNATION}", f"a-{INCARNATION}-control", "understudy-node-b"])
def test_a_node_may_be_called_like_a_part_of_a_connection(node: str) -> None:
    assert parse_connection_name(connection_name(node, "f" * 16) + CONTROL_SUFFIX) == NodeProcess(node, "f" * 16)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "understudy",
        "understudy-up",
        "understudy-node-one",
        "understudy-node-one-control",
        f"understudy-node--{INCARNATION}",
        f"understudy-node-one-{INCARNATION}-other",
        f"understudy-node-one-{INCARNATION.upper()}",
        f"understudy-node-one-{INCARNATION}\n",
        f" understudy-node-one-{INCARNATION}",
    ],
)
def test_a_connection_of_anybody_else_is_nobodys(name: str) -> None:
    assert parse_connection_name(name) is None


# ---- what events add up to -----------------------------------------------------------------------------------------


def event(name: str, number: int, server: str = "S1") -> ConnectionEvent:
    return ConnectionEvent(ONE, name, (server, number))


def test_a_process_is_gone_when_its_last_connection_is() -> None:
    connections = Connections()
    connections.connected(event(DATA, 1))
    connections.connected(event(CONTROL, 2))
    assert not connections.disconnected(event(CONTROL, 2))
    assert connections.disconnected(event(DATA, 1))
    assert not connections.disconnected(event(DATA, 1))


def test_a_connection_that_is_made_again_before_the_other_ends_keeps_the_process() -> None:
    connections = Connections()
    connections.connected(event(DATA, 1))
    connections.connected(event(CONTROL, 2))
    assert not connections.disconnected(event(DATA, 1))
    connections.connected(event(DATA, 3))
    assert not connections.disconnected(event(CONTROL, 2))
    assert connections.disconnected(event(DATA, 3))


def test_the_late_notice_that_an_old_connection_has_ended_says_nothing() -> None:
    connections = Connections()
    connections.connected(event(DATA, 1))
    connections.connected(event(DATA, 1, server="S2"))
    assert not connections.disconnected(event(DATA, 1))
    assert connections.disconnected(event(DATA, 1, server="S2"))


def test_a_list_that_is_older_than_the_end_of_a_connection_does_not_bring_it_back() -> None:
    connections = Connections()
    connections.connected(event(DATA, 1))
    connections.connected(event(CONTROL, 2))
    connections.disconnected(event(DATA, 1))
    connections.connected(event(DATA, 1))
    assert connections.disconnected(event(CONTROL, 2))


def test_a_process_that_was_never_seen_to_connect_is_not_gone() -> None:
    assert not Connections().disconnected(event(DATA, 1))


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([DATA, CONTROL]), st.integers(1, 4)), max_size=40))
def test_a_process_is_never_gone_while_a_connection_of_it_is_open(steps: list[tuple[bool, str, int]]) -> None:
    connections, open_ids, ended = Connections(), {}, set()
    for connects, name, number in steps:
        found = event(name, number + (10 if name == CONTROL else 0))  # a number belongs to one connection
        if connects:
            connections.connected(found)
            if found.id not in ended:
                open_ids[name] = found.id
        else:
            ended.add(found.id)
            gone = connections.disconnected(found)
            if open_ids.get(name) == found.id:
                del open_ids[name]
                assert gone == (not open_ids)
            else:
                assert not gone


# ---- a real server and real processes ------------------------------------------------------------------------------


class Gone:
    def __init__(self) -> None:
        self.told: list[NodeProcess] = []

    def __call__(self, process: NodeProcess) -> None:
        self.told.append(process)


async def start_child(server: NatsServer, name: str) -> asyncio.subprocess.Process:
    return await start_talker(server.operator_url, server.control_url, name)


async def test_a_killed_process_is_told_once_and_another_that_lives_is_not(server: NatsServer) -> None:
    gone = Gone()
    watch = await watch_presence(server.system_url, gone)
    victim, other = await start_child(server, DATA), await start_child(server, connection_name("two", "b" * 16))
    await end(victim)
    await eventually(lambda: bool(gone.told))
    assert gone.told == [ONE]
    await end(other)
    await eventually(lambda: len(gone.told) == 2)
    assert gone.told == [ONE, NodeProcess("two", "b" * 16)]
    await watch.close()


async def test_a_process_that_was_there_before_the_watch_is_told_too(server: NatsServer) -> None:
    gone = Gone()
    child = await start_child(server, DATA)
    watch = await watch_presence(server.system_url, gone)
    await eventually(lambda: watch.active)
    await end(child)
    await eventually(lambda: gone.told == [ONE])
    await watch.close()


async def test_a_process_that_loses_one_of_two_connections_is_not_gone(server: NatsServer) -> None:
    gone = Gone()
    watch = await watch_presence(server.system_url, gone)
    data, control = await connect(server.operator_url, name=DATA), await connect(server.control_url, name=CONTROL)
    await data.close()
    again = await connect(server.operator_url, name=DATA)
    await control.close()
    marker = await connect(server.operator_url, name=connection_name("marker", INCARNATION))
    await marker.close()
    await eventually(lambda: bool(gone.told))
    assert gone.told == [NodeProcess("marker", INCARNATION)]
    await again.close()
    await eventually(lambda: gone.told[1:] == [ONE])
    await watch.close()


async def test_a_server_that_restarts_makes_nobody_gone_and_is_watched_again(server: NatsServer) -> None:
    gone = Gone()
    watch = await watch_presence(server.system_url, gone)
    child = await start_child(server, DATA)
    await server.kill()
    await eventually(lambda: not watch.active)
    await server.restart()
    await eventually(lambda: watch.active)

    async def there() -> bool:
        return await connected_names(server) >= {DATA, CONTROL}

    await eventually(there)
    assert gone.told == []
    await end(child)
    await eventually(lambda: gone.told == [ONE])
    await watch.close()


async def test_what_a_stopped_process_has_on_the_way_reaches_nobody_once_it_is_cut_off(server: NatsServer) -> None:
    watch, listener = await watch_presence(server.system_url, Gone()), await connect(server.operator_url)
    child = await start_child(server, DATA)
    try:
        await check_cut_off(child, listener, lambda: watch.cut_off(ONE))
    finally:
        await end(child)
        await listener.close()
        await watch.close()


async def test_a_process_that_nobody_knows_cannot_be_cut_off(server: NatsServer) -> None:
    watch = await watch_presence(server.system_url, Gone())
    assert not await watch.cut_off(ONE)
    await server.kill()
    assert not await watch.cut_off(ONE)
    await watch.close()


async def connected_names(server: NatsServer) -> set[str]:
    asking = await connect(server.system_url)
    try:
        answer = await asking.request("$SYS.REQ.SERVER.PING.CONNZ", b"{}", timeout_s=2)
        return {connection.get("name", "") for connection in json.loads(bytes(answer.data))["data"]["connections"]}
    finally:
        await asking.close()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"client": [], "server": {"id": "S"}}',
        b'{"client": {"name": 1, "id": 1}, "server": {"id": "S"}}',
        b'{"client": {"id": 1}, "server": {"id": "S"}}',
        b'{"client": {"name": "understudy-node-one-0123456789abcdef", "id": true}, "server": {"id": "S"}}',
        b'{"data": {"connections": [1]}, "server": {"id": "S"}}',
        b'{"data": {"connections": null}, "server": {"id": "S"}}',
    ],
)
async def test_malformed_events_and_lists_harm_nobody(server: NatsServer, payload: bytes) -> None:
    gone = Gone()
    watch = await NatsPresence.start(server.system_url, gone)
    stranger = await connect(server.system_url)
    for subject in ("$SYS.ACCOUNT.X.DISCONNECT", "$SYS.ACCOUNT.X.CONNECT", watch._inbox):
        await stranger.publish(subject, payload)
    await stranger.flush()
    await stranger.close()
    node = await connect(server.operator_url, name=DATA)
    await node.close()
    await eventually(lambda: gone.told == [ONE])
    await watch.close()


# ---- no watch ------------------------------------------------------------------------------------------------------


def lines_of(capsys: Any) -> list[str]:
    out, err = capsys.readouterr()
    return [line for line in (out + err).splitlines() if "presence-unavailable" in line]


@pytest.mark.parametrize("url", [None, "nats://127.0.0.1:1", "nonsense"])
async def test_where_there_is_no_system_account_one_line_says_so(url: str | None, capsys: Any) -> None:
    watch = await watch_presence(url, Gone())
    assert isinstance(watch, NoPresence)
    assert not watch.active
    [line] = lines_of(capsys)
    assert "heartbeats alone" in line
    await watch.close()


async def test_an_account_that_is_not_the_system_account_is_recognised(server: NatsServer, capsys: Any) -> None:
    for url in (server.operator_url, server.control_url, server.system_url.replace("system:", "system:wrong")):
        watch = await watch_presence(url, Gone())
        assert isinstance(watch, NoPresence)
        [line] = lines_of(capsys)
        assert "system account" in line or "authorization" in line
        assert "wrong" not in line


async def test_in_memory_there_is_nothing_to_watch(capsys: Any) -> None:
    assert isinstance(await watch_presence("memory://here", Gone()), NoPresence)
    assert lines_of(capsys) == []
