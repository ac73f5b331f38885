"""The head: takes frames from the input subject, holds each until its result is out, publishes results.

At most `window` frames are in flight, and fewer where they would wait for seconds (`stages.pace`): that is the
back-pressure. Frames above it wait in a bounded queue; when that is full a frame is answered with the error
`overloaded` at once, and never dropped silently.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import structlog

from broker.activation import Activation, Failure, FrameTag
from broker.control import BlobRef, FlowSettings
from broker.errors import WireError
from broker.headers import PUBLISHER_HEADER
from broker.jetstream import NAK
from broker.malformed import LINES_AT_ONCE, LINES_PER_S, Allowance
from broker.port import Broker, Message
from broker.wire import Tensor, plain
from stages.batch import can_join, check, join
from stages.errors import FrameError
from stages.fence import Fence
from stages.head_counters import HeadCounters
from stages.identity import identify, make_id, reply_and_ack
from stages.in_doubt import InDoubt
from stages.intake import Intake
from stages.ledger import Arrival, Held, Ledger
from stages.order import Ordering
from stages.outlet import Answer, Outlet
from stages.pace import Pace
from stages.patience import Patience
from stages.results import Provenance, ResultMaker, dead_letter_json, result_json
from stages.way import Way

log = structlog.get_logger("understudy.head")

SMALL_BYTES = 4096
"""Frames below this size are decoded on the event loop: handing them to a thread costs more."""

CHECK_LOST_S = 0.5

LETTERS_PER_S = 10.0
LETTERS_AT_ONCE = 100
"""Dead letters of one head: above that they are counted, and the next one says how many there were not."""

TRANSIENT = ("overloaded", "timeout")
"""Errors that may not come again: the frame may be published anew under its id."""

OUR_OWN = (*TRANSIENT, "failed")
"""Errors that say nothing against the frame."""

_NOT_NOW = NAK + b' {"delay": 1000000000}'

Decoded = dict[str, Tensor] | FrameError
"""A frame's tensors, or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class _Followed:
    """A way that frames were sent on, with what reads frames and makes results for its model, and how many it takes."""

    way: Way
    pace: Pace
    intake: Intake
    results: ResultMaker


class Head:
    """The head of one pipeline. `follow` says which way frames go, `on_frame` and `on_outcome` take messages, `run`
    works until it is cancelled."""

    def __init__(
        self,
        *,
        pipeline: str,
        ledger: Ledger,
        flow: FlowSettings,
        broker: Broker,
        executor: Executor,
        on_news: Callable[[], None] = lambda: None,
        fence: Fence | None = None,
        counters: HeadCounters | None = None,
    ) -> None:
        self._on_news = on_news
        self._ledger = ledger
        self._outlet = Outlet(broker, pipeline, fence=fence, stored=flow.delivery == "durable")
        self._executor = executor
        self._settings = flow
        self._order = Ordering() if flow.ordered else None
        self._followed: dict[int, _Followed] = {}
        self._now: _Followed | None = None
        self._wake = asyncio.Event()
        self._patience = Patience(flow.resend_after_s, most_doublings=flow.max_attempts - 1)
        self._answering: set[asyncio.Future[None]] = set()
        self._taken: list[Arrival] = []  # out of the queue, and not in flight yet
        self._letters = Allowance(LETTERS_PER_S, LETTERS_AT_ONCE)
        self._lines = Allowance(LINES_PER_S, LINES_AT_ONCE)
        self.counters = counters or HeadCounters()

    @property
    def in_flight(self) -> int:
        return len(self._ledger.held)

    @property
    def waiting(self) -> int:
        return len(self._ledger.waiting)

    @property
    def oldest_epoch(self) -> int:
        """The oldest epoch that a frame was sent on, or will be if it waits still; 0: there is none."""
        epochs = {frame.epoch for frame in self._ledger.held.values()}
        if self._taken or self._ledger.waiting:
            epochs.add(self._epoch)
        return min(epochs, default=0)

    @property
    def idle(self) -> bool:
        """Whether it holds nothing that is not answered."""
        return not (
            self._ledger.held or self._ledger.waiting or self._taken or self._answering or self._outlet.withheld_ids()
        )

    def held_ids(self) -> list[str]:
        """Of the frames that it has taken and whose results are not out yet."""
        arrivals = (*self._taken, *self._ledger.waiting)
        return [*self._ledger.held, *(arrival.id for arrival in arrivals), *self._outlet.withheld_ids()]

    def answered_ids(self) -> list[str]:
        """Of the frames that it has answered lately: their results may be on the way."""
        withheld = set(self._outlet.withheld_ids())
        return [frame_id for frame_id in self._ledger.recent_ids() if frame_id not in withheld]

    def doubt(self, in_doubt: InDoubt) -> None:
        """A head that was lost may have answered these: their results do not go to the output subject until
        `settle`."""
        self._outlet.in_doubt = in_doubt

    async def narrow(self, entries: Sequence[bytes]) -> None:
        """Only these of the frames in doubt (`stages.identity.entry`) are."""
        await self._outlet.narrow(entries)

    async def settle(self) -> int:
        """Nothing is in doubt any more. How many results were withheld, and go out now."""
        return await self._outlet.settle()

    async def answered_elsewhere(self, frame_id: str, result: bytes) -> None:
        """Another head has put out the result of a frame that this one may hold, too: who waits for it here is told."""
        frame = self._ledger.release(frame_id)
        self._ledger.answered(frame_id, result)
        if frame is None:
            return
        for reply in frame.replies:
            await self._outlet.answer(reply, result)
        if frame.acks:
            await self._outlet.put_again(Answer(id=frame_id, result=result, acks=frame.acks))
        if self._order is not None:
            await self._outlet.put(self._order.left(frame_id))
        self._wake.set()

    def remember(self, frame_id: str, result: bytes) -> None:
        """A frame that another head has answered: published again, it gets this result."""
        self._ledger.answered(frame_id, result)

    def forget(self) -> None:
        """It is over. The results that it remembers (megabytes) go now, and not when the garbage that its tasks leave
        is collected."""
        self._ledger.forget()

    async def follow(self, way: Way, *, drain: bool = False) -> None:
        """Frames go this way from now on. With `drain` those in flight finish on theirs; otherwise the older ways are
        over, and what is in flight is sent again."""
        before = self._now
        pace = Pace(first=way.flow.first or way.flow.window, most=way.flow.window)
        if before is not None and before.way.model == way.model:
            self._now = _Followed(way, pace, before.intake, before.results)
        else:
            self._now = _Followed(way, pace, Intake(way.spec), ResultMaker(way.spec, self._settings.top_k))
        if drain:
            in_use = {frame.epoch for frame in self._ledger.held.values()}
            self._followed = {epoch: item for epoch, item in self._followed.items() if epoch in in_use}
        else:
            self._followed = {}
        self._followed[way.epoch] = self._now
        self.counters.latency_s = 0.0
        if not drain:
            await self._send_all_again(once=True)  # nobody takes what comes of older copies
        self._wake.set()

    async def send_again(self) -> None:
        """What is in flight may be lost: a node was disconnected for a moment."""
        if self._now is not None:
            await self._send_all_again(once=False)

    async def _send_all_again(self, *, once: bool) -> None:
        """Oldest first, in batches, as if they had just arrived. `once`: one copy of each can be answered."""
        assert self._now is not None  # noqa: S101 - follow has set it
        held = [frame for frame in self._ledger.oldest() if self._same_model(frame) or await self._decode_anew(frame)]
        if not held:
            return
        log.info("frames-sent-again", frames=len(held), epoch=self._now.way.epoch)
        self._patience.restart(time.perf_counter())
        batch = self._now.way.flow.batch
        for start in range(0, len(held), batch):
            await self._send_again(held[start : start + batch], time.perf_counter(), once=once)

    def _same_model(self, frame: Held) -> bool:
        return self._now is not None and frame.model == self._now.way.model

    async def _decode_anew(self, frame: Held) -> bool:
        """For another model than the one that the frame was decoded for; False where it does not take the frame."""
        assert self._now is not None  # noqa: S101 - follow has set it
        outcome = self._now.intake.read(frame.payload)
        if isinstance(outcome, FrameError):
            await self._answer([(FrameTag(frame.id), outcome)], self._now)
            return False
        frame.tensors, frame.model = outcome, self._now.way.model
        return True

    async def on_frame(self, message: Message) -> None:
        """A message on the input subject."""
        payload = message.data
        reply, ack = reply_and_ack(message)
        try:
            identity = identify(message)
        except WireError as error:
            nameless = Arrival(
                id=secrets.token_hex(8), payload=payload, reply=reply, ack=ack, accepted_s=time.perf_counter()
            )
            await self._refuse(nameless, FrameError("bad-message", error.reason))
            return
        if identity.id is not None and await self._is_known(identity.id, reply, ack):
            return
        arrival = Arrival(
            id=make_id(identity),
            payload=payload,
            reply=reply,
            ack=ack,
            publisher=message.headers.get(PUBLISHER_HEADER, ""),
            accepted_s=time.perf_counter(),
        )
        await self._queue(arrival)
        self._wake.set()

    async def _queue(self, arrival: Arrival) -> None:
        if self._settings.delivery == "latest":
            for older in self._ledger.supersede(arrival):
                await self._supersede(older)
        elif not self._ledger.offer(arrival):
            if arrival.ack:
                await self._outlet.acknowledge(arrival.ack, _NOT_NOW)
                return
            reason = (
                f"{self.waiting} frames ({self._ledger.waiting_bytes} bytes) wait already: publish more slowly, "
                f"or keep fewer frames in flight"
            )
            await self._refuse(arrival, FrameError("overloaded", reason))

    async def _supersede(self, arrival: Arrival) -> None:
        """A newer frame has come before it was this one's turn: only who waits for its result is told."""
        self.counters.superseded += 1
        error = FrameError("superseded", "a newer frame came before it was this one's turn")
        cause = (error.code, error.reason)
        result = result_json(FrameTag(arrival.id), {}, Provenance(epoch=self._epoch), 0.0, cause)
        await self._outlet.answer(arrival.reply, result)

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
        followed = self._followed.get(outcome.epoch)
        if followed is None:
            return  # of a way that is over: its frames were sent again
        answers: Sequence[dict[str, Any] | FrameError]
        if isinstance(outcome, Failure):
            answers = [FrameError(outcome.code, outcome.reason)] * len(outcome.frames)
        else:
            check(outcome, followed.way.spec)
            answers = followed.results.answers(plain(outcome.tensors), len(outcome.frames))
        self._note_back(outcome.frames, followed)
        await self._answer(list(zip(outcome.frames, answers, strict=True)), followed)
        self._wake.set()

    def _note_back(self, tags: Sequence[FrameTag], followed: _Followed) -> None:
        now = time.perf_counter()
        self._patience.heard(now)
        for tag in tags:
            frame = self._ledger.held.get(tag.id)
            if frame is not None:
                self._patience.answered(frame, now)
                if frame.once and frame.epoch == followed.way.epoch:
                    followed.pace.answered(sent_s=frame.sent_s, now_s=now)

    def on_connection(self, up: bool) -> None:
        """The connection to the broker was lost, or is there again."""
        self._outlet.on_connection(up)

    async def run(self) -> None:
        """Feed frames into the pipeline, and send again what was lost."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._feed(), name="head-feed")
            group.create_task(self._watch(), name="head-watch")
            group.create_task(self._outlet.run(), name="head-outlet")

    async def _feed(self) -> None:
        while True:
            # Answers that wait for their turn count: an order is not restored at the cost of memory.
            busy = self.in_flight + (self._order.waiting if self._order else 0)
            free = 0 if self._now is None else self._now.pace.frames - busy
            if self._now is None or free <= 0 or not self._ledger.waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            arrivals = self._taken = self._ledger.take(min(free, self._now.way.flow.batch))
            model, decoded = self._now.way.model, await self._decode(arrivals, self._now.intake)
            frames = [
                frame
                for arrival, outcome in zip(arrivals, decoded, strict=True)
                if (frame := await self._admit(arrival, outcome, model)) is not None
            ]
            # The model may have changed meanwhile.
            self._taken = []
            await self._dispatch([f for f in frames if self._same_model(f) or await self._decode_anew(f)])
            # A full queue must not keep results and heartbeats from being handled.
            await asyncio.sleep(0)

    async def _decode(self, arrivals: Sequence[Arrival], intake: Intake) -> list[Decoded]:
        payloads = [arrival.payload for arrival in arrivals]
        if sum(map(len, payloads)) <= SMALL_BYTES * len(payloads):
            return [intake.read(payload) for payload in payloads]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: [intake.read(payload) for payload in payloads])

    async def _admit(self, arrival: Arrival, outcome: Decoded, model: BlobRef) -> Held | None:
        """Take a decoded frame into flight; None where it is refused, or known already."""
        if await self._is_known(arrival.id, arrival.reply, arrival.ack):
            return None
        if self._order is not None:
            self._order.arrived(arrival.id, arrival.publisher)
        if isinstance(outcome, FrameError):
            await self._refuse(arrival, outcome)
            return None
        frame = Held(
            id=arrival.id,
            payload=arrival.payload,
            tensors=outcome,
            model=model,
            replies=arrival.replies,
            acks=arrival.acks,
            accepted_s=arrival.accepted_s,
            sent_s=time.perf_counter(),
            epoch=self._epoch,
        )
        self._ledger.hold(frame)
        return frame

    async def _is_known(self, frame_id: str, reply: str, ack: str) -> bool:
        """Whether the frame is in flight, or was answered lately: then only who asked again hears of it."""
        frame = self._ledger.held.get(frame_id)
        if frame is not None:
            if reply and reply not in frame.replies:
                frame.replies.append(reply)
            if ack:
                frame.acks.append(ack)
            return True
        result = self._ledger.result_of(frame_id)
        if result is None:
            return False
        if ack:
            await self._outlet.put_again(Answer(id=frame_id, result=result, acks=[ack]))
        await self._outlet.answer(reply, result)
        return True

    async def _dispatch(self, frames: Sequence[Held]) -> None:
        assert self._now is not None  # noqa: S101 - _feed and follow set it first
        way = self._now.way
        group: list[Activation] = []
        for frame in frames:
            frame.epoch = way.epoch
            single = Activation(epoch=way.epoch, cut=0, frames=(FrameTag(frame.id),), tensors=frame.tensors)
            if group and not can_join(group[0], single):
                await way.send(join(group))
                group = []
            group.append(single)
        if group:
            await way.send(join(group))

    async def _send_again(self, frames: Sequence[Held], now: float, *, once: bool) -> None:
        for frame in frames:
            frame.sent_s, frame.once = now, once
        self.counters.sent_again += len(frames)
        await self._dispatch(frames)

    async def _watch(self) -> None:
        """Send again what seems lost (see `stages.patience`). After the last attempt a frame is given up, and so is one
        that was away for as long while nothing came back; but for stored ones, since what is stored was promised."""
        while True:
            await asyncio.sleep(CHECK_LOST_S)
            now = time.perf_counter()
            for frame in self._patience.lost(list(self._ledger.oldest()), now):
                if frame.attempts >= self._settings.max_attempts and not frame.acks:
                    await self._give_up(frame, f"after {frame.attempts} attempts")
                    continue
                frame.attempts += 1
                log.warning("frame-sent-again", id=frame.id, attempt=frame.attempts)
                if self._same_model(frame) or await self._decode_anew(frame):
                    await self._send_again([frame], now, once=False)
            if self._patience.expired >= self._settings.max_attempts:
                for frame in self._ledger.oldest():
                    if now - frame.sent_s >= self._patience.in_all_s and not frame.acks:
                        await self._give_up(frame, f"in {now - frame.sent_s:.0f} s, nor of any other frame")

    async def _give_up(self, frame: Held, tried: str) -> None:
        reason = f"no answer from the stages {tried}"
        await self._answer([(FrameTag(frame.id), FrameError("timeout", reason))], self._now)

    async def _answer(
        self, outcomes: Sequence[tuple[FrameTag, dict[str, Any] | FrameError]], followed: _Followed | None
    ) -> None:
        """Publish frames' results, once: a frame that is not held any more was answered already."""
        epoch_before = self.counters.answered_epoch
        answers = []
        for tag, outcome in outcomes:
            frame = self._ledger.release(tag.id)
            if frame is not None:
                answers.append(self._make_answer(frame, tag, outcome, followed))
        await self._put(answers)
        if self.counters.answered_epoch > epoch_before or (followed is not self._now and not self._ledger.held):
            self._on_news()

    async def _put(self, answers: list[Answer]) -> None:
        await self._outlet.put(answers if self._order is None else self._order.ready(answers))
        if self._order is not None:
            self._wake.set()

    def _make_answer(
        self, frame: Held, tag: FrameTag, outcome: dict[str, Any] | FrameError, followed: _Followed | None
    ) -> Answer:
        latency_s = time.perf_counter() - frame.accepted_s
        if isinstance(outcome, FrameError):
            return self._refusal(tag, frame, outcome, latency_s=latency_s)
        assert followed is not None  # noqa: S101 - it was sent on a way
        result = result_json(tag, outcome, followed.way.provenance, latency_s * 1e3, None)
        limit = self._outlet.max_payload_bytes
        if len(result) > limit:
            reason = (
                f"the result has {len(result)} bytes, the broker's limit is {limit}: raise max_payload on the broker"
            )
            too_large = FrameError("too-large", reason)
            return self._refusal(tag, frame, too_large, latency_s=latency_s)
        self.counters.count_answer(followed.way.provenance, latency_s)
        self._ledger.answered(tag.id, result)
        return Answer(id=tag.id, result=result, replies=frame.replies, acks=frame.acks)

    @property
    def _epoch(self) -> int:
        return 0 if self._now is None else self._now.way.epoch

    async def _refuse(self, arrival: Arrival, error: FrameError) -> None:
        """Answer a frame that was not taken with an error."""
        await self._put([self._refusal(FrameTag(arrival.id), arrival, error, latency_s=0.0)])

    def _refusal(self, tag: FrameTag, frame: Arrival | Held, error: FrameError, *, latency_s: float) -> Answer:
        if (withheld := self._lines.take()) is not None:
            log.warning("frame-refused", id=tag.id, code=error.code, reason=error.reason, withheld=withheld)
        if error.code not in OUR_OWN:
            self.counters.malformed.counts["frame"] += 1
        cause = (error.code, error.reason)
        result = result_json(tag, {}, Provenance(epoch=self._epoch), latency_s * 1e3, cause)
        self.counters.failed += 1
        if error.code not in TRANSIENT:
            self._ledger.answered(tag.id, result)
        withheld = self._letters.take()
        letter = (
            b"" if withheld is None else dead_letter_json(tag.id, frame.payload, error.code, error.reason, withheld)
        )
        return Answer(id=tag.id, result=result, replies=frame.replies, acks=frame.acks, dead_letter=letter)
