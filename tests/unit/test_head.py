"""The head on an in-process broker: what a publisher and a subscriber see of it."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from broker import subjects
from broker.activation import Activation, Failure, FrameTag, encode_tensor_frame
from broker.control import BlobRef, FlowSettings
from broker.errors import WireError
from broker.memory import MemoryBroker
from broker.url import parse_broker_url
from stages import head as head_module
from stages.fence import Fence
from stages.flow import Flow
from stages.head import Head
from stages.ledger import Ledger
from stages.results import Provenance
from stages.spec import PipelineSpec
from stages.way import Way
from tests.contract.conftest import Inbox, eventually
from tests.unit.builders import BLOB, numbers, pipeline_spec, tensor

SPEC = pipeline_spec(tensor("x", None, 2), tensor("y", None, 2))
IN, OUT, DEAD = subjects.frames_in("p"), subjects.results_out("p"), subjects.dead_letters("p")


def npy(value: float) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, numbers(value))
    return buffer.getvalue()


class Stages:
    """Stands for the stages behind the head: keeps what is sent, and answers with twice the numbers."""

    def __init__(self) -> None:
        self.sent: list[Activation] = []

    async def __call__(self, message: Activation) -> None:
        self.sent.append(message)

    @property
    def ids(self) -> list[str]:
        return [frame.id for message in self.sent for frame in message.frames]


def outcome(*frames: str, epoch: int = 1, hops: tuple[Any, ...] = (("node1", 0, 1.0, 2.0),)) -> Activation:
    tensors = {"y": numbers(*range(len(frames)))}
    return Activation(epoch=epoch, cut=1, frames=tuple(FrameTag(frame, hops) for frame in frames), tensors=tensors)


class Pipeline:
    """A head that runs, with its publisher, its subscriber and its stages."""

    def __init__(self, broker: MemoryBroker, executor: ThreadPoolExecutor, spec: PipelineSpec, **limits: Any) -> None:
        self.broker = broker
        self.out, self.dead, self.replies = Inbox(), Inbox(), Inbox()
        self.stages = Stages()
        self.spec = spec
        self.executor = executor
        self.news = 0
        bounds = {"queue_frames": 4096, "queue_bytes": 1 << 20, **limits}
        self.head = Head(
            pipeline="p",
            ledger=Ledger(queue_frames=bounds["queue_frames"], queue_bytes=bounds["queue_bytes"]),
            flow=FlowSettings(
                resend_after_s=bounds.get("resend_after_s", 60.0),
                max_attempts=bounds.get("max_attempts", 4),
                delivery=bounds.get("delivery", "at-least-once"),
                ordered=bounds.get("ordered", False),
            ),
            broker=broker,
            executor=executor,
            on_news=self._count_news,
            fence=bounds.get("fence"),
        )

    def _count_news(self) -> None:
        self.news += 1

    async def follow(
        self,
        epoch: int,
        stages: Stages | None = None,
        *,
        window: int = 100,
        batch: int = 1,
        first: int = 0,
        drain: bool = False,
        model: BlobRef = BLOB,
        spec: PipelineSpec | None = None,
        **provenance: Any,
    ) -> None:
        """Frames go on the way of this epoch, over these stages (the same as before if none are given)."""
        way = Way(
            epoch=epoch,
            model=model,
            spec=spec or self.spec,
            flow=Flow(window=window, batch=batch, first=first),
            provenance=Provenance(epoch=epoch, **provenance),
            send=stages or self.stages,
        )
        await self.head.follow(way, drain=drain)

    async def start(self, *, window: int = 100, batch: int = 1) -> None:
        await self.broker.subscribe(OUT, self.out)
        await self.broker.subscribe(DEAD, self.dead)
        await self.broker.subscribe("answer.*", self.replies)
        await self.follow(1, window=window, batch=batch)
        await self.broker.subscribe(IN, self.head.on_frame)

    async def publish(self, payload: bytes, frame_id: str = "", reply: str = "") -> None:
        await self.broker.publish(IN, payload, headers={"Nats-Msg-Id": frame_id} if frame_id else None, reply=reply)

    async def sent(self, count: int) -> None:
        """Wait until so many frames have been sent to the stages, and see that no more come."""
        await eventually(lambda: len(self.stages.ids) >= count)
        await self.still()
        assert len(self.stages.ids) == count

    async def still(self) -> None:
        """Let everything happen that is due: each publish lets the others run once."""
        for _ in range(20):
            await self.broker.publish("nothing", b"")

    async def result(self) -> Any:
        return json.loads(bytes((await self.out.next()).data))


Start = Callable[..., Any]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
async def start(executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    monkeypatch.setattr(head_module, "CHECK_LOST_S", 0.005)
    tasks: list[asyncio.Task[None]] = []
    brokers: list[MemoryBroker] = []

    async def start(
        *, window: int = 100, batch: int = 1, spec: PipelineSpec = SPEC, max_payload_bytes: int = 1 << 20, **limits: Any
    ) -> Pipeline:
        brokers.append(
            await MemoryBroker.connect(parse_broker_url("memory://head"), max_payload_bytes=max_payload_bytes)
        )
        pipeline = Pipeline(brokers[-1], executor, spec, **limits)
        await pipeline.start(window=window, batch=batch)
        tasks.append(asyncio.create_task(pipeline.head.run()))
        return pipeline

    yield start
    for task in tasks:
        assert not task.done(), task.exception()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for broker in brokers:
        await broker.close()


async def test_a_frame_is_sent_to_the_first_stage_and_its_result_is_published(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(3), "mine")
    await pipeline.sent(1)
    (message,) = pipeline.stages.sent
    assert (message.epoch, message.cut) == (1, 0)
    np.testing.assert_array_equal(message.tensors["x"], numbers(3))
    await pipeline.head.on_outcome(outcome("mine"))
    result = await pipeline.result()
    assert (result["id"], result["epoch"], result["error"], result["technique"]) == ("mine", 1, None, "none")
    assert result["path"] == [{"node": "node1", "cut": 0, "at": 1.0, "ms": 2.0}]
    assert result["latency_ms"] > 0
    assert (pipeline.head.in_flight, pipeline.head.counters.answered, pipeline.head.counters.failed) == (0, 1, 0)


async def test_a_frame_without_an_id_gets_one_of_its_own(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1))
    await pipeline.publish(npy(1))
    await pipeline.sent(2)
    assert len(set(pipeline.stages.ids)) == 2


async def test_a_tensor_message_may_carry_its_id_and_the_header_s_comes_first(start: Start) -> None:
    pipeline = await start()
    payload = b"".join(encode_tensor_frame({"x": numbers(1)}, "inside"))
    await pipeline.publish(payload)
    await pipeline.publish(payload, "header")
    await pipeline.sent(2)
    assert pipeline.stages.ids == ["inside", "header"]


async def test_a_large_frame_is_decoded_off_the_event_loop_with_the_same_result(start: Start) -> None:
    wide = pipeline_spec(tensor("x", None, 5000), tensor("y", None, 2))
    pipeline = await start(spec=wide)
    buffer = io.BytesIO()
    np.save(buffer, numbers(1, width=5000))
    await pipeline.publish(buffer.getvalue(), "large")
    await pipeline.sent(1)
    assert pipeline.stages.sent[0].tensors["x"].shape == (1, 5000)


async def test_no_more_frames_are_in_flight_than_the_window_allows(start: Start) -> None:
    pipeline = await start(window=3)
    for number in range(8):
        await pipeline.publish(npy(number), f"f{number}")
    await pipeline.sent(3)
    assert (pipeline.head.in_flight, pipeline.head.waiting) == (3, 5)
    await pipeline.head.on_outcome(outcome("f0", "f1"))
    await pipeline.sent(5)
    await pipeline.head.on_outcome(outcome("f2", "f3", "f4"))
    await pipeline.sent(8)
    assert pipeline.stages.ids == [f"f{number}" for number in range(8)]


async def test_frames_that_wait_together_are_sent_together_up_to_the_batch(start: Start) -> None:
    pipeline = await start(window=1, batch=4)
    await pipeline.publish(npy(0), "first")
    await pipeline.sent(1)
    for number in range(6):
        await pipeline.publish(npy(number), f"f{number}")
    await pipeline.follow(2, window=100, batch=4)
    await pipeline.sent(8)
    assert [len(message.frames) for message in pipeline.stages.sent] == [1, 1, 4, 2]
    np.testing.assert_array_equal(pipeline.stages.sent[2].tensors["x"], numbers(0, 1, 2, 3))


async def test_frames_of_different_sizes_are_sent_apart(start: Start) -> None:
    open_size = pipeline_spec(tensor("x", None, None), tensor("y", None, 2))
    pipeline = await start(spec=open_size, window=1, batch=8)
    await pipeline.publish(npy(0), "first")
    await pipeline.sent(1)
    for width in (2, 2, 3):
        await pipeline.publish(b"".join(encode_tensor_frame({"x": numbers(1, width=width)})))
    await pipeline.follow(2, window=100, batch=8)
    await pipeline.sent(5)
    assert [message.tensors["x"].shape for message in pipeline.stages.sent[2:]] == [(2, 2), (1, 3)]


async def test_a_result_that_comes_twice_is_published_once(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "mine", reply="answer.1")
    await pipeline.sent(1)
    for _ in range(3):
        await pipeline.head.on_outcome(outcome("mine"))
    await pipeline.still()
    assert (pipeline.out.waiting, pipeline.replies.waiting) == (1, 1)
    assert pipeline.head.counters.answered == 1


async def test_a_result_of_a_frame_that_was_never_sent_is_ignored(start: Start) -> None:
    pipeline = await start()
    await pipeline.head.on_outcome(outcome("unknown"))
    await pipeline.still()
    assert pipeline.out.waiting == 0


async def test_a_frame_published_again_while_in_flight_is_answered_once_and_to_each_who_asked(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "mine", reply="answer.1")
    await pipeline.publish(npy(1), "mine", reply="answer.2")
    await pipeline.publish(npy(1), "mine", reply="answer.1")
    await pipeline.sent(1)
    await pipeline.head.on_outcome(outcome("mine"))
    await pipeline.still()
    assert pipeline.out.waiting == 1
    assert [message.subject for message in await pipeline.replies.take(2)] == ["answer.1", "answer.2"]
    assert pipeline.replies.waiting == 0


async def test_a_frame_published_again_after_its_answer_is_answered_to_who_asked_again_only(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "mine")
    await pipeline.sent(1)
    await pipeline.head.on_outcome(outcome("mine"))
    first = await pipeline.out.next()
    await pipeline.publish(npy(1), "mine", reply="answer.again")
    again = await pipeline.replies.next()
    assert (again.subject, again.data) == ("answer.again", first.data)
    await pipeline.sent(1)
    assert pipeline.out.waiting == 0


async def test_a_frame_that_finds_the_queue_full_is_answered_at_once_that_the_pipeline_is_overloaded(
    start: Start,
) -> None:
    pipeline = await start(window=1, queue_frames=2)
    for number in range(4):
        await pipeline.publish(npy(number), f"f{number}", reply=f"answer.{number}")
        await pipeline.still()
    result = await pipeline.result()
    assert (result["id"], result["error"]["code"]) == ("f3", "overloaded")
    assert "2 frames" in result["error"]["reason"]
    assert (await pipeline.replies.next()).subject == "answer.3"
    assert json.loads(bytes((await pipeline.dead.next()).data))["code"] == "overloaded"
    assert pipeline.head.counters.failed == 1


async def test_an_overloaded_frame_may_be_published_again_under_its_id(start: Start) -> None:
    pipeline = await start(window=1, queue_frames=1)
    for number in range(3):
        await pipeline.publish(npy(number), f"f{number}")
        await pipeline.still()
    assert (await pipeline.result())["error"]["code"] == "overloaded"
    await pipeline.head.on_outcome(outcome("f0"))
    await pipeline.sent(2)
    await pipeline.publish(npy(2), "f2")
    await pipeline.head.on_outcome(outcome("f1"))
    await pipeline.sent(3)
    assert pipeline.stages.ids[-1] == "f2"


async def test_a_frame_that_cannot_be_read_is_answered_with_the_reason_and_the_next_goes_on(start: Start) -> None:
    pipeline = await start(batch=4)
    await pipeline.publish(b"nonsense", "bad", reply="answer.bad")
    await pipeline.publish(npy(1), "good")
    await pipeline.sent(1)
    assert pipeline.stages.ids == ["good"]
    result = await pipeline.result()
    assert (result["id"], result["error"]["code"]) == ("bad", "not-an-image")
    assert json.loads(bytes((await pipeline.replies.next()).data)) == result
    letter = json.loads(bytes((await pipeline.dead.next()).data))
    assert (letter["id"], letter["code"], letter["size_bytes"]) == ("bad", "not-an-image", 8)
    await pipeline.head.on_outcome(outcome("good"))
    assert (await pipeline.result())["id"] == "good"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "empty"),
        (npy(1)[:-1], "truncated"),
        (npy(1)[:8], "truncated"),
        (npy(float("nan")), "not-finite"),
        (b"\x91\x80", "bad-message"),
        (b"".join(encode_tensor_frame({"x": numbers(1, width=3)})), "bad-shape"),
        (b"".join(encode_tensor_frame({"x": numbers(1).astype(np.int8)})), "bad-dtype"),
        (b"".join(encode_tensor_frame({"wrong": numbers(1)})), "bad-message"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
async def test_each_way_of_being_wrong_has_its_code(start: Start, payload: bytes, code: str) -> None:
    pipeline = await start()
    await pipeline.publish(payload)
    assert (await pipeline.result())["error"]["code"] == code
    await pipeline.publish(npy(1))
    await pipeline.sent(1)


async def test_an_id_that_is_too_long_is_refused_under_an_id_of_the_head_s(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "i" * 257)
    result = await pipeline.result()
    assert result["error"]["code"] == "bad-message"
    assert len(result["id"]) <= 256


async def test_a_failure_of_a_stage_becomes_the_frame_s_result_and_a_dead_letter(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "mine", reply="answer.1")
    await pipeline.sent(1)
    tag = FrameTag("mine", (("node1", 0, 1.0, 2.0),))
    await pipeline.head.on_outcome(Failure(epoch=1, cut=1, frames=(tag,), code="failed", reason="stage says no"))
    result = await pipeline.result()
    assert result["error"] == {"code": "failed", "reason": "stage says no"}
    assert result["path"][0]["node"] == "node1"
    assert json.loads(bytes((await pipeline.dead.next()).data))["reason"] == "stage says no"
    assert (await pipeline.replies.next()).subject == "answer.1"


async def test_an_outcome_that_is_not_the_model_s_output_is_refused_and_the_frame_is_still_held(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "mine")
    await pipeline.sent(1)
    odd = Activation(epoch=1, cut=1, frames=(FrameTag("mine"),), tensors={"y": numbers(1, width=9)})
    with pytest.raises(WireError):
        await pipeline.head.on_outcome(odd)
    assert pipeline.head.in_flight == 1


async def test_a_new_epoch_sends_what_is_in_flight_again_and_the_rest_on_its_route(start: Start) -> None:
    pipeline = await start(window=2)
    for number in range(4):
        await pipeline.publish(npy(number), f"f{number}")
    await pipeline.sent(2)
    await pipeline.head.on_outcome(outcome("f0"))
    await pipeline.sent(3)
    route = Stages()
    await pipeline.follow(2, route, window=3)
    await eventually(lambda: len(route.ids) == 3)
    assert route.ids == ["f1", "f2", "f3"]
    assert {message.epoch for message in route.sent} == {2}
    np.testing.assert_array_equal(route.sent[0].tensors["x"], numbers(1))
    await pipeline.head.on_outcome(outcome("f1", "f2", "f3", epoch=2))
    assert [(await pipeline.result())["epoch"] for _ in range(4)] == [1, 2, 2, 2]


async def test_a_frame_that_does_not_come_back_is_sent_again_and_given_up_after_the_last_attempt(start: Start) -> None:
    pipeline = await start(resend_after_s=0.01, max_attempts=3)
    await pipeline.publish(npy(1), "lost", reply="answer.1")
    result = await pipeline.result()
    assert (result["id"], result["error"]["code"]) == ("lost", "timeout")
    assert "3 attempts" in result["error"]["reason"]
    assert pipeline.stages.ids == ["lost"] * 3
    assert (await pipeline.replies.next()).subject == "answer.1"
    assert pipeline.head.in_flight == 0


async def test_a_few_frames_are_in_flight_at_first_and_with_each_answer_that_comes_soon_one_more(start: Start) -> None:
    pipeline = await start()
    await pipeline.follow(2, window=5, first=2)
    for number in range(20):
        await pipeline.publish(npy(number), f"f{number}")
    await pipeline.sent(2)
    await pipeline.head.on_outcome(outcome("f0", "f1", epoch=2))
    await pipeline.sent(2 + 4)
    await pipeline.head.on_outcome(outcome("f2", "f3", epoch=2))
    await pipeline.sent(2 + 4 + 3)
    assert pipeline.head.in_flight == 5


async def test_while_nothing_comes_back_the_oldest_frame_alone_is_sent_again_and_all_are_given_up(start: Start) -> None:
    pipeline = await start(resend_after_s=0.01, max_attempts=3)
    names = ["one", "two", "three"]
    for number, name in enumerate(names):
        await pipeline.publish(npy(number), name)
    results = [await pipeline.result() for _ in names]
    assert [(result["id"], result["error"]["code"]) for result in results] == [(name, "timeout") for name in names]
    assert pipeline.stages.ids == ["one", "two", "three", "one", "one"]
    assert "nor of any other frame" in results[-1]["error"]["reason"]


async def test_all_that_was_lost_is_sent_again_when_the_oldest_is_back(start: Start) -> None:
    pipeline = await start(resend_after_s=0.01, max_attempts=100)
    for number, name in enumerate(["one", "two", "three"]):
        await pipeline.publish(npy(number), name)
    await eventually(lambda: bool(pipeline.stages.ids[3:] == ["one"]))
    await pipeline.head.on_outcome(outcome("one"))
    await eventually(lambda: pipeline.stages.ids[-2:] == ["two", "three"] and len(pipeline.stages.ids) > 4)
    await pipeline.head.on_outcome(outcome("two", "three"))
    assert [(await pipeline.result())["id"] for _ in range(3)] == ["one", "two", "three"]


async def test_a_frame_that_was_sent_again_is_answered_once(start: Start) -> None:
    pipeline = await start(resend_after_s=0.01, max_attempts=100)
    await pipeline.publish(npy(1), "slow")
    await eventually(lambda: len(pipeline.stages.ids) >= 2)
    await pipeline.head.on_outcome(outcome("slow"))
    await pipeline.head.on_outcome(outcome("slow"))
    await pipeline.still()
    assert pipeline.out.waiting == 1


async def test_a_result_that_is_too_large_for_the_broker_is_answered_with_an_error(start: Start) -> None:
    spec = pipeline_spec(tensor("x", None, 2), tensor("y", None, 1000))
    pipeline = await start(spec=spec, max_payload_bytes=4000)
    await pipeline.publish(npy(1), "large", reply="answer.1")
    await pipeline.sent(1)
    large = Activation(epoch=1, cut=1, frames=(FrameTag("large"),), tensors={"y": numbers(1, width=1000)})
    await pipeline.head.on_outcome(large)
    await pipeline.still()
    assert pipeline.out.waiting == 1
    assert (await pipeline.result())["error"]["code"] == "too-large"


async def test_a_frame_in_flight_that_is_published_again_has_one_result_even_when_the_queue_is_full(
    start: Start,
) -> None:
    pipeline = await start(window=1, queue_frames=1)
    for number in range(2):
        await pipeline.publish(npy(number), f"f{number}")
        await pipeline.still()
    await pipeline.publish(npy(0), "f0", reply="answer.again")
    await pipeline.head.on_outcome(outcome("f0"))
    await pipeline.still()
    results = [json.loads(bytes(message.data)) for message in await pipeline.out.take(pipeline.out.waiting)]
    assert [result["error"] for result in results if result["id"] == "f0"] == [None]


async def test_a_frame_whose_result_is_cut_off_by_a_new_epoch_is_not_lost(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "mine")
    await pipeline.sent(1)
    stuck, room = asyncio.Event(), asyncio.Event()
    publish_now = pipeline.broker.publish_now

    async def full_buffer(*args: Any, **kwargs: Any) -> bool:
        stuck.set()
        await room.wait()
        return await publish_now(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.broker, "publish_now", full_buffer)
        task = asyncio.create_task(pipeline.head.on_outcome(outcome("mine")))
        await stuck.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        room.set()
        await pipeline.still()
    assert pipeline.out.waiting == 1


# ---- from one way to the next --------------------------------------------------------------------------------------


async def test_what_is_in_flight_is_sent_again_in_batches_oldest_first(start: Start) -> None:
    pipeline = await start(batch=1)
    for number in range(6):
        await pipeline.publish(npy(number), f"f{number}")
    await pipeline.sent(6)
    route = Stages()
    await pipeline.follow(2, route, batch=4)
    assert [len(message.frames) for message in route.sent] == [4, 2]
    assert route.ids == [f"f{number}" for number in range(6)]
    np.testing.assert_array_equal(route.sent[0].tensors["x"], numbers(0, 1, 2, 3))
    assert pipeline.head.counters.sent_again == 6


async def test_answers_of_a_way_that_is_over_are_ignored_and_those_of_the_new_one_are_published(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "mine")
    await pipeline.sent(1)
    await pipeline.follow(2, technique="exit", exit="exit:2-6", expected_accuracy=0.5)
    await pipeline.head.on_outcome(outcome("mine", epoch=1))
    await pipeline.still()
    assert (pipeline.out.waiting, pipeline.head.in_flight) == (0, 1)
    await pipeline.head.on_outcome(outcome("mine", epoch=2))
    result = await pipeline.result()
    assert (result["epoch"], result["technique"], result["exit"]) == (2, "exit", "exit:2-6")
    assert result["expected_accuracy"] == 0.5


async def test_with_a_drain_frames_finish_on_the_way_they_were_sent_and_are_not_sent_again(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "old")
    await pipeline.sent(1)
    route = Stages()
    await pipeline.follow(2, route, drain=True, technique="standby")
    await pipeline.publish(npy(2), "new")
    await eventually(lambda: route.ids == ["new"])
    assert (pipeline.stages.ids, pipeline.head.oldest_epoch) == (["old"], 1)
    await pipeline.head.on_outcome(outcome("new", epoch=2))
    await pipeline.head.on_outcome(outcome("old", epoch=1))
    results = [await pipeline.result() for _ in range(2)]
    assert [(r["id"], r["epoch"], r["technique"]) for r in results] == [("new", 2, "standby"), ("old", 1, "none")]
    assert (pipeline.head.oldest_epoch, pipeline.head.idle) == (0, True)


async def test_a_way_around_a_failure_ends_a_drain_too(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "one")
    await pipeline.sent(1)
    await pipeline.follow(2, Stages(), drain=True)
    await pipeline.publish(npy(2), "two")
    route = Stages()
    await eventually(lambda: pipeline.head.in_flight == 2)
    await pipeline.follow(3, route)
    assert route.ids == ["one", "two"]
    for epoch in (1, 2):
        await pipeline.head.on_outcome(outcome("one", epoch=epoch))
    await pipeline.still()
    assert (pipeline.out.waiting, pipeline.head.oldest_epoch) == (0, 3)


async def test_a_frame_that_is_sent_again_while_ways_are_drained_takes_the_newest(start: Start) -> None:
    pipeline = await start(resend_after_s=0.01, max_attempts=100)
    route = Stages()
    await pipeline.publish(npy(1), "slow")
    await eventually(lambda: "slow" in pipeline.stages.ids)
    await pipeline.follow(2, route, drain=True)
    await eventually(lambda: "slow" in route.ids)
    assert pipeline.head.oldest_epoch == 2
    await pipeline.head.on_outcome(outcome("slow", epoch=2))
    assert (await pipeline.result())["epoch"] == 2


OTHER = BlobRef(sha256="1e" * 32, size_bytes=5)


async def test_another_model_gets_the_frames_that_are_held_decoded_anew(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "mine")
    await pipeline.sent(1)
    route = Stages()
    await pipeline.follow(2, route, model=OTHER, spec=pipeline_spec(tensor("z", None, 2), tensor("y", None, 2)))
    assert list(route.sent[0].tensors) == ["z"]
    np.testing.assert_array_equal(route.sent[0].tensors["z"], numbers(1))


async def test_a_frame_that_another_model_does_not_take_is_answered_with_the_reason(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "mine")
    await pipeline.sent(1)
    route = Stages()
    await pipeline.follow(2, route, model=OTHER, spec=pipeline_spec(tensor("x", None, 3), tensor("y", None, 2)))
    result = await pipeline.result()
    assert (result["id"], result["error"]["code"]) == ("mine", "bad-shape")
    assert (route.ids, pipeline.head.in_flight) == ([], 0)


async def test_with_a_drain_frames_of_the_model_before_are_answered_by_it(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "mine")
    await pipeline.sent(1)
    wide = pipeline_spec(tensor("x", None, 2), tensor("y", None, 9))
    await pipeline.follow(2, Stages(), model=OTHER, spec=wide, drain=True)
    await pipeline.head.on_outcome(outcome("mine", epoch=1))
    assert (await pipeline.result())["outputs"]["y"]["shape"] == [1, 2]


async def test_the_counters_tell_what_the_heartbeat_reports(start: Start) -> None:
    pipeline = await start()
    counters = pipeline.head.counters
    assert (pipeline.head.oldest_epoch, counters.answered_epoch, counters.latency_s) == (0, 0, 0.0)
    for number in range(2):
        await pipeline.publish(npy(number), f"f{number}")
    await pipeline.sent(2)
    assert pipeline.head.oldest_epoch == 1
    await pipeline.head.on_outcome(outcome("f0"))
    assert (counters.answered_epoch, counters.degraded, counters.latency_s > 0) == (1, 0, True)
    await pipeline.follow(2, technique="stand-in")
    assert (pipeline.head.oldest_epoch, counters.sent_again, counters.latency_s) == (2, 1, 0.0)
    await pipeline.head.on_outcome(outcome("f1", epoch=2))
    assert (counters.answered, counters.answered_epoch, counters.degraded) == (2, 2, 1)
    assert counters.latency_s > 0


async def test_the_first_answer_of_each_way_is_news_and_the_others_are_not(start: Start) -> None:
    pipeline = await start()
    for number in range(4):
        await pipeline.publish(npy(number), f"f{number}")
    await pipeline.sent(4)
    await pipeline.head.on_outcome(outcome("f0"))
    assert pipeline.news == 1
    await pipeline.head.on_outcome(outcome("f1"))
    assert pipeline.news == 1
    await pipeline.follow(2)
    await pipeline.head.on_outcome(outcome("f2", epoch=2))
    assert pipeline.news == 2


async def test_that_nothing_is_under_way_on_the_way_before_any_more_is_news(start: Start) -> None:
    pipeline = await start()
    await pipeline.publish(npy(1), "old")
    await pipeline.sent(1)
    await pipeline.head.on_outcome(outcome("old"))
    await pipeline.publish(npy(1), "older")
    await pipeline.sent(2)
    await pipeline.follow(2, drain=True)
    before = pipeline.news
    await pipeline.head.on_outcome(outcome("older"))
    assert pipeline.news == before + 1


async def test_a_frame_that_another_head_answered_gets_that_answer_when_it_is_published_again(start: Start) -> None:
    pipeline = await start()
    pipeline.head.remember("theirs", b'{"id":"theirs"}')
    await pipeline.publish(npy(1), "theirs", reply="answer.1")
    assert (await pipeline.replies.next()).data == b'{"id":"theirs"}'
    await pipeline.sent(0)


async def test_frames_that_wait_are_taken_but_not_answered(start: Start) -> None:
    pipeline = await start(window=1)
    for number in range(3):
        await pipeline.publish(npy(number), f"f{number}")
    await pipeline.sent(1)
    assert pipeline.head.held_ids() == ["f0", "f1", "f2"]
    assert not pipeline.head.idle


async def test_a_frame_that_is_being_decoded_is_one_that_the_head_has_taken(start: Start) -> None:
    """A head that hands over lists what it will finish, and ends when it is idle."""
    wide = pipeline_spec(tensor("x", None, 5000), tensor("y", None, 2))
    pipeline = await start(spec=wide)
    gate = threading.Event()
    busy = pipeline.executor.submit(gate.wait, 10)
    buffer = io.BytesIO()
    np.save(buffer, numbers(1, width=5000))
    await pipeline.publish(buffer.getvalue(), "large")
    await eventually(lambda: pipeline.head.waiting == 0)
    held, idle = pipeline.head.held_ids(), pipeline.head.idle
    gate.set()
    assert busy.result()
    await pipeline.sent(1)
    assert (held, idle) == (["large"], False)


async def test_a_head_that_may_not_answer_publishes_nothing(start: Start) -> None:
    async def no() -> bool:
        return False

    fence = Fence(no)
    fence.doubt()
    pipeline = await start(fence=fence)
    await pipeline.publish(npy(1), "mine", reply="answer.1")
    await pipeline.publish(b"nonsense", "bad", reply="answer.2")
    await pipeline.sent(1)
    await pipeline.head.on_outcome(outcome("mine"))
    await pipeline.still()
    assert (pipeline.out.waiting, pipeline.dead.waiting, pipeline.replies.waiting) == (0, 0, 0)
