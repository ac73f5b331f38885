"""What the head puts out, and where an answer may go."""

from __future__ import annotations

import pytest

from broker import subjects
from broker.connect import connect
from stages.outlet import Answer, Outlet
from tests.contract.conftest import Inbox


@pytest.mark.parametrize("reply", ["understudy.digits.out", "understudy.digits.cut.0.node1", "understudy.other.in"])
async def test_nobody_can_have_the_head_publish_what_they_may_not_by_naming_it_as_the_place_for_the_answer(
    reply: str,
) -> None:
    broker = await connect("memory://outlet")
    heard = Inbox()
    await broker.subscribe(">", heard)
    outlet = Outlet(broker, "digits")
    await outlet.put([Answer(result=b"one", replies=(reply, "_INBOX.me.1"))])
    await outlet.answer(reply, b"again")
    await outlet.put([Answer(result=b"end")])
    arrived = [(message.subject, bytes(message.data)) for message in await heard.take(3)]
    out = subjects.results_out("digits")
    assert arrived == [(out, b"one"), ("_INBOX.me.1", b"one"), (out, b"end")]
    assert heard.waiting == 0
    await broker.close()
