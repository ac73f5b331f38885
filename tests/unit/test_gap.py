"""A node that was disconnected for a moment: the head sends again what may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker import subjects
from broker.connect import connect
from broker.port import Broker
from broker.server import NatsServer
from stages.gap import CALM_S, Gap
from tests.contract.conftest import Inbox, eventually


class Again:
    """Counts how often all was sent again."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1


@pytest.fixture
async def broker(server: NatsServer) -> AsyncIterator[Broker]:
    broker = await connect(server.operator_url)
    yield broker
    await broker.close()


@pytest.mark.parametrize("concerned", [True, False])
async def test_who_was_disconnected_says_so_once_it_hears_again_and_only_if_it_has_a_part(
    server: NatsServer, broker: Broker, concerned: bool
) -> None:
    again, heard, ready = Again(), Inbox(), Inbox()
    gap = Gap(broker, concerned=lambda: concerned, send_again=again)
    await gap.listen("digits")
    await broker.subscribe(subjects.gap("digits"), heard)
    await broker.subscribe("ready", ready)
    await server.kill()
    await eventually(lambda: not broker.connected)
    await server.restart()
    await broker.flush()
    if concerned:
        await heard.next()
        await eventually(lambda: again.times == 1)
    await broker.publish("ready", b"")
    await ready.next()
    assert heard.waiting == 0
    assert again.times == concerned
    gap.check()
    await gap.stop()


async def test_many_words_at_once_are_answered_together() -> None:
    broker = await connect("memory://gap")
    again = Again()
    gap = Gap(broker, concerned=lambda: True, send_again=again)
    await gap.listen("digits")
    for _ in range(50):
        await broker.publish(subjects.gap("digits"), b"")
    await eventually(lambda: again.times > 0)
    await asyncio.sleep(3 * CALM_S)  # the claim is that nothing more happens
    assert again.times <= 2
    await gap.stop()
    await broker.close()


async def test_a_defect_in_sending_again_is_told() -> None:
    broker = await connect("memory://gap-defect")

    async def defect() -> None:
        raise ZeroDivisionError

    gap = Gap(broker, concerned=lambda: True, send_again=defect)
    await gap.listen("digits")
    await broker.publish(subjects.gap("digits"), b"")

    async def told() -> bool:
        try:
            gap.check()
        except ZeroDivisionError:
            return True
        return False

    await eventually(told)
    await gap.stop()
    await broker.close()
