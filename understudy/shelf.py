"""The stored results of a pipeline whose delivery is durable: for who was not there when they were put out."""

from __future__ import annotations

from collections.abc import AsyncIterator

from broker import subjects
from broker.jetstream import JetStream
from broker.port import Broker
from understudy.result import Result, ResultError, parse_result


class ResultShelf:
    """Made by `open`. Each result comes once."""

    def __init__(self, streams: JetStream, pipeline: str, next_sequence: int) -> None:
        self._streams = streams
        self._pipeline = pipeline
        self._next = next_sequence

    @classmethod
    async def open(cls, broker: Broker, pipeline: str, *, from_start: bool = False) -> ResultShelf:
        """Begin with what is stored from now on, or with the oldest that there is.

        Raises:
            NoJetStreamError, BrokerError: see `broker.jetstream.JetStream`.
        """
        streams = JetStream(broker)
        state = await streams.stream_state(subjects.result_stream(pipeline))
        return cls(streams, pipeline, 1 if from_start or state is None else state["last_seq"] + 1)

    async def new_results(self) -> AsyncIterator[Result]:
        """Those that were stored since the last call."""
        stream, subject = subjects.result_stream(self._pipeline), subjects.results_out(self._pipeline)
        while (found := await self._streams.next_message(stream, subject, self._next)) is not None:
            sequence, data = found
            self._next = sequence + 1
            try:
                yield parse_result(data)
            except ResultError:
                continue  # somebody else has published it
