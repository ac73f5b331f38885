"""The head on an in-process broker: what a publisher and a subscriber see of it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from broker import subjects
from broker.activation import Activation, Failure, FrameTag, encode_tensor_frame
from broker.errors import WireError
from broker.memory import MemoryBroker
from broker.url import parse_broker_url
from stages import head as head_module
from stages.flow import Flow
from stages.head import Head
from stages.ledger import Ledger
from stages.spec import PipelineSpec
from tests.contract.conftest import Inbox, eventually
from tests.unit.builders import numbers, pipeline_spec, tensor

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
        bounds = {"queue_frames": 4096, "queue_bytes": 1 << 20, **limits}
        self.head = Head(
            pipeline="p",
            spec=spec,
            ledger=Ledger(queue_frames=bounds["queue_frames"], queue_bytes=bounds["queue_bytes"]),
            top_k=5,
            resend_after_s=bounds.get("resend_after_s", 60.0),
            max_attempts=bounds.get("max_attempts", 4),
            broker=broker,
            executor=executor,
        )

    async def start(self, *, window: int = 100, batch: int = 1) -> None:
        await self.broker.subscribe(OUT, self.out)
        await self.broker.subscribe(DEAD, self.dead)
        await self.broker.subscribe("answer.*", self.replies)
        await self.head.follow(1, Flow(window=window, batch=batch), self.stages)
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
    assert (pipeline.head.in_flight, pipeline.head.frames_answered, pipeline.head.frames_failed) == (0, 1, 0)


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
    await pipeline.head.follow(2, Flow(window=100, batch=4), pipeline.stages)
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
    await pipeline.head.follow(2, Flow(window=100, batch=8), pipeline.stages)
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
    assert pipeline.head.frames_answered == 1


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
    assert pipeline.head.frames_failed == 1


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
    await pipeline.head.follow(2, Flow(window=3, batch=1), route)
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
    publish = pipeline.broker.publish

    async def full_buffer(*args: Any, **kwargs: Any) -> None:
        stuck.set()
        await room.wait()
        await publish(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.broker, "publish", full_buffer)
        task = asyncio.create_task(pipeline.head.on_outcome(outcome("mine")))
        await stuck.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        room.set()
        await pipeline.still()
    assert pipeline.out.waiting == 1
