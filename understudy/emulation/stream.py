"""A client that streams frames and judges every answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Callable, Sequence

from broker import subjects
from broker.port import Broker, Message
from understudy.client import Client, FrameRejectedError, FrameTimeoutError
from understudy.emulation.disturbance import Answer
from understudy.emulation.report import Outcome
from understudy.emulation.samples import Sample

TOLD = 5
"""Frames that were answered twice of which a note tells more."""

SETTLE_S = 1.0
"""How long after the last answer a second one is waited for."""


class Stream:
    """`run` publishes until it is told to end; every frame is then answered, or given up by the client library.
    At most `window` frames are under way."""

    def __init__(
        self,
        client: Client,
        samples: Sequence[Sample],
        outcome: Outcome,
        *,
        rate_per_s: float,
        window: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._samples, self._outcome = client, samples, outcome
        self._rate_per_s = rate_per_s
        self._room = asyncio.Semaphore(window)
        self._clock, self._began_s = clock, clock()
        self._token = f"emulate-{secrets.token_hex(4)}"
        self._heard: dict[str, list[str]] = {}
        self._progress = asyncio.Event()

    @property
    def now_s(self) -> float:
        """Since the stream began."""
        return self._clock() - self._began_s

    async def listen(self, broker: Broker, pipeline: str) -> None:
        """Count the answers on the output subject: one each is right."""
        await broker.subscribe(subjects.results_out(pipeline), self._on_out)

    async def published_at_least(self, frames: int) -> None:
        """Wait until so many frames are published."""
        while self._outcome.published < frames:
            self._progress.clear()
            await self._progress.wait()

    async def run(self, is_over: Callable[[], bool]) -> None:
        self._began_s = self._clock()
        self._outcome.began_at = time.time()
        due_s = 0.0
        async with asyncio.TaskGroup() as group:
            while not is_over():
                await self._room.acquire()
                if self._rate_per_s:
                    # Late frames are not caught up with in a burst.
                    due_s = max(due_s + 1 / self._rate_per_s, self.now_s - 0.1)
                    await asyncio.sleep(max(0.0, due_s - self.now_s))
                number = self._outcome.published
                self._outcome.published += 1
                self._progress.set()
                group.create_task(self._publish(number), name=f"frame-{number}")
        self._outcome.elapsed_s = self.now_s
        await asyncio.sleep(SETTLE_S)
        doubled = {own: said for own, said in self._heard.items() if len(said) > 1}
        self._outcome.twice = len(doubled)
        for own, said in list(doubled.items())[:TOLD]:
            self._outcome.notes.append(f"frame {own.rpartition('-')[2]} was answered twice: {'; '.join(said)}")

    async def _publish(self, number: int) -> None:
        sample = self._samples[number % len(self._samples)]
        sent_s = self.now_s
        try:
            result = await self._client.infer(sample.content, frame_id=f"{self._token}-{number}")
        except FrameRejectedError as error:
            code = error.result.error.code if error.result.error else "?"
            self._outcome.errors[code] += 1
        except FrameTimeoutError:
            return  # it counts as lost
        else:
            answer = Answer(
                sent_s=sent_s,
                at_s=self.now_s,
                technique=result.technique,
                right=sample.is_right(result),
                correct=None if sample.label is None else result.class_index == sample.label,
                epoch=result.epoch,
            )
            self._outcome.answers.append(answer)
        finally:
            self._room.release()

    async def _on_out(self, message: Message) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            document = json.loads(bytes(message.data))
            own = document["id"]
            if own.startswith(self._token):
                said = f"at {self.now_s:.2f} s by epoch {document['epoch']}, {document['technique']}"
                self._heard.setdefault(own, []).append(said)
