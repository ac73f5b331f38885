"""Servers of a cluster end under their clients: who was there goes on at another, and nobody waits for elections."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator

import pytest

from broker.cluster import NatsCluster
from broker.connect import connect
from broker.errors import BrokerError, ServerStartError
from broker.lease import Lease
from broker.port import Broker
from broker.presence import NodeProcess, connection_name, watch_presence
from broker.server import NatsServer, ServerConfig
from tests.contract.conftest import WAIT_S, Inbox, eventually
from understudy.term import AFTER_SILENCE_S, Term

NODE = NodeProcess("attic", "0123456789abcdef")
ELECTION_S = 30.0


@pytest.fixture
async def cluster() -> AsyncIterator[NatsCluster]:
    async with await NatsCluster.start(3) as cluster:
        yield cluster


async def arrives(sender: Broker, inbox: Inbox, subject: str) -> None:
    """Core NATS is at most once, and other servers hear of a subscription a moment later: published until it comes."""

    async def published() -> bool:
        await sender.publish(subject, b"x")
        await sender.flush()
        # What comes more than once is left over for the next call.
        heard = [(await inbox.next()).subject for _ in range(inbox.waiting)]
        return subject in heard

    await eventually(published)


async def test_a_client_begins_at_the_first_server_of_its_url(cluster: NatsCluster) -> None:
    for first, server in enumerate(cluster.servers):
        broker = await connect(cluster.url(first))
        system = await connect(server.system_url)
        heard = Inbox()
        await system.subscribe("$SYS.ACCOUNT.DATA.DISCONNECT", heard)
        await broker.close()
        assert server.url.endswith(str(server.port))
        await heard.next()
        await system.close()


async def test_who_loses_its_server_is_connected_elsewhere_with_its_subscriptions(cluster: NatsCluster) -> None:
    broker, other = await connect(cluster.operator_url(0)), await connect(cluster.operator_url(2))
    inbox = Inbox()
    await broker.subscribe("a.*", inbox)
    seen: list[bool] = []
    broker.on_connection(seen.append)
    for turn in range(6):
        server = cluster.servers[turn % 3]
        await server.kill()
        # Whoever was there has moved to the next; the others have not noticed.
        await eventually(lambda: broker.connected and other.connected)
        await arrives(other, inbox, f"a.{turn}")
        await server.restart()
    assert seen[:2] == [False, True]
    assert len(seen) <= 12
    await broker.close()
    await other.close()


async def test_all_but_one_server_may_be_gone(cluster: NatsCluster) -> None:
    broker, other = await connect(cluster.operator_url(0)), await connect(cluster.operator_url(1))
    inbox = Inbox()
    await broker.subscribe("a", inbox)
    await asyncio.gather(cluster.servers[0].kill(), cluster.servers[1].kill())
    await arrives(other, inbox, "a")
    await broker.close()
    await other.close()


async def test_a_server_that_was_restarted_is_part_of_the_cluster_again(cluster: NatsCluster) -> None:
    for server in cluster.servers:
        await server.kill()
        await server.restart()
    here, there = await connect(cluster.servers[0].operator_url), await connect(cluster.servers[2].operator_url)
    inbox = Inbox()
    await there.subscribe("a", inbox)
    await arrives(here, inbox, "a")
    await here.close()
    await there.close()


@pytest.mark.parametrize("how", ["killed", "stopped in order"])
async def test_a_node_that_moves_to_another_server_is_not_gone_and_one_that_then_dies_is(
    cluster: NatsCluster, how: str
) -> None:
    gone: list[NodeProcess] = []
    watch = await watch_presence(cluster.system_url(2), gone.append)
    name = connection_name(NODE.node, NODE.incarnation)
    data = await connect(cluster.operator_url(0), name=name)
    control = await connect(cluster.control_url(0), name=f"{name}-control")
    heard = Inbox()
    system = await connect(cluster.system_url(2))
    await system.subscribe("$SYS.ACCOUNT.*.CONNECT", heard)
    first = cluster.servers[0]
    if how == "killed":
        await first.kill()
    else:
        os.kill(first.pid, signal.SIGTERM)
    moved = 0
    while moved < 2:
        moved += NODE.incarnation.encode() in bytes((await heard.next()).data)
    assert gone == []
    await first.restart()
    await eventually(lambda: watch.active)
    await data.close()
    await control.close()
    await eventually(lambda: gone == [NODE])
    await watch.close()
    await system.close()


async def test_a_connection_at_any_server_can_be_cut_off(cluster: NatsCluster) -> None:
    watch = await watch_presence(cluster.system_url(0), lambda process: None)
    for first in range(3):
        process = NodeProcess(f"node{first}", NODE.incarnation)
        broker = await connect(cluster.operator_url(first), name=connection_name(process.node, process.incarnation))
        lost = asyncio.Event()
        broker.on_connection(lambda up, lost=lost: None if up else lost.set())
        await eventually(lambda process=process: watch.cut_off(process))
        async with asyncio.timeout(WAIT_S):
            await lost.wait()
        await broker.close()
    await watch.close()


async def leader_of(cluster: NatsCluster, broker: Broker) -> NatsServer:
    """The server that the lease is kept on, of those that keep it the one that leads."""
    answer = await broker.request("$JS.API.STREAM.INFO.KV_understudy_leases", timeout_s=5)
    name = json.loads(bytes(answer.data))["cluster"]["leader"]
    return next(server for server in cluster.servers if server.name == name)


async def test_who_serves_goes_on_while_the_keeper_of_its_lease_is_gone_and_who_stands_by_does_not_take_over(
    cluster: NatsCluster,
) -> None:
    operator = await connect(cluster.control_url(0))
    one, other = await connect(cluster.control_url(1), name="one"), await connect(cluster.control_url(2), name="other")
    served: list[str] = []

    async def is_served() -> bool:
        return "one" in served

    async def serve(broker: Broker, name: str) -> None:
        async def service() -> None:
            served.append(name)
            await asyncio.Event().wait()

        term = await Term.open(broker, "digits", needed=True, is_served=is_served)
        await term.begin()
        await term.serve(service())

    tasks = [asyncio.create_task(serve(one, "one"))]
    await eventually(lambda: served == ["one"], within_s=ELECTION_S)
    tasks.append(asyncio.create_task(serve(other, "other")))
    keeper = await leader_of(cluster, operator)
    await keeper.kill()
    lease = Lease(operator, "digits", "third")

    async def is_kept() -> bool:
        try:
            await lease.check()
        except BrokerError:
            return False
        return True

    await eventually(is_kept, within_s=ELECTION_S)
    # The lease may have ended meanwhile. The claim is that who served renews it before another one asks.
    await asyncio.sleep(1.5 * AFTER_SILENCE_S)
    assert served == ["one"]
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for broker in (operator, one, other):
        await broker.close()


async def test_a_term_begins_where_nobody_serves_and_nobody_keeps_leases_for_the_moment(cluster: NatsCluster) -> None:
    """With two of three servers gone there is no majority, and there will be none."""
    broker = await connect(cluster.control_url(2))
    await asyncio.gather(cluster.servers[0].kill(), cluster.servers[1].kill())
    term = await Term.open(broker, "digits", needed=False)
    assert not await term.try_begin()
    async with asyncio.timeout(ELECTION_S):
        await term.begin()
    await broker.close()


async def test_a_number_of_servers_that_is_not_possible_is_refused() -> None:
    for count in (0, 10):
        with pytest.raises(ServerStartError, match="1 to 9 are possible"):
            await NatsCluster.start(count)


async def test_if_one_server_cannot_start_none_stays() -> None:
    async with await NatsServer.start() as server:
        with pytest.raises(ServerStartError, match="is taken"):
            await NatsCluster.start(3, ServerConfig(port=server.port - 1))
