"""Two nodes, one of which leads: whatever happens between them, each frame is answered exactly once.

On the in-process broker; the stages behind a head answer when the test lets them.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker import subjects
from broker.errors import NoRespondersError
from broker.memory import MemoryBroker
from broker.port import Message
from broker.url import parse_broker_url
from stages.handover import OtherHead
from tests.contract.conftest import Inbox, eventually
from tests.unit.machine import Machine, npy

WIDE = 5000
IN, OUT = subjects.frames_in("p"), subjects.results_out("p")


def _message(frame_id: str | None) -> Message:
    headers = {} if frame_id is None else {"Nats-Msg-Id": frame_id}
    return Message(subject=IN, data=npy(1), reply="", headers=headers)


class Pair:
    """Nodes a and b, a publisher and a subscriber."""

    def __init__(self, a: Machine, b: Machine, user: MemoryBroker) -> None:
        self.a, self.b, self.user = a, b, user
        self.results: list[dict[str, object]] = []
        self.replies = Inbox()
        self.news = Inbox()
        self.published = 0

    async def hear(self, message: Message) -> None:
        self.results.append(json.loads(bytes(message.data)))

    @property
    def answered(self) -> Counter[object]:
        return Counter(result["id"] for result in self.results)

    async def publish(self, count: int = 1, *, payload: bytes | None = None, reply: str = "") -> list[str]:
        """Frames with ids f0, f1, ..."""
        ids = [f"f{self.published + i}" for i in range(count)]
        for frame_id in ids:
            await self.publish_as(frame_id, payload, reply)
        self.published += count
        return ids

    async def publish_as(self, frame_id: str | None, payload: bytes | None = None, reply: str = "") -> None:
        headers = None if frame_id is None else {"Nats-Msg-Id": frame_id}
        await self.user.publish(IN, payload or npy(1), headers=headers, reply=reply)

    async def still(self) -> None:
        for _ in range(50):
            await self.user.publish("nothing", b"")

    async def each_answered_once(self, count: int | None = None) -> None:
        """All that were published, or so many where frames have no name."""
        wanted = self.published if count is None else count
        await eventually(lambda: len(self.answered) >= wanted)
        await self.still()
        assert set(self.answered.values()) == {1}
        assert len(self.results) == wanted
        assert [result["error"] for result in self.results] == [None] * wanted


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
async def pair(executor: ThreadPoolExecutor) -> AsyncIterator[Pair]:
    """a leads epoch 1, b stands by."""
    brokers = [await MemoryBroker.connect(parse_broker_url("memory://lead")) for _ in range(3)]
    own = Pair(Machine("a", brokers[0], executor), Machine("b", brokers[1], executor), brokers[2])
    await own.user.subscribe(OUT, own.hear)
    await own.user.subscribe("answer.*", own.replies)
    await own.user.subscribe(subjects.lead("p"), own.news)
    for machine in (own.a, own.b):
        await machine.follow(1, "a", "b")
    await eventually(lambda: own.b.lead.stands_by)
    yield own
    for machine in (own.a, own.b):
        await machine.crash()
    for broker in brokers:
        await broker.close()


async def test_the_head_answers_and_the_one_that_stands_by_says_nothing(pair: Pair) -> None:
    await pair.publish(10)
    await pair.each_answered_once()
    assert (pair.a.lead.leads, pair.b.lead.stands_by, pair.b.sent) == (True, True, [])


async def test_after_a_crash_the_standby_answers_what_was_not_answered_and_nothing_twice(pair: Pair) -> None:
    await pair.publish(5)
    await pair.each_answered_once()
    pair.a.works.clear()
    open_ids = await pair.publish(7, reply="answer.1")
    await eventually(lambda: len(pair.a.sent) == 12)
    await pair.a.crash()
    open_ids += await pair.publish(3)  # between the crash and the word of it
    await pair.b.follow(2, "b", "")
    await pair.each_answered_once()
    assert pair.b.sent == open_ids
    assert {result["epoch"] for result in pair.results[5:]} == {2}
    assert [message.subject for message in await pair.replies.take(7)] == ["answer.1"] * 7


@pytest.mark.parametrize("crashes", [True, False], ids=["after a crash", "after a hand-over"])
async def test_a_frame_whose_result_did_not_come_to_the_standby_is_not_answered_again(
    pair: Pair, crashes: bool
) -> None:
    await pair.publish(1)
    await pair.each_answered_once()
    # As in a cluster whose servers hear of a subscription one after the other.
    await pair.a.lead._on_frame(_message("missed"))
    await eventually(lambda: len(pair.results) == 2)
    standby = pair.b.lead._standby
    assert standby is not None
    standby._results.clear()
    await pair.b.lead._on_frame(_message("missed"))
    assert len(standby) == 1
    if crashes:
        await eventually(lambda: len(standby) == 0)
        await pair.a.crash()
    await pair.b.follow(2, "b", "", drain=not crashes, before="" if crashes else "a")
    await pair.publish(1)
    await pair.each_answered_once(3)
    assert pair.b.sent == ["f1"]


async def test_of_equal_frames_without_a_name_as_many_are_answered_as_were_published(pair: Pair) -> None:
    for _ in range(2):
        await pair.publish_as(None)
    await pair.each_answered_once(2)
    pair.a.works.clear()
    for _ in range(3):
        await pair.publish_as(None)
    await eventually(lambda: len(pair.a.sent) == 5)
    await pair.a.crash()
    await pair.b.follow(2, "b", "")
    await pair.each_answered_once(5)
    assert len(pair.b.sent) == 3


async def test_a_frame_that_was_answered_before_the_crash_and_is_asked_for_again_gets_the_same_answer(
    pair: Pair,
) -> None:
    await pair.publish(1)
    await pair.each_answered_once()
    await pair.a.crash()
    await pair.b.follow(2, "b", "")
    await pair.publish_as("f0", reply="answer.again")
    assert json.loads(bytes((await pair.replies.next()).data)) == pair.results[0]
    await pair.each_answered_once(1)
    assert pair.b.sent == []


async def test_two_heads_hand_over_and_each_finishes_what_it_has(pair: Pair) -> None:
    pair.a.works.clear()
    mine = await pair.publish(6)
    await eventually(lambda: len(pair.a.sent) == 6)
    await pair.a.follow(2, "b", "a", drain=True)
    await pair.b.follow(2, "b", "a", drain=True, before="a")
    await pair.publish(4)
    await eventually(lambda: len(pair.b.sent) == 4)
    assert (pair.a.lead.leads, pair.b.lead.leads) == (False, True)
    assert not await pair.a.has_finished()
    pair.a.works.set()
    await pair.each_answered_once()
    assert await pair.a.has_finished()
    assert pair.a.sent == mine
    assert {result["epoch"] for result in pair.results if result["id"] in mine} == {1}


@pytest.mark.parametrize("first", ["a", "b"])
async def test_a_frame_that_is_published_again_while_two_heads_may_hold_it_is_answered_once(
    pair: Pair, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the old head has sent to its stages is away for long; its publisher loses patience."""
    monkeypatch.setattr("stages.leadership.LATE_S", 0.0)
    for machine in (pair.a, pair.b):
        machine.works.clear()
    mine = await pair.publish(6, reply="answer.1")
    await eventually(lambda: len(pair.a.sent) == 6)
    await pair.a.follow(2, "b", "a", drain=True)
    await pair.b.follow(2, "b", "a", drain=True, before="a")
    for frame_id in mine:
        await pair.publish_as(frame_id, reply="answer.2")
    await eventually(lambda: len(pair.b.sent) == 6)
    one, other = (pair.a, pair.b) if first == "a" else (pair.b, pair.a)
    one.works.set()
    await pair.each_answered_once()
    other.works.set()
    await eventually(pair.a.has_finished)
    await pair.each_answered_once()
    told = {message.subject for message in await pair.replies.take(12)}
    assert told == {"answer.1", "answer.2"}
    # Nor is any of them left where the next head finds it.
    await pair.b.crash()
    await pair.a.follow(3, "a", "")
    await pair.publish(1)
    await pair.each_answered_once()


@pytest.mark.parametrize("named", [True, False], ids=["a named frame", "a frame without a name"])
async def test_a_frame_that_comes_to_the_new_head_when_the_one_before_has_taken_it_is_answered_once(
    pair: Pair, named: bool
) -> None:
    pair.a.works.clear()
    name = "late" if named else None
    await pair.a.lead._on_frame(_message(name))  # over a quicker link
    await eventually(lambda: len(pair.a.sent) == 1)
    await pair.a.follow(2, "b", "a", drain=True)
    await pair.b.follow(2, "b", "a", drain=True, before="a")
    await pair.b.lead._on_frame(_message(name))
    await pair.publish(1)
    await eventually(lambda: pair.b.sent == ["f0"])
    pair.a.works.set()
    await pair.each_answered_once(2)
    if not named:
        await pair.publish_as(None)  # the same content, and another frame
        await pair.each_answered_once(3)


@pytest.mark.parametrize("order", ["the old head first", "the new head first"])
@pytest.mark.parametrize("named", [True, False], ids=["named frames", "frames without a name"])
async def test_frames_that_are_published_all_the_time_are_answered_once_while_heads_change(
    pair: Pair, order: str, named: bool
) -> None:
    stop = asyncio.Event()

    async def publisher() -> None:
        while not stop.is_set():
            frame_id = f"f{pair.published}" if named else None
            await pair.publish_as(frame_id, npy(pair.published % 3))
            pair.published += 1

    task = asyncio.create_task(publisher())
    heads = [pair.a, pair.b]
    for epoch in range(2, 8):
        old, new = heads
        before = pair.published
        await eventually(lambda before=before: pair.published > before + 20)  # type: ignore[misc]
        # Both hear of it at about the same time.
        steps = [
            old.follow(epoch, new.name, old.name, drain=True),
            new.follow(epoch, new.name, old.name, drain=True, before=old.name),
        ]
        await asyncio.gather(*(steps if order == "the old head first" else reversed(steps)))
        await eventually(old.has_finished)
        assert (old.lead.leads, old.lead.stands_by, new.lead.leads) == (False, True, True)
        heads.reverse()
    stop.set()
    await task
    await pair.each_answered_once()
    assert pair.a.sent
    assert pair.b.sent


async def test_frames_that_are_still_being_decoded_when_heads_change_are_answered_once(
    pair: Pair, executor: ThreadPoolExecutor
) -> None:
    gate = threading.Event()
    executor.submit(gate.wait, 10)  # one thread decodes: what comes now waits for it
    await pair.publish(3, payload=npy(1, width=WIDE))
    await pair.still()
    await pair.a.follow(2, "b", "a", drain=True)
    await pair.b.follow(2, "b", "a", drain=True, before="a")
    await pair.a.lead.check()
    gate.set()
    await pair.each_answered_once()


async def test_a_new_head_that_did_not_stand_by_takes_what_comes_from_now_on(pair: Pair, executor: object) -> None:
    pair.a.works.clear()
    await pair.publish(3)
    await eventually(lambda: len(pair.a.sent) == 3)
    await pair.b.follow(2, "a", "", drain=True)  # it stands by no longer
    assert not pair.b.lead.stands_by
    await pair.a.follow(2, "a", "", drain=True)
    for machine, before in ((pair.a, ""), (pair.b, "a")):
        await machine.follow(3, "b", "a", drain=True, before=before)
    await pair.publish(3)
    pair.a.works.set()
    await pair.each_answered_once()
    assert len(pair.b.sent) == 3


async def test_a_head_that_does_not_answer_the_question_does_not_keep_the_new_one_waiting(pair: Pair) -> None:
    pair.a.works.clear()
    await pair.publish(3)
    await eventually(lambda: len(pair.a.sent) == 3)
    await pair.a.crash()
    await pair.b.follow(2, "b", "", drain=True, before="a")
    await pair.each_answered_once()
    assert len(pair.b.sent) == 3


async def test_without_a_drain_the_head_before_is_over_at_once_and_answers_nothing_more(pair: Pair) -> None:
    pair.a.works.clear()
    await pair.publish(4)
    await eventually(lambda: len(pair.a.sent) == 4)
    await pair.b.follow(2, "b", "a")
    await pair.a.follow(2, "b", "a")
    pair.a.works.set()
    await pair.each_answered_once()
    assert len(pair.b.sent) == 4
    assert (pair.a.lead.head, pair.a.lead.stands_by) == (None, True)


async def test_the_head_before_is_the_standby_of_the_new_one(pair: Pair) -> None:
    await pair.a.follow(2, "b", "a", drain=True)
    await pair.b.follow(2, "b", "a", drain=True, before="a")
    pair.b.works.clear()
    await pair.publish(4)
    await eventually(lambda: len(pair.b.sent) == 4)
    await eventually(pair.a.has_finished)
    await pair.b.crash()
    await pair.a.follow(3, "a", "")
    await pair.each_answered_once()


async def test_a_node_without_a_part_in_the_route_has_no_role(pair: Pair) -> None:
    await pair.b.lead.follow(None, send=pair.b.send, drain=False, previous_head="")
    await pair.a.lead.follow(None, send=pair.a.send, drain=False, previous_head="")
    await pair.publish(2)
    await pair.still()
    assert (pair.results, pair.a.lead.leads, pair.b.lead.stands_by) == ([], False, False)


async def test_the_head_stays_the_head_where_the_route_says_so(pair: Pair) -> None:
    pair.a.works.clear()
    await pair.publish(2)
    await eventually(lambda: len(pair.a.sent) == 2)
    for machine in (pair.a, pair.b):
        await machine.follow(2, "a", "b")
    await eventually(lambda: len(pair.a.sent) == 4)  # sent again, on the new way
    pair.a.works.set()
    await pair.each_answered_once()
    assert {result["epoch"] for result in pair.results} == {2}


async def test_whoever_takes_over_says_so_and_whether_it_knows_what_is_not_answered(pair: Pair) -> None:
    first = json.loads(bytes((await pair.news.next()).data))
    assert (first["node"], first["epoch"], first["knows"]) == ("a", 1, False)
    await pair.b.follow(2, "b", "")
    second = json.loads(bytes((await pair.news.next()).data))
    assert (second["node"], second["epoch"]) == ("b", 2)


@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"hand over",
        b"hand over 1",
        b"hand over -2",
        b"hand over 2x",
        b"hand ov",
        b"\xff\x00 2",
        b"what 2",
        b"over",
    ],
    ids=["nothing", "no epoch", "a late one", "negative", "no number", "cut off", "noise", "no question", "no end"],
)
async def test_a_head_hands_over_to_nobody_but_the_head_of_a_later_route(pair: Pair, question: bytes) -> None:
    await pair.user.publish(subjects.handover("p", "a"), question, reply="answer.1")
    await pair.publish(5)
    await pair.each_answered_once()
    assert pair.a.lead.leads
    assert pair.a.lead.counters.malformed.counts == {"handover": 1}


async def test_a_head_that_leads_on_a_later_route_has_put_out_what_it_had_before(pair: Pair) -> None:
    assert await OtherHead(pair.b.broker, "p", "a").is_over(1)
    await pair.publish(5)
    await pair.each_answered_once()


async def test_a_head_that_finishes_what_it_holds_is_not_over_before_it_has(pair: Pair) -> None:
    """The answer to the one that took over from it came too late."""
    pair.a.works.clear()
    await pair.publish(3)
    await eventually(lambda: len(pair.a.sent) == 3)
    await pair.b.follow(2, "b", "a", before="a")
    await pair.a.follow(2, "b", "a", drain=True)
    other = OtherHead(pair.b.broker, "p", "a")
    assert not await other.is_over(2)
    pair.a.works.set()
    await pair.each_answered_once()
    assert {result["epoch"] for result in pair.results} == {1}
    await eventually(pair.a.has_finished)
    with pytest.raises(NoRespondersError):
        await other.is_over(2)


async def test_a_head_that_was_told_that_it_is_over_may_become_it_again(
    pair: Pair, executor: ThreadPoolExecutor
) -> None:
    async def confirm() -> bool:
        return True

    broker = await MemoryBroker.connect(parse_broker_url("memory://lead"))
    back = Machine("c", broker, executor, confirm)
    try:
        await pair.b.follow(2, "c", "b")
        await pair.a.follow(2, "c", "b", drain=True)
        await back.follow(2, "c", "b", before="a")
        assert await OtherHead(pair.b.broker, "p", "c").is_over(3)
        await back.follow(4, "c", "b")  # of epoch 3 it has not heard
        await pair.publish(5)
        await pair.each_answered_once()
        assert {result["epoch"] for result in pair.results} == {4}
    finally:
        await back.crash()
        await broker.close()


async def test_a_head_that_was_asked_to_hand_over_long_ago_and_leads_again_goes_on(pair: Pair) -> None:
    await pair.b.follow(2, "b", "a", before="a")
    await pair.a.follow(2, "b", "a", drain=True)
    await pair.a.follow(3, "a", "b", before="b")
    await pair.b.follow(3, "a", "b", drain=True)
    await pair.user.publish(subjects.handover("p", "a"), b"hand over 2", reply="answer.1")  # held up on a bad link
    await pair.publish(5)
    await pair.each_answered_once()


async def test_a_node_that_hears_late_that_it_is_the_head_asks_before_it_answers_and_may_become_it_again(
    pair: Pair, executor: ThreadPoolExecutor
) -> None:
    """Epoch 2 made c the head. When the word of it arrived, a led again already, in epoch 3."""
    says = {"head": False}
    asked = asyncio.Event()

    async def confirm() -> bool:
        asked.set()
        return says["head"]

    broker = await MemoryBroker.connect(parse_broker_url("memory://lead"))
    late = Machine("c", broker, executor, confirm)
    try:
        await late.follow(2, "c", "")
        await pair.publish(5)
        await eventually(lambda: len(late.sent) == 5)
        await asked.wait()
        await pair.each_answered_once()
        assert {result["epoch"] for result in pair.results} == {1}
        # The word of epoch 3 was lost; in epoch 4 it is the head in truth.
        says["head"] = True
        await pair.a.follow(4, "c", "")
        await late.follow(4, "c", "")
        await pair.publish(5)
        await pair.each_answered_once()
        assert {result["epoch"] for result in pair.results[5:]} == {4}
    finally:
        await late.crash()
        await broker.close()


async def test_what_waits_for_the_word_of_a_controller_is_not_answered_once_another_node_leads(
    pair: Pair, executor: ThreadPoolExecutor
) -> None:
    """The controller that made another node the head has died before it could answer, and nobody else says no."""
    word: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    broker = await MemoryBroker.connect(parse_broker_url("memory://lead"))
    paused = Machine("c", broker, executor, lambda: asyncio.shield(word))
    try:
        await paused.follow(2, "c", "")
        await pair.publish(5)
        await eventually(lambda: len(paused.sent) == 5)
        await pair.each_answered_once()
        await paused.follow(3, "a", "")
        word.set_result(True)
        await pair.each_answered_once()
    finally:
        await paused.crash()
        await broker.close()
