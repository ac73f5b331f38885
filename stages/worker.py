"""A stage worker: takes activations of cut i, runs blocks [i, j) off the event loop, hands on those of cut j.

What came encoded is decoded right before the inference, what goes out is encoded right after it, in the same thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

import structlog

from broker.activation import Activation, Failure, FrameTag
from broker.codecs import Codec
from broker.errors import WireError
from broker.malformed import Malformed
from broker.wire import plain
from stages import codec as codecs
from stages.batch import can_join, check, join, parts_below
from stages.engine import Engine
from stages.errors import FrameError
from stages.flow import Flow
from stages.spec import PipelineSpec

log = structlog.get_logger("understudy.worker")

Deliver = Callable[[Activation | Failure], Awaitable[None]]
"""Sends what a stage made to where the route says. Does not raise: what is lost is sent again by the head."""


@dataclass(slots=True)
class WorkerCounters:
    """Of one node, over all its stages since the start."""

    frames: int = 0
    dropped: int = 0
    busy_s: float = 0.0
    malformed: Malformed = field(default_factory=Malformed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How a stage's activations are encoded: each of the messages stands for at most `limit_bytes()`, unless one frame
    has more."""

    codec: Codec
    limit_bytes: Callable[[], int]


@dataclass(slots=True)
class _Waiting:
    activation: Activation
    since_s: float


class StageWorker:
    """Runs one stage of one epoch. `accept` puts an activation in the queue, `run` works until it is cancelled.

    The queue holds at most as many frames as may be in flight in the whole pipeline, twice (a frame may be sent again).
    When it is full the oldest message is dropped and counted: the head still holds its frames.

    All that waits when the engine becomes free is joined into one inference, up to `flow.batch` frames; it never waits
    for a frame that has not arrived.
    """

    def __init__(
        self,
        *,
        node: str,
        first_block: int,
        end_block: int,
        spec: PipelineSpec,
        flow: Flow,
        engine: Engine,
        executor: Executor,
        deliver: Deliver,
        counters: WorkerCounters,
        packing: Packing | None = None,
    ) -> None:
        """`packing`: None: nothing is encoded."""
        self.first_block = first_block
        self.end_block = end_block
        self._node = node
        self._spec = spec
        self._flow = flow
        self._engine = engine
        self._executor = executor
        self._deliver = deliver
        self._counters = counters
        self._packing = packing
        self._queue: deque[_Waiting] = deque()
        self._queued_frames = 0
        self._wake = asyncio.Event()

    def accept(self, activation: Activation) -> None:
        """Queue an activation of the stage's cut.

        Raises:
            WireError: its tensors are not those of the cut.
        """
        check(activation, self._spec)
        self._queue.append(_Waiting(activation, time.perf_counter()))
        self._queued_frames += len(activation.frames)
        while self._queued_frames > 2 * self._flow.window and len(self._queue) > 1:
            dropped = self._queue.popleft().activation
            self._queued_frames -= len(dropped.frames)
            self._counters.dropped += 1
            log.warning("activation-dropped", cut=dropped.cut, frames=len(dropped.frames), reason="queue full")
        self._wake.set()

    async def run(self) -> None:
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            await self._process(self._take())

    def _take(self) -> list[_Waiting]:
        taken = [self._queue.popleft()]
        frames = len(taken[0].activation.frames)
        while self._queue and self._spec.dynamic_batch:
            activation = self._queue[0].activation
            frames += len(activation.frames)
            if frames > self._flow.batch or not can_join(taken[0].activation, activation):
                break
            taken.append(self._queue.popleft())
        self._queued_frames -= sum(len(waiting.activation.frames) for waiting in taken)
        return taken

    async def _process(self, taken: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        try:
            made = await loop.run_in_executor(self._executor, self._work, taken)
        except FrameError as error:
            await self._retry_or_fail(taken, error)
            return
        except WireError as error:
            await self._retry_or_drop(taken, error)
            return
        tags = self._tags(taken)
        self._counters.frames += len(tags)
        for part in made:
            count = len(part.frames)
            await self._deliver(replace(part, frames=tags[:count]))
            tags = tags[count:]

    async def _retry_or_drop(self, taken: list[_Waiting], error: WireError) -> None:
        """A message that cannot be decoded is dropped alone: the head still holds its frames."""
        if len(taken) > 1:
            for waiting in taken:
                await self._process([waiting])
            return
        self._counters.dropped += 1
        self._counters.malformed.note("activation", error.reason, size_bytes=taken[0].activation.size_bytes)

    async def _retry_or_fail(self, taken: list[_Waiting], error: FrameError) -> None:
        """Frames that were run together are tried one by one: the good ones must not suffer from a bad one."""
        singles = [_Waiting(part, waiting.since_s) for waiting in taken for part in parts_below(waiting.activation, 0)]
        if len(singles) > 1:
            for single in singles:
                await self._process([single])
            return
        log.warning("stage-failed", cut=self.first_block, frames=len(taken[0].activation.frames), reason=error.reason)
        reason = f"stage [{self.first_block}, {self.end_block}) on {self._node}: {error.reason}"
        epoch = taken[0].activation.epoch
        failure = Failure(epoch=epoch, cut=self._spec.blocks, frames=self._tags(taken), code=error.code, reason=reason)
        await self._deliver(failure)

    def _work(self, taken: list[_Waiting]) -> list[Activation]:
        """In the worker thread. What was decoded stays so, for another attempt."""
        for waiting in taken:
            waiting.activation = codecs.unpack(waiting.activation)
        made = self._infer([waiting.activation for waiting in taken])
        if self._packing is None:
            return [made]
        return codecs.pack(made, self._packing.codec, self._packing.limit_bytes())

    def _infer(self, activations: list[Activation]) -> Activation:
        started = time.perf_counter()
        joined = join(activations)
        tensors = self._engine.run(plain(joined.tensors))
        self._counters.busy_s += time.perf_counter() - started
        return Activation(epoch=joined.epoch, cut=self.end_block, frames=joined.frames, tensors=tensors)

    def _tags(self, taken: list[_Waiting]) -> tuple[FrameTag, ...]:
        now, at = time.perf_counter(), round(time.time(), 6)
        return tuple(
            FrameTag(frame.id, (*frame.hops, (self._node, self.first_block, at, ms)))
            for waiting in taken
            for ms in (round((now - waiting.since_s) * 1e3, 3),)
            for frame in waiting.activation.frames
        )
