"""Each node has a broker of its own, and the head's is cut off with results that it has taken: nobody sees one twice.

Two real servers; the route between them runs through a relay that passes nothing while it is cut, and everything
afterwards, as TCP does when a cable is plugged in again.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from bench.faults.link import Link, Shape
from broker import subjects
from broker.activation import Activation, FrameTag
from broker.connect import connect
from broker.malformed import Malformed
from broker.port import Broker, Message
from broker.server import ClusterConfig, NatsServer, ServerConfig
from stages import sent as sent_module
from stages import settlement
from stages.sent import Sent
from tests.contract.conftest import Inbox, eventually
from tests.unit.builders import numbers
from tests.unit.machine import Machine, npy

IN, OUT = subjects.frames_in("p"), subjects.results_out("p")
CUT = Shape(up=False, down=False)


async def _yes() -> bool:
    return True


class Mesh:
    """Node a, which leads epoch 1, with a server of its own; node b, which stands by, and the user with theirs."""

    def __init__(self, link: Link, servers: list[NatsServer], a: Machine, b: Machine, user: Broker) -> None:
        self.link, self.servers = link, servers
        self.a, self.b, self.user = a, b, user
        self.results: list[dict[str, object]] = []
        self.replies = Inbox()

    async def hear(self, message: Message) -> None:
        self.results.append(json.loads(bytes(message.data)))

    @property
    def heard(self) -> Counter[tuple[object, object]]:
        """Id and epoch of the results."""
        return Counter((result["id"], result["epoch"]) for result in self.results)

    async def publish(self, *ids: str) -> None:
        for frame_id in ids:
            await self.user.publish(IN, npy(1), headers={"Nats-Msg-Id": frame_id}, reply="_INBOX.p.answers")

    async def lose_a_with(self, *answered: str) -> None:
        """Cut off a while it holds f0 to f4; what it answers of them then, its own server takes."""
        self.a.works.clear()
        await self.publish("f0", "f1", "f2", "f3", "f4")
        await eventually(lambda: len(self.a.sent) == 5)
        self.link.add(CUT)
        tags = tuple(FrameTag(frame_id) for frame_id in answered)
        await self.a.lead.on_outcome(
            Activation(epoch=1, cut=1, frames=tags, tensors={"y": numbers(*range(len(answered)))})
        )
        await self.a.broker.flush()

    async def joined(self) -> None:
        """Return when the servers carry messages to each other, both ways."""
        for sender, receiver in ((self.a.broker, self.user), (self.user, self.a.broker)):
            inbox = Inbox()
            subscription = await receiver.subscribe("over.there", inbox)

            async def passes(sender: Broker = sender, inbox: Inbox = inbox) -> bool:
                await sender.publish("over.there", b"")
                return inbox.waiting > 0

            await eventually(passes)
            await subscription.unsubscribe()


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [one.getsockname()[1], other.getsockname()[1]]
    async with AsyncExitStack() as stack:
        link = Link(*ports)
        await link.start()
        stack.push_async_callback(link.close)
        config, password = ServerConfig(), secrets.token_hex(8)
        servers = []
        for own, over in zip(ports, reversed(link.ports), strict=True):
            cluster = ClusterConfig(password=password, port=own, routes=(over,))
            server = await NatsServer.start_with(replace(config, name=f"server-{own}", cluster=cluster))
            servers.append(await stack.enter_async_context(server))
        brokers = [await connect(servers[at].operator_url) for at in (0, 1, 1)]
        for broker in brokers:
            stack.push_async_callback(broker.close)
        executor = stack.enter_context(ThreadPoolExecutor(1))
        a, b = (Machine(name, broker, executor, _yes) for name, broker in zip("ab", brokers[:2], strict=True))
        stack.push_async_callback(a.crash)
        stack.push_async_callback(b.crash)
        mesh = Mesh(link, servers, a, b, brokers[2])
        await mesh.joined()
        await mesh.user.subscribe(OUT, mesh.hear)
        await mesh.user.subscribe("_INBOX.p.answers", mesh.replies)
        for machine in (a, b):
            await machine.follow(1, "a", "b")
        await mesh.publish("first")
        await eventually(lambda: mesh.heard == {("first", 1): 1})
        await mesh.replies.next()
        a.sent.clear()
        yield mesh


async def test_a_result_that_comes_out_when_the_network_is_back_is_seen_once(mesh: Mesh) -> None:
    await mesh.lose_a_with("f1", "f2")
    await mesh.b.follow(2, "b", "")
    assert len(await mesh.replies.take(5)) == 5  # who asked has every answer at once
    await mesh.publish("new")
    await eventually(lambda: mesh.heard[("new", 2)] == 1)  # other frames do not wait
    assert len(mesh.results) == 2
    mesh.link.remove(CUT)
    await eventually(lambda: len(mesh.results) >= 7)
    await mesh.joined()
    assert mesh.heard == Counter([("first", 1), ("new", 2), ("f0", 2), ("f1", 1), ("f2", 1), ("f3", 2), ("f4", 2)]), (
        "each frame once, by whichever head"
    )


async def test_the_lost_head_answers_nothing_more_when_it_is_back(mesh: Mesh) -> None:
    await mesh.lose_a_with()
    await mesh.b.follow(2, "b", "")
    mesh.link.remove(CUT)
    await eventually(lambda: len(mesh.results) >= 6)
    mesh.a.works.set()  # before it has heard of epoch 2
    await asyncio.gather(*mesh.a.answers)
    await mesh.joined()
    assert mesh.heard == Counter([("first", 1), *((f"f{i}", 2) for i in range(5))])


async def test_what_cannot_have_been_answered_does_not_wait(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "SEEN_S", 0.0)
    monkeypatch.setattr(sent_module, "KNOWS_AFTER_S", 0.0)
    sent = Sent(mesh.user, "stage", active_epoch=lambda: 2, malformed=Malformed())
    await sent.listen("p")
    sent.note("a", Activation(epoch=1, cut=1, frames=(FrameTag("f1"), FrameTag("f2")), tensors={}))
    sent.note("b", Activation(epoch=1, cut=1, frames=(FrameTag("f3"),), tensors={}))
    await mesh.lose_a_with("f1")
    await mesh.b.follow(2, "b", "")
    await eventually(lambda: mesh.heard == Counter([("first", 1), ("f0", 2), ("f3", 2), ("f4", 2)]))
    mesh.link.remove(CUT)
    await eventually(lambda: len(mesh.results) >= 6)
    await mesh.joined()
    assert mesh.heard == Counter([("first", 1), ("f0", 2), ("f1", 1), ("f2", 2), ("f3", 2), ("f4", 2)])
    await sent.stop()


async def test_where_the_broker_of_the_lost_head_has_ended_nothing_waits(mesh: Mesh) -> None:
    await mesh.lose_a_with()
    mesh.link.remove(CUT)
    await mesh.servers[0].stop()
    await mesh.b.follow(2, "b", "")
    await eventually(lambda: mesh.heard == Counter([("first", 1), *((f"f{i}", 2) for i in range(5))]))


async def test_a_late_result_that_is_there_before_ours_is_the_only_one(mesh: Mesh) -> None:
    await mesh.lose_a_with("f1", "f2")
    mesh.b.works.clear()  # its answers take longer than the network needs to come back
    await mesh.b.follow(2, "b", "")
    await eventually(lambda: len(mesh.b.sent) == 5)
    mesh.link.remove(CUT)
    await eventually(lambda: mesh.heard[("f2", 1)] == 1)
    await eventually(lambda: not mesh.b.lead._settlement or not mesh.b.lead._settlement.is_open)
    mesh.b.works.set()
    await eventually(lambda: len(mesh.results) >= 6)
    await mesh.joined()
    assert mesh.heard == Counter([("first", 1), ("f0", 2), ("f1", 1), ("f2", 1), ("f3", 2), ("f4", 2)])


async def test_a_new_head_that_stops_before_it_is_settled_puts_out_what_it_has(mesh: Mesh) -> None:
    await mesh.lose_a_with()
    await mesh.b.follow(2, "b", "")
    await mesh.replies.take(5)
    assert len(mesh.results) == 1
    await mesh.b.lead.stop()
    await eventually(lambda: mesh.heard == Counter([("first", 1), *((f"f{i}", 2) for i in range(5))]))
