"""A node tells what it has sent to another."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker import subjects
from broker.activation import Activation, Failure, FrameTag
from broker.malformed import Malformed
from broker.memory import MemoryBroker
from broker.port import Broker
from broker.url import parse_broker_url
from stages import sent as sent_module
from stages.identity import entry
from stages.sent import Sent, ask_sent
from tests.contract.conftest import eventually


class Node:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.epoch = 3
        self.malformed = Malformed()
        self.sent = Sent(broker, "b", active_epoch=lambda: self.epoch, malformed=self.malformed)

    def send(self, target: str, *ids: str) -> None:
        self.sent.note(target, Activation(epoch=3, cut=1, frames=tuple(map(FrameTag, ids)), tensors={}))

    async def asked(self, to: str, epoch: int) -> list[bytes] | None:
        return await ask_sent(self.broker, "p", by="b", to=to, epoch=epoch)


@pytest.fixture
async def node(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr(sent_module, "KNOWS_AFTER_S", 0.0)
    broker = await MemoryBroker.connect(parse_broker_url("memory://sent"))
    own = Node(broker)
    await own.sent.listen("p")
    yield own
    await own.sent.stop()
    await broker.close()


async def test_it_names_the_frames_that_went_to_the_node_that_is_asked_for(node: Node) -> None:
    node.send("a", "f1", "f2")
    node.send("c", "f3")
    node.sent.note("a", Failure(epoch=3, cut=2, frames=(FrameTag("f4"),), code="x", reason="y"))
    assert await node.asked("a", epoch=3) == [entry("f1"), entry("f2"), entry("f4")]
    assert await node.asked("c", epoch=2) == [entry("f3")]
    assert await node.asked("d", epoch=3) == []


async def test_it_says_nothing_while_it_may_send_more_on_an_older_route(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_module, "ASK_TIMEOUT_S", 0.02)
    assert await node.asked("a", epoch=4) is None
    node.epoch = 4
    assert await node.asked("a", epoch=4) == []


async def test_it_says_nothing_where_another_process_may_have_sent_something_before(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_module, "ASK_TIMEOUT_S", 0.02)
    monkeypatch.setattr(sent_module, "KNOWS_AFTER_S", 60.0)
    assert await node.asked("a", epoch=3) is None


async def test_of_each_node_the_newest_frames_are_remembered(node: Node) -> None:
    node.send("a", "old", *(f"f{number}" for number in range(sent_module.FRAMES)))
    node.send("c", *(f"g{number}" for number in range(sent_module.FRAMES)))
    assert await node.asked("a", epoch=3) == [entry(f"f{number}") for number in range(sent_module.FRAMES)]


async def test_of_a_node_that_is_not_there_nothing_is_known(node: Node) -> None:
    await node.sent.stop()
    assert await node.asked("a", epoch=3) is None


@pytest.mark.parametrize("question", [b"", b"3", b"3 ", b"x a", b"-1 a", b"\xff\xff"])
async def test_nonsense_is_counted(node: Node, question: bytes) -> None:
    await node.broker.publish(subjects.sent("p", "b"), question, reply="answer")
    await eventually(lambda: node.malformed.counts == {"sent": 1})
