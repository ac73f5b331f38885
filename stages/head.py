"""The head: takes frames from the input subject, holds each until its result is out, publishes results.

At most `window` frames are in flight: that is the back-pressure. Frames above it wait in a bounded queue; when that is
full a frame is answered with the error `overloaded` at once, and never dropped silently.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import structlog

from broker import subjects
from broker.activation import Activation, Failure, FrameTag, check_id
from broker.errors import BrokerError, WireError
from broker.port import Broker, Buffer, Message
from broker.wire import Tensor
from stages.batch import can_join, check, join
from stages.errors import FrameError
from stages.flow import Flow
from stages.intake import Intake
from stages.ledger import Arrival, Held, Ledger
from stages.results import Provenance, ResultMaker, dead_letter_json, result_json
from stages.spec import PipelineSpec

log = structlog.get_logger("understudy.head")

SMALL_BYTES = 4096
"""Frames below this size are decoded on the event loop: handing them to a thread costs more."""

CHECK_LOST_S = 0.5

TRANSIENT = ("overloaded", "timeout")
"""Errors that may not come again: the frame may be published anew under its id."""

Send = Callable[[Activation], Awaitable[None]]
"""Sends an activation of cut 0 to the first stage."""


class Head:
    """The head of one pipeline. `on_frame` and `on_outcome` take messages, `run` works until it is cancelled."""

    def __init__(
        self,
        *,
        pipeline: str,
        spec: PipelineSpec,
        ledger: Ledger,
        top_k: int,
        resend_after_s: float,
        max_attempts: int,
        broker: Broker,
        executor: Executor,
    ) -> None:
        self._pipeline = pipeline
        self._spec = spec
        self._ledger = ledger
        self._broker = broker
        self._executor = executor
        self._intake = Intake(spec)
        self._results = ResultMaker(spec, top_k)
        self._resend_after_s = resend_after_s
        self._max_attempts = max_attempts
        self._flow = Flow(window=1, batch=1)
        self._epoch = 0
        self._send: Send | None = None
        self._wake = asyncio.Event()
        self._progress_s = time.perf_counter()
        self._newest_back_s = 0.0  # when the newest frame that is back was sent
        self._answering: set[asyncio.Future[None]] = set()
        self.frames_answered = 0
        self.frames_failed = 0

    @property
    def in_flight(self) -> int:
        return len(self._ledger.held)

    @property
    def waiting(self) -> int:
        return len(self._ledger.waiting)

    async def follow(self, epoch: int, flow: Flow, send: Send) -> None:
        """Frames go by this route from now on; what is in flight is sent again on it."""
        self._epoch, self._flow, self._send = epoch, flow, send
        held = list(self._ledger.oldest())
        if held:
            log.info("frames-sent-again", frames=len(held), epoch=epoch)
        for frame in held:
            await self._send_again(frame)
        self._wake.set()

    async def on_frame(self, message: Message) -> None:
        """A message on the input subject."""
        frame_id = message.headers.get("Nats-Msg-Id")
        payload = message.data
        if frame_id is not None and await self._is_known(frame_id, message.reply):
            return
        try:
            arrival = Arrival(
                id=None if frame_id is None else check_id(frame_id),
                payload=payload,
                reply=message.reply,
                accepted_s=time.perf_counter(),
            )
        except WireError as error:
            await self._refuse(_new_id(), payload, [message.reply], FrameError("bad-message", error.reason))
            return
        if not self._ledger.offer(arrival):
            reason = (
                f"{self.waiting} frames ({self._ledger.waiting_bytes} bytes) wait already: publish more slowly, "
                f"or keep fewer frames in flight"
            )
            await self._refuse(frame_id or _new_id(), payload, [message.reply], FrameError("overloaded", reason))
            return
        self._wake.set()

    async def on_outcome(self, outcome: Activation | Failure) -> None:
        """What came of frames: the activation of cut B, or a failure of a stage.

        A stage on this node that is stopped in the middle of this, by a switch of epochs, must not take the answers
        with it: they are published all the same.
        """
        task = asyncio.ensure_future(self._answer_all(outcome))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        await asyncio.shield(task)

    async def _answer_all(self, outcome: Activation | Failure) -> None:
        if isinstance(outcome, Failure):
            for tag in outcome.frames:
                await self._answer(tag, FrameError(outcome.code, outcome.reason), outcome.epoch)
        else:
            check(outcome, self._spec)
            answers = self._results.answers(outcome.tensors, len(outcome.frames))
            for tag, answer in zip(outcome.frames, answers, strict=True):
                await self._answer(tag, answer, outcome.epoch)
        self._progress_s = time.perf_counter()
        self._wake.set()

    async def run(self) -> None:
        """Feed frames into the pipeline, and send again what was lost."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._feed(), name="head-feed")
            group.create_task(self._watch(), name="head-watch")

    async def _feed(self) -> None:
        while True:
            free = self._flow.window - self.in_flight
            if self._send is None or free <= 0 or not self._ledger.waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            arrivals = self._ledger.take(min(free, self._flow.batch))
            decoded = await self._decode(arrivals)
            frames = [
                frame
                for arrival, outcome in zip(arrivals, decoded, strict=True)
                if (frame := await self._admit(arrival, outcome)) is not None
            ]
            await self._dispatch(frames)
            # A full queue must not keep results and heartbeats from being handled.
            await asyncio.sleep(0)

    async def _decode(self, arrivals: Sequence[Arrival]) -> list[tuple[str | None, dict[str, Tensor]] | FrameError]:
        payloads = [arrival.payload for arrival in arrivals]
        if sum(map(len, payloads)) <= SMALL_BYTES * len(payloads):
            return [self._intake.read(payload) for payload in payloads]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: [self._intake.read(payload) for payload in payloads])

    async def _admit(self, arrival: Arrival, outcome: tuple[str | None, dict[str, Tensor]] | FrameError) -> Held | None:
        """Take a decoded frame into flight; None where it is refused, or known already."""
        own_id, tensors = (None, {}) if isinstance(outcome, FrameError) else outcome
        frame_id = arrival.id or own_id or _new_id()
        if await self._is_known(frame_id, arrival.reply):
            return None
        if isinstance(outcome, FrameError):
            await self._refuse(frame_id, arrival.payload, [arrival.reply], outcome)
            return None
        frame = Held(
            id=frame_id,
            payload=arrival.payload,
            tensors=tensors,
            replies=[arrival.reply],
            accepted_s=arrival.accepted_s,
            sent_s=time.perf_counter(),
        )
        self._ledger.hold(frame)
        return frame

    async def _is_known(self, frame_id: str, reply: str) -> bool:
        """Whether the frame is in flight, or was answered lately: then only who asked again hears of it."""
        frame = self._ledger.held.get(frame_id)
        if frame is not None:
            if reply and reply not in frame.replies:
                frame.replies.append(reply)
            return True
        result = self._ledger.result_of(frame_id)
        if result is not None:
            await self._publish(reply, result)
        return result is not None

    async def _dispatch(self, frames: Sequence[Held]) -> None:
        send = self._send
        assert send is not None  # noqa: S101 - _feed and follow set it first
        group: list[Activation] = []
        for frame in frames:
            single = self._activation(frame)
            if group and not can_join(group[0], single):
                await send(join(group))
                group = []
            group.append(single)
        if group:
            await send(join(group))

    def _activation(self, frame: Held) -> Activation:
        return Activation(epoch=self._epoch, cut=0, frames=(FrameTag(frame.id),), tensors=frame.tensors)

    async def _send_again(self, frame: Held) -> None:
        frame.sent_s = time.perf_counter()
        await self._dispatch([frame])

    async def _watch(self) -> None:
        """Send again what seems lost. A frame that has been away for long is lost if nothing at all comes back, or if
        one that was sent later is back (a pipeline answers in order). The patience doubles with every attempt."""
        while True:
            await asyncio.sleep(CHECK_LOST_S)
            now = time.perf_counter()
            for frame in self._ledger.oldest():
                patience = self._resend_after_s * 2 ** (frame.attempts - 1)
                overtaken = frame.sent_s < self._newest_back_s
                stalled = now - self._progress_s > patience
                if now - frame.sent_s < patience or not (overtaken or stalled):
                    continue
                if frame.attempts >= self._max_attempts:
                    reason = f"no answer from the stages after {frame.attempts} attempts"
                    await self._answer(FrameTag(frame.id), FrameError("timeout", reason), self._epoch)
                    continue
                frame.attempts += 1
                log.warning("frame-sent-again", id=frame.id, attempt=frame.attempts)
                await self._send_again(frame)

    async def _answer(self, tag: FrameTag, answer: dict[str, Any] | FrameError, epoch: int) -> None:
        """Publish a frame's result, once: a frame that is not held any more was answered already."""
        frame = self._ledger.release(tag.id)
        if frame is None:
            return
        self._newest_back_s = max(self._newest_back_s, frame.sent_s)
        if isinstance(answer, FrameError):
            await self._refuse(tag.id, frame.payload, frame.replies, answer, tag=tag, accepted_s=frame.accepted_s)
            return
        provenance = Provenance(expected_accuracy=self._results.expected_accuracy, epoch=epoch)
        latency_ms = (time.perf_counter() - frame.accepted_s) * 1e3
        result = result_json(tag, answer, provenance, latency_ms, None)
        limit = self._broker.max_payload_bytes
        if len(result) > limit:
            reason = (
                f"the result has {len(result)} bytes, the broker's limit is {limit}: raise max_payload on the broker"
            )
            too_large = FrameError("too-large", reason)
            await self._refuse(tag.id, frame.payload, frame.replies, too_large, tag=tag, accepted_s=frame.accepted_s)
            return
        self.frames_answered += 1
        await self._put_out(tag.id, result, frame.replies)

    async def _refuse(
        self,
        frame_id: str,
        payload: Buffer,
        replies: Sequence[str],
        error: FrameError,
        *,
        tag: FrameTag | None = None,
        accepted_s: float | None = None,
    ) -> None:
        """Answer a frame with an error, and publish its dead letter."""
        log.warning("frame-refused", id=frame_id, code=error.code, reason=error.reason)
        latency_ms = 0.0 if accepted_s is None else (time.perf_counter() - accepted_s) * 1e3
        cause = (error.code, error.reason)
        result = result_json(tag or FrameTag(frame_id), {}, Provenance(epoch=self._epoch), latency_ms, cause)
        self.frames_failed += 1
        await self._put_out(frame_id, result, replies, remember=error.code not in TRANSIENT)
        letter = dead_letter_json(frame_id, payload, error.code, error.reason)
        await self._publish(subjects.dead_letters(self._pipeline), letter)

    async def _put_out(self, frame_id: str, result: bytes, replies: Sequence[str], *, remember: bool = True) -> None:
        if remember:
            self._ledger.answered(frame_id, result)
        await self._publish(subjects.results_out(self._pipeline), result)
        for reply in replies:
            await self._publish(reply, result)

    async def _publish(self, subject: str, data: bytes) -> None:
        if not subject:
            return
        try:
            await self._broker.publish(subject, data)
        except BrokerError as error:
            log.error("publish-failed", subject=subject, reason=str(error))


def _new_id() -> str:
    return secrets.token_hex(8)
