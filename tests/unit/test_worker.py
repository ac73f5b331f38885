"""A stage worker with a real engine: what it joins, what fails alone, what it drops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from threading import Event
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from broker.activation import Activation, Failure
from broker.errors import WireError
from broker.wire import Encoded, Tensor
from stages import codec as codecs
from stages.engine import Engine
from stages.flow import Flow
from stages.worker import Packing, StageWorker, WorkerCounters
from tests.contract.conftest import eventually
from tests.onnx_models import Net
from tests.unit.builders import activation, pipeline_spec, tensor

WEIGHTS = np.array([10, 20, 30, 40], np.float32)
SPEC = pipeline_spec(tensor("index", None, dtype="int64"), tensor("y", None))


def lookup() -> bytes:
    """y = WEIGHTS[index]: an index that is too large fails, and with it whatever is stacked with it."""
    net = Net()
    net.named("y", "Gather", net.constant(WEIGHTS), "index")
    model = net.model({"index": (["n"], TensorProto.INT64)}, {"y": ["n"]})
    data: bytes = model.SerializeToString()
    return data


def frames(*indices: int) -> Activation:
    return activation({"index": np.array(indices, np.int64)}, ids=[f"frame-{index}" for index in indices])


class WatchedEngine(Engine):
    """Remembers how many frames each inference had; waits at the gate, so that a test decides what is queued."""

    gate: Event
    batches: list[int]
    asked: int = 0

    def run(self, tensors: Any) -> dict[str, Tensor]:
        self.asked += 1
        assert self.gate.wait(10)
        self.batches.append(len(next(iter(tensors.values()))))
        return super().run(tensors)


class Stage:
    """A worker that runs, what it delivered, and how its engine was used."""

    def __init__(
        self, executor: ThreadPoolExecutor, flow: Flow, spec: Any = SPEC, packing: Packing | None = None
    ) -> None:
        self.engine = WatchedEngine.load(lookup(), outputs=spec.cuts[1])
        assert isinstance(self.engine, WatchedEngine)
        self.engine.gate, self.engine.batches = Event(), []
        self.counters = WorkerCounters()
        self.delivered: list[Activation | Failure] = []
        self.worker = StageWorker(
            node="node1",
            first_block=0,
            end_block=1,
            spec=spec,
            flow=flow,
            engine=self.engine,
            executor=executor,
            deliver=self._deliver,
            counters=self.counters,
            packing=packing,
        )

    async def _deliver(self, message: Activation | Failure) -> None:
        self.delivered.append(message)

    async def work(self, answers: int) -> None:
        """Let the engine run until so many frames have come back."""
        self.engine.gate.set()
        await eventually(lambda: sum(len(message.frames) for message in self.delivered) >= answers)

    @property
    def values(self) -> dict[str, float]:
        return {
            frame.id: float(value)
            for message in self.delivered
            if isinstance(message, Activation)
            for frame, value in zip(message.frames, message.tensors["y"], strict=True)
        }

    @property
    def failures(self) -> list[Failure]:
        return [message for message in self.delivered if isinstance(message, Failure)]


Make = Callable[..., AbstractAsyncContextManager[Stage]]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def stage(executor: ThreadPoolExecutor) -> Make:
    @asynccontextmanager
    async def make(
        *, window: int = 64, batch: int = 64, spec: Any = SPEC, packing: Packing | None = None
    ) -> AsyncIterator[Stage]:
        stage = Stage(executor, Flow(window=window, batch=batch), spec, packing)
        task = asyncio.create_task(stage.worker.run())
        try:
            yield stage
        finally:
            stage.engine.gate.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return make


async def test_a_frame_comes_out_with_its_value_and_the_hop_that_it_made(stage: Make) -> None:
    async with stage() as running:
        running.worker.accept(frames(2))
        await running.work(1)
    assert running.values == {"frame-2": 30}
    (made,) = running.delivered
    assert (made.cut, made.epoch) == (1, 1)
    ((node, cut, at, ms),) = made.frames[0].hops
    assert (node, cut) == ("node1", 0)
    assert at > 1.6e9
    assert ms >= 0
    assert running.counters.frames == 1
    assert running.counters.busy_s > 0


async def test_all_that_waits_is_joined_into_one_inference(stage: Make) -> None:
    async with stage() as running:
        for index in (0, 1, 2, 3):
            running.worker.accept(frames(index))
        await running.work(4)
    assert running.engine.batches == [4]
    assert running.values == {"frame-0": 10, "frame-1": 20, "frame-2": 30, "frame-3": 40}


async def test_no_inference_exceeds_the_batch_and_no_message_is_torn_apart(stage: Make) -> None:
    async with stage(batch=4) as running:
        for count in (2, 1, 3, 1, 4, 1):
            running.worker.accept(frames(*range(count)))
        await running.work(12)
    assert running.engine.batches == [3, 4, 4, 1]


async def test_a_message_that_is_larger_than_the_batch_is_still_processed(stage: Make) -> None:
    async with stage(batch=2) as running:
        running.worker.accept(frames(0, 1, 2, 3))
        await running.work(4)
    assert running.engine.batches == [4]


async def test_frames_that_cannot_be_stacked_are_run_one_by_one(stage: Make) -> None:
    spec = pipeline_spec(tensor("index", None, dtype="int64"), tensor("y", None), dynamic_batch=False)
    async with stage(spec=spec) as running:
        for index in (0, 1, 2):
            running.worker.accept(frames(index))
        await running.work(3)
    assert running.engine.batches == [1, 1, 1]


async def test_a_frame_that_cannot_be_run_fails_alone_though_it_was_joined_with_others(stage: Make) -> None:
    async with stage() as running:
        for index in (0, 9, 1):
            running.worker.accept(frames(index))
        await running.work(3)
        running.worker.accept(frames(3))
        await running.work(4)
    assert running.values == {"frame-0": 10, "frame-1": 20, "frame-3": 40}
    (failure,) = running.failures
    assert [frame.id for frame in failure.frames] == ["frame-9"]
    assert (failure.code, failure.cut) == ("failed", SPEC.blocks)
    assert failure.reason.startswith("stage [0, 1) on node1: onnxruntime could not run the stage")
    assert running.counters.frames == 3


async def test_a_frame_that_cannot_be_run_fails_alone_though_it_came_in_one_message_with_others(stage: Make) -> None:
    async with stage() as running:
        running.worker.accept(frames(0, 9, 1))
        await running.work(3)
    assert running.values == {"frame-0": 10, "frame-1": 20}
    assert [frame.id for failure in running.failures for frame in failure.frames] == ["frame-9"]


async def test_a_full_queue_drops_the_oldest_and_counts_it(stage: Make) -> None:
    async with stage(window=2, batch=1) as running:
        running.worker.accept(frames(0))
        await eventually(lambda: running.engine.asked == 1)
        for index in (1, 2, 3, 0, 1, 2):
            running.worker.accept(frames(index))
        assert running.counters.dropped == 2
        await running.work(5)
    ids = [frame.id for message in running.delivered for frame in message.frames]
    assert ids == ["frame-0", "frame-3", "frame-0", "frame-1", "frame-2"]


async def test_one_message_larger_than_the_queue_is_kept(stage: Make) -> None:
    async with stage(window=1) as running:
        running.worker.accept(frames(0, 1, 2, 3))
        await running.work(4)
    assert running.counters.dropped == 0


async def test_tensors_of_another_cut_are_refused_and_the_worker_goes_on(stage: Make) -> None:
    async with stage() as running:
        with pytest.raises(WireError, match="needs tensor 'index'"):
            running.worker.accept(activation({"y": np.zeros(1, np.float32)}))
        running.worker.accept(frames(1))
        await running.work(1)
    assert running.values == {"frame-1": 20}


# ---- codecs ----------------------------------------------------------------------------------------------------------


def encoded(*indices: int) -> Activation:
    """The same frames, as they come from a node that compresses."""
    (packed,) = codecs.pack(frames(*indices), "zstd", 1 << 20)
    assert isinstance(packed.tensors["index"], Encoded)
    return packed


def damaged(*indices: int) -> Activation:
    """The same, with the last byte of what was compressed cut off."""
    good = encoded(*indices)
    tensor = good.tensors["index"]
    assert isinstance(tensor, Encoded)
    return replace(good, tensors={"index": replace(tensor, data=tensor.data[:-1])})


MANY = (0, 1, 2, 3) * 8


async def test_encoded_frames_and_others_are_decoded_and_joined_into_one_inference(stage: Make) -> None:
    async with stage() as running:
        running.worker.accept(encoded(*MANY))
        running.worker.accept(frames(3))
        await running.work(len(MANY) + 1)
    assert running.engine.batches == [len(MANY) + 1]
    assert running.values == {"frame-0": 10, "frame-1": 20, "frame-2": 30, "frame-3": 40}


async def test_a_frame_that_cannot_be_run_fails_alone_though_its_message_was_encoded(stage: Make) -> None:
    async with stage() as running:
        running.worker.accept(encoded(*MANY, 9))
        await running.work(len(MANY) + 1)
    assert [frame.id for failure in running.failures for frame in failure.frames] == ["frame-9"]
    assert running.values["frame-3"] == 40


async def test_a_message_that_cannot_be_decoded_is_dropped_alone_and_counted_as_malformed(stage: Make) -> None:
    async with stage() as running:
        running.worker.accept(frames(0))
        running.worker.accept(damaged(*MANY))
        running.worker.accept(frames(1))
        await running.work(2)
        running.worker.accept(frames(2))
        await running.work(3)
    assert running.values == {"frame-0": 10, "frame-1": 20, "frame-2": 30}
    assert (running.counters.dropped, running.counters.malformed.counts) == (1, {"activation": 1})
    assert running.failures == []


async def test_what_a_stage_makes_is_encoded_in_messages_below_the_limit(stage: Make) -> None:
    async with stage(packing=Packing(codec="int8", limit_bytes=lambda: 4 * 24)) as running:
        running.worker.accept(encoded(*MANY))
        await running.work(len(MANY))
    assert [len(message.frames) for message in running.delivered] == [24, 8]
    for message in running.delivered:
        assert isinstance(message, Activation)
        back = codecs.unpack(message).tensors["y"]
        for frame, value in zip(message.frames, back, strict=True):
            assert value == 10 + 10 * int(frame.id.removeprefix("frame-"))
            assert [hop[0] for hop in frame.hops] == ["node1"]
