"""The publisher of a durable pipeline, and a reader who comes late: nats-py and JSON.

A frame is published until the broker says that it is stored, and never again. Results are read from the stream that
stores them: what is on the output subject meanwhile is for who does not mind the moment at which a head dies.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from bench.faults.checker import Checker, read_json
from bench.faults.tally import Frame

POLL_S = 0.01
ANSWER_S = 1.0


class Depositor(Checker):
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
        while True:
            found = await self._read(self._next)
            if found is None:
                await asyncio.sleep(POLL_S)
                continue
            sequence, data = found
            self._next = sequence + 1
            self._hear_result(data)

    async def _read(self, sequence: int) -> tuple[int, bytes] | None:
        """The first stored result from this sequence number on."""
        subject = f"$JS.API.STREAM.MSG.GET.understudy_out_{self._pipeline}"
        request = {"seq": sequence, "next_by_subj": f"understudy.{self._pipeline}.out"}
        with contextlib.suppress(NatsError, TimeoutError, ValueError, KeyError):
            answer = await self._connection.request(subject, json.dumps(request).encode(), timeout=ANSWER_S)
            message: dict[str, Any] = json.loads(answer.data)["message"]
            return int(message["seq"]), base64.b64decode(message["data"])
        return None

    def _note_outage(self) -> None:
        """Who reads what is stored misses nothing while it is away."""
        self._away_since_s = None
