"""What `bench.faults` draws, counts and judges, and its link."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from PIL import Image

from bench.faults import mqtt_line
from bench.faults.faults import KINDS, possible
from bench.faults.leaks import Sample, growth
from bench.faults.link import Link, Shape
from bench.faults.mqtt_checker import digest, marked
from bench.faults.promise import PROMISES
from bench.faults.schedule import RECOVER_S, ScheduleError, make_schedule
from bench.faults.tally import Frame, Outage, Tally
from broker import mqtt_envelope
from understudy.data import digits_frames

NODES = ("a", "b", "c", "d")


# ---- schedule ------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_schedule_and_another_seed_another() -> None:
    first = make_schedule(seed=7, faults=50, every_s=1.5, nodes=NODES)
    assert first == make_schedule(seed=7, faults=50, every_s=1.5, nodes=NODES)
    assert first != make_schedule(seed=8, faults=50, every_s=1.5, nodes=NODES)


@pytest.mark.parametrize("seed", range(5))
def test_at_every_moment_one_node_is_untouched_and_the_broker_has_one_fault_at_most(seed: int) -> None:
    schedule = make_schedule(seed=seed, faults=200, every_s=0.5, nodes=NODES)
    assert len(schedule) == 200
    overlaps = 0
    for planned in schedule:
        beside = [other for other in schedule if other.at_s <= planned.at_s < other.ends_s + RECOVER_S]
        overlaps += len(beside) > 1
        assert sum(KINDS[other.kind].nodes for other in beside) < len(NODES)
        assert sum(KINDS[other.kind].alone for other in beside) <= 1
        named = [victim for other in beside for victim in other.victims]
        assert len(named) == len(set(named))
    assert overlaps > 50


def test_every_kind_comes_up_and_only_those_that_were_asked_for() -> None:
    assert {planned.kind for planned in make_schedule(seed=1, faults=400, every_s=5, nodes=NODES)} == set(KINDS)
    asked = make_schedule(seed=1, faults=40, every_s=5, nodes=NODES, kinds=["node-killed"], spared=["a"])
    assert {planned.kind for planned in asked} == {"node-killed"}
    assert {victim for planned in asked for victim in planned.victims} == {"b", "c", "d"}


def test_a_kind_that_there_is_not_is_named() -> None:
    with pytest.raises(ScheduleError, match="no fault is called earthquake; there are node-killed"):
        make_schedule(seed=1, faults=1, every_s=1, nodes=NODES, kinds=["earthquake"])


@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("delivery", sorted(PROMISES))
def test_what_can_be_done_depends_on_broker_servers_and_delivery(servers: int, delivery: str) -> None:
    kinds = possible(servers=servers, delivery=delivery)
    assert ("store-full" in kinds, "leader-killed" in kinds) == (servers == 1, servers == 3)
    assert ("stream-leader-killed" in kinds) == (servers == 3 and delivery == "durable")
    assert {"server-killed", "head-stopped", "duplicates", "garbage", "slow-consumer"} <= set(kinds)


def test_a_kind_that_mqtt_has_not_is_left_out_and_refused_when_it_is_named() -> None:
    kinds = possible(mqtt=True)
    planned = make_schedule(seed=1, faults=300, every_s=5, nodes=NODES, allowed=kinds)
    assert {each.kind for each in planned} == set(kinds) == set(possible()) - {"store-full"}
    with pytest.raises(ScheduleError, match="store-full: not possible with this broker"):
        make_schedule(seed=1, faults=1, every_s=1, nodes=NODES, kinds=["store-full"], allowed=kinds)


# ---- tally ---------------------------------------------------------------------------------------------------------


def answer(class_index: int = 3, technique: str = "none", code: str = "") -> dict[str, object]:
    return {"class_index": class_index, "technique": technique, "error": {"code": code} if code else None}


@pytest.fixture
def tally() -> Tally:
    return Tally(promise=PROMISES["at-least-once"], healthy=[3])


def sent(tally: Tally, at_s: float = 0.0) -> Frame:
    frame = tally.add(image=0)
    frame.sent_s.append(at_s)
    return frame


def test_a_promise_is_kept_where_every_frame_has_the_right_answer_once(tally: Tally) -> None:
    frame = sent(tally)
    assert (tally.lost, tally.kept) == ([0], False)
    tally.heard(frame.number, answer(), 1.0, on_out=True)
    tally.heard(frame.number, answer(), 1.1, on_out=False)
    assert (tally.lost, tally.twice, tally.wrong, tally.kept) == ([], [], [], True)


def test_a_second_answer_on_the_output_subject_is_one_too_many(tally: Tally) -> None:
    frame = sent(tally)
    for at_s in (1.0, 2.0):
        tally.heard(frame.number, answer(), at_s, on_out=True)
    assert (tally.twice, tally.kept) == ([0], False)
    assert tally.document()["failed_frames"][0]["out_s"] == [1.0, 2.0]


def test_another_class_is_wrong_unless_the_answer_says_that_it_is_degraded(tally: Tally) -> None:
    tally.heard(sent(tally).number, answer(4, "exit"), 1.0, on_out=True)
    assert (tally.wrong, dict(tally.degraded)) == ([], {"exit": 1})
    tally.heard(sent(tally).number, answer(4), 1.0, on_out=True)
    assert tally.wrong == [1]


def test_an_error_for_a_good_frame_is_wrong_and_one_that_may_pass_is_no_answer(tally: Tally) -> None:
    first, second = sent(tally), sent(tally)
    tally.heard(first.number, answer(code="overloaded"), 1.0, on_out=True)
    assert tally.lost == [0, 1]
    tally.heard(first.number, answer(), 2.0, on_out=True)
    tally.heard(second.number, answer(code="failed"), 2.0, on_out=True)
    assert (tally.lost, tally.twice, tally.wrong) == ([], [], [1])
    assert dict(tally.refused) == {"overloaded": 1, "failed": 1}


def test_an_answer_on_the_reply_subject_alone_is_excused_by_an_outage_of_the_checker(tally: Tally) -> None:
    tally.outages.append(Outage(began_s=4.0, ended_s=5.0))
    for sent_s, done_s in ((0.0, 1.0), (4.5, 6.0), (3.0, 9.0), (5.5, 6.0)):
        tally.heard(sent(tally, sent_s).number, answer(), done_s, on_out=False)
    assert tally.unheard == ([1, 2], [0, 3])
    assert not tally.kept


def test_a_frame_without_an_id_may_be_answered_as_often_as_it_was_published(tally: Tally) -> None:
    frame = sent(tally)
    frame.named = False
    for at_s in (1.0, 2.0):
        tally.heard(frame.number, answer(), at_s, on_out=True)
    assert (tally.twice, tally.kept) == ([0], False)
    frame.sent_s.append(1.5)
    assert (tally.twice, tally.kept) == ([], True)


def test_of_frames_that_are_not_promised_an_answer_only_those_are_lost_that_it_is_owed_for() -> None:
    tally = Tally(promise=PROMISES["latest"], healthy=[3])
    for owed in ("nothing", "nothing", "word", "word", "answer", "answer"):
        tally.add(image=0, owed=owed).sent_s.append(0.0)
    tally.give_up(tally.frames[0])
    for number in (1, 2, 4):
        tally.heard(number, answer(code="superseded"), 1.0, on_out=False)
    assert (tally.lost, tally.superseded, tally.given_up) == ([3, 4, 5], 2, 1)
    for number in (3, 4, 5):
        tally.heard(number, answer(), 2.0, on_out=True)
    assert (tally.lost, tally.answered, tally.kept) == ([], 3, True)
    tally.heard(1, answer(), 3.0, on_out=True)  # the head before said that it is superseded, the next one has it
    assert (tally.twice, tally.answered, tally.kept) == ([], 4, True)
    tally.heard(1, answer(), 3.0, on_out=True)
    assert tally.twice == [1]


def test_an_answer_that_every_frame_is_promised_is_not_that_it_was_superseded(tally: Tally) -> None:
    tally.heard(sent(tally).number, answer(code="superseded"), 1.0, on_out=False)
    assert (tally.wrong, tally.kept) == ([0], False)


def test_a_silence_is_the_longest_time_between_answers_and_the_ends_count(tally: Tally) -> None:
    for done_s in (1.0, 1.5, 4.0):
        tally.heard(sent(tally).number, answer(), done_s, on_out=True)
    assert tally.silence_s(1.0, 4.5) == 2.5
    assert tally.silence_s(3.9, 9.0) == 5.0
    assert tally.silence_s(5.0, 6.0) == 1.0


def test_of_what_was_answered_as_promised_long_ago_only_the_counts_are_kept(tally: Tally) -> None:
    frames = [sent(tally, float(number)) for number in range(5)]
    frames[0].sent_s.append(0.5)
    tally.heard(0, answer(code="overloaded"), 0.6, on_out=True)
    tally.heard(0, answer(4, "exit"), 1.0, on_out=True)
    tally.heard(1, answer(4), 2.0, on_out=True)
    tally.heard(3, answer(), 3.5, on_out=True)
    tally.heard(4, answer(), 7.0, on_out=True)
    before = tally.document()
    tally.settle(4.0)
    assert sorted(tally.frames) == [1, 2, 4]  # wrong, not answered, not old
    assert tally.document() == before
    tally.heard(3, answer(), 9.0, on_out=False)
    assert tally.twice == []
    tally.heard(3, answer(), 9.0, on_out=True)
    assert (tally.twice, tally.kept) == ([3], False)


# ---- mqtt ----------------------------------------------------------------------------------------------------------


def test_an_envelope_is_the_protocol_s() -> None:
    made = mqtt_line.wrap(b"image", reply="_INBOX.a", headers={"Nats-Msg-Id": "f1"})
    assert bytes(mqtt_envelope.unwrap(made)[0]) == b"image"
    assert mqtt_envelope.unwrap(made)[1:] == mqtt_line.unwrap(made)[1:] == ("_INBOX.a", {"Nats-Msg-Id": "f1"})
    assert mqtt_line.unwrap(made)[0] == mqtt_line.unwrap(b"image")[0] == b"image"


def test_a_picture_that_is_marked_is_a_file_of_its_own_and_the_same_picture() -> None:
    image = digits_frames()[0][0]
    first, second = (marked(image, text) for text in ("a", "b"))
    assert len({digest(each) for each in (image, first, second)}) == 3
    with Image.open(io.BytesIO(image)) as own, Image.open(io.BytesIO(second)) as other:
        assert own.tobytes() == other.tobytes()


# ---- leaks ---------------------------------------------------------------------------------------------------------


def samples(mb_per_min: float, files_per_min: float = 0.0, tasks_per_min: float = 0.0) -> list[Sample]:
    return [
        Sample(
            name="node1",
            pid=1,
            at_s=float(second),
            age_s=float(second),
            rss_bytes=round(100e6 + mb_per_min * 1e6 * second / 60 + (20e6 if second > 5 else 0)),
            threads=9,
            files=20 + int(files_per_min * second / 60),
            tasks=None if second % 3 else 40 + int(tasks_per_min * second / 60),
        )
        for second in range(120)
    ]


@pytest.mark.parametrize(
    ("mb", "files", "tasks", "flat"),
    [(0.0, 0.0, 0.0, True), (3.0, 0.0, 0.0, True), (9.0, 0.0, 0.0, False), (0, 9, 0, False), (0, 0, 40, False)],
)
def test_a_process_that_grows_once_it_is_warm_is_found(mb: float, files: float, tasks: float, flat: bool) -> None:
    (found,) = growth(samples(mb, files, tasks))
    assert found.mb_per_min == pytest.approx(mb, abs=0.05)
    assert found.flat() is flat


def test_what_came_once_is_no_leak() -> None:
    """A controller that stood by begins to serve: 40 MB and 40 tasks more, and then no more."""
    more = {"rss_bytes": 40_000_000, "tasks": 40}
    told = [
        replace(one, **{name: (getattr(one, name) or 0) + extra for name, extra in more.items()})
        for one in samples(0.0)
        if one.at_s > 60
    ]
    (found,) = growth([*(one for one in samples(0.0) if one.at_s <= 60), *told])
    assert found.last_bytes - found.first_bytes == pytest.approx(40e6)
    assert found.flat()


def test_a_process_that_did_not_live_for_long_is_not_judged() -> None:
    assert growth(samples(50.0)[:35]) == []


# ---- link ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Link, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection through a link to somebody who says everything back."""

    ends: list[asyncio.Event] = []

    async def say_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(asyncio.Event())
        end = ends[-1]
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
        writer.close()
        end.set()

    server = await asyncio.start_server(say_back, "127.0.0.1", 0)
    link = Link(server.sockets[0].getsockname()[1])
    await link.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", link.ports[0])
    try:
        yield link, reader, writer
    finally:
        writer.close()
        await link.close()
        server.close()
        for end in ends:
            await end.wait()


async def heard(reader: asyncio.StreamReader, size: int, timeout_s: float = 5.0) -> bytes:
    async with asyncio.timeout(timeout_s):
        return await reader.readexactly(size)


async def test_a_good_link_passes_everything_on_and_the_end_too() -> None:
    async with linked() as (_, reader, writer):
        data = bytes(range(256)) * 20_000
        writer.write(data)
        assert await heard(reader, len(data)) == data
        writer.write_eof()
        assert await reader.read() == b""


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (Shape(up=False, down=False), "nothing passes"),
        (Shape(up=False), "nothing goes up"),
        (Shape(down=False, delay_s=0.02), "nothing comes down, 20 ms late"),
        (Shape(bytes_per_s=2e5), "200 kB/s"),
        (Shape(), "good"),
    ],
)
def test_what_a_link_does_is_told_in_words(shape: Shape, said: str) -> None:
    assert str(shape) == said


@pytest.mark.parametrize("shape", [Shape(up=False, down=False), Shape(up=False), Shape(down=False)])
async def test_a_cut_link_passes_nothing_and_ends_nothing_and_restored_it_passes_what_was_sent(shape: Shape) -> None:
    async with linked() as (link, reader, writer):
        writer.write(b"before")
        assert await heard(reader, 6) == b"before"
        link.add(shape)
        writer.write(b"during")
        with pytest.raises(TimeoutError):
            await heard(reader, 1, timeout_s=0.1)
        assert not reader.at_eof()
        link.remove(shape)
        assert await heard(reader, 6) == b"during"


async def test_nobody_connects_through_a_cut_link_before_it_is_restored() -> None:
    async with linked() as (link, _, _):
        link.add(Shape(up=False, down=False))
        reader, writer = await asyncio.open_connection("127.0.0.1", link.ports[0])
        writer.write(b"hello")
        with pytest.raises(TimeoutError):
            await heard(reader, 1, timeout_s=0.1)
        link.remove(Shape(up=False, down=False))
        assert await heard(reader, 5) == b"hello"
        writer.close()


async def test_a_slow_link_is_slow_and_two_faults_of_a_link_add_up() -> None:
    loop = asyncio.get_running_loop()
    async with linked() as (link, reader, writer):
        delay, narrow = Shape(delay_s=0.05), Shape(bytes_per_s=1e6)
        link.add(delay)
        link.add(narrow)
        began_s = loop.time()
        writer.write(bytes(100_000))
        await heard(reader, 100_000)
        assert loop.time() - began_s >= 0.15  # 0.1 s for the bytes, and the way there and back
        link.remove(delay)
        link.remove(narrow)
        assert link.shape == Shape()
