"""A stream of frames at a fixed rate, and a stranger who counts what comes out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import understudy
from bench.harness import percentile
from bench.recovery.figures import Answer
from broker import subjects
from broker.connect import connect
from broker.errors import UnderstudyError
from broker.port import Message
from understudy.client import Client, FrameRejectedError, FrameTimeoutError

TIMEOUT_S = 30.0
MAX_PENDING = 20_000
"""More frames without an answer end the run: something is wrong, and memory is finite."""

Condition = Callable[[Answer], bool]


class StreamError(UnderstudyError):
    """What was waited for did not come."""


class Stream:
    """`async with` publishes frames in turn, at even intervals whatever comes back (an open loop), until it is left;
    then all that is under way is waited for. Moments are of `time.perf_counter`."""

    def __init__(self, url: str, pipeline: str, frames: Sequence[bytes], *, rate_per_s: float) -> None:
        self._url, self._pipeline, self._frames, self._rate = url, pipeline, frames, rate_per_s
        # The head answers a frame whose id it has answered before without running it: ids of our own for each stream.
        self._prefix = f"bench-{secrets.token_hex(4)}-"
        self._client: Client | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: list[tuple[Condition, asyncio.Future[Answer]]] = []
        self._stack = contextlib.AsyncExitStack()
        self._publishing: asyncio.Task[None] | None = None
        self.answers: list[Answer] = []
        self.seen: Counter[int] = Counter()
        self.results: dict[int, list[str]] = {}
        self.late_s: list[float] = []

    async def __aenter__(self) -> Self:
        stack = self._stack
        try:
            stranger = await connect(self._url, name="bench-stranger")
            stack.push_async_callback(stranger.close)
            await stranger.subscribe(subjects.results_out(self._pipeline), self._on_result)
            self._client = await stack.enter_async_context(
                understudy.connect(self._url, self._pipeline, timeout_s=TIMEOUT_S)
            )
        except BaseException:
            await stack.aclose()
            raise
        self._publishing = asyncio.create_task(self._publish(), name="bench-stream")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._publishing is not None
        self._publishing.cancel()
        await asyncio.wait([self._publishing])
        if kind is not None:
            for task in self._tasks:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        # A second result of the last frame would come right behind the first.
        await asyncio.sleep(0.1)
        await self._stack.aclose()
        if not self._publishing.cancelled() and (failure := self._publishing.exception()) is not None and kind is None:
            raise failure

    @property
    def epoch(self) -> int:
        """The newest that an answer had; 0: none yet."""
        return max((answer.epoch for answer in self.answers[-500:]), default=0)

    @property
    def late_ms(self) -> float:
        """The 99th percentile of how late frames were published: what this process waited for a core."""
        return percentile(self.late_s, 0.99) * 1e3

    async def wait(self, condition: Condition, *, timeout_s: float, since: int | None = None) -> Answer:
        """The first answer that fulfils the condition, among those that come from now on (or from `answers[since]` on).

        Raises:
            StreamError: none does in time.
        """
        for answer in self.answers[since:] if since is not None else ():
            if condition(answer):
                return answer
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        entry = condition, future
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise StreamError(f"no such answer within {timeout_s:g} s; the newest: {self.answers[-1:]}") from None
        finally:
            self._waiting = [other for other in self._waiting if other is not entry]

    async def newer(self, epoch: int, *, timeout_s: float, since: int | None = None) -> Answer:
        """The first answer of a newer epoch than this one."""
        return await self.wait(lambda answer: answer.epoch > epoch, timeout_s=timeout_s, since=since)

    async def run_for(self, seconds: float) -> None:
        """Go on for so long: until an answer comes that was asked for after that time."""
        end_s = time.perf_counter() + seconds
        await self.wait(lambda answer: answer.sent_s >= end_s, timeout_s=seconds + TIMEOUT_S)

    async def _publish(self) -> None:
        started_s, number = time.perf_counter(), 0
        while True:
            due_s = started_s + number / self._rate
            if (pause_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(pause_s)
            if len(self._tasks) > MAX_PENDING:
                raise StreamError(f"{MAX_PENDING} frames are without an answer")
            self.late_s.append(time.perf_counter() - due_s)
            task = asyncio.create_task(self._ask(number), name=f"bench-frame-{number}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            number += 1

    async def _ask(self, number: int) -> None:
        assert self._client is not None
        image = number % len(self._frames)
        sent_s = time.perf_counter()
        try:
            result = await self._client.infer(self._frames[image], frame_id=f"{self._prefix}{number}")
        except FrameRejectedError as error:
            code = error.result.error.code if error.result.error is not None else "rejected"
            self._keep(Answer(number=number, image=image, sent_s=sent_s, done_s=time.perf_counter(), error=code))
            return
        except (FrameTimeoutError, UnderstudyError) as error:
            reason = f"{type(error).__name__}: {error}"
            self._keep(Answer(number=number, image=image, sent_s=sent_s, done_s=time.perf_counter(), error=reason))
            return
        self._keep(
            Answer(
                number=number,
                image=image,
                sent_s=sent_s,
                done_s=time.perf_counter(),
                epoch=result.epoch,
                technique=result.technique,
                class_index=result.class_index,
                expected_accuracy=result.expected_accuracy,
                hops=tuple((hop.node, hop.cut) for hop in result.path),
            )
        )

    def _keep(self, answer: Answer) -> None:
        self.answers.append(answer)
        for condition, future in self._waiting:
            if not future.done() and condition(answer):
                future.set_result(answer)

    async def _on_result(self, message: Message) -> None:
        document = json.loads(bytes(message.data))
        name = document["id"]
        if not name.startswith(self._prefix):
            return
        number = int(name.removeprefix(self._prefix))
        self.seen[number] += 1
        path = "-".join(hop["node"] for hop in document["path"])
        said = f"epoch {document['epoch']} {document['technique']} by {path} at {time.time():.3f}"
        self.results.setdefault(number, []).append(said)
