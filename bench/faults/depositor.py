"""The publisher of a durable pipeline, and a reader who comes late: nats-py and JSON.

A frame is published until the broker says that it is stored, and never again. Results are read from the stream that
stores them: what is on the output subject meanwhile is for who does not mind the moment at which a head dies.
"""

from __future__ import annotations

import asyncio
import contextlib

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import FetchTimeoutError

from bench.faults.checker import read_json
from bench.faults.nats_checker import NatsChecker
from bench.faults.tally import Frame

POLL_S = 0.05
ANSWER_S = 1.0
IDLE_S = 30.0
BATCH = 128


class Depositor(NatsChecker):
    """See `Checker`."""

    _next = 1
    _reading: asyncio.Task[None] | None = None

    async def _listen(self) -> None:
        await self._connection.subscribe(f"{self._inbox}.*.*", cb=self._on_stored)
        self._stored: set[tuple[str, int]] = set()
        self._reading = asyncio.create_task(self._read_for_ever(), name="chaos-results")
        self._stack.push_async_callback(self._stop_reading)

    async def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _send(self, frame: Frame) -> None:
        if (self._token, frame.number) not in self._stored:
            await super()._send(frame)

    async def _on_stored(self, message: Msg) -> None:
        """The broker's word: this frame is promised from now on."""
        _, token, number = message.subject.rsplit(".", 2)
        document = read_json(message.data)
        if document is not None and "stream" in document and "error" not in document:
            self._stored.add((token, int(number)))

    async def _read_for_ever(self) -> None:
        """By a consumer that is made anew, from where the last one came to, whenever anything goes wrong."""
        while True:
            with contextlib.suppress(NatsError, TimeoutError):
                reader = await self._consumer()
                while True:
                    await self._read(reader)
            await asyncio.sleep(POLL_S)

    async def _consumer(self) -> JetStreamContext.PullSubscription:
        settings = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._next,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=IDLE_S,
        )
        return await self._connection.jetstream(timeout=ANSWER_S).pull_subscribe(
            f"understudy.{self._pipeline}.out", stream=f"understudy_out_{self._pipeline}", config=settings
        )

    async def _read(self, reader: JetStreamContext.PullSubscription) -> None:
        try:
            messages = await reader.fetch(BATCH, timeout=ANSWER_S)
        except FetchTimeoutError:
            # None came; or the consumer is gone, of which a request that waits hears nothing.
            await reader.consumer_info()
            return
        for message in messages:
            sequence = message.metadata.sequence.stream
            if sequence >= self._next:
                self._next = sequence + 1
                self._hear_result(message.data)

    def _note_outage(self) -> None:
        """Who reads what is stored misses nothing while it is away."""
        self._away_since_s = None
