"""One measurement of the way from this node to another, over the broker: chunks out, acknowledgements back.

Four steps, each with little on the way, so that no queue is mistaken for a link and a running pipeline loses bandwidth
alone:

1. Empty chunks, one at a time: their round trips are the overhead of a message, there and back.
2. Chunks of doubling size, one at a time, until one takes `CHUNK_S` or has `MAX_CHUNK_BYTES`: the size that is used.
3. The stream: chunks one behind the other, for the time that was ordered. The bytes on the way are bounded: the bound
   grows while a round trip takes less than `QUEUE_S` more than an empty one. The rate is that of the arrivals.
4. A few larger chunks one at a time again: what a message takes that is alone on its way. Larger, because a shaped link
   lets a burst through after a rest.

Clocks of two machines differ, so only differences within one clock are used: arrivals by the receiver's, round trips by
the sender's.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from broker import control, subjects, wire
from broker.control import ProbeAck
from broker.errors import UnderstudyError, WireError
from broker.port import Broker, Buffer, Message

EMPTY_CHUNKS = 10
ALONE_CHUNKS = 3
MIN_STREAM_CHUNKS = 8
MIN_CHUNK_BYTES = 2 << 10
MAX_CHUNK_BYTES = 256 << 10
MAX_ALONE_BYTES = 512 << 10
MAX_IN_FLIGHT_BYTES = 4 << 20
MAX_STREAM_BYTES = 1 << 30
CHUNK_S = 0.02
QUEUE_S = 0.05
WARM_UP = 0.25
"""Part of the stream at whose start the link is not busy yet: not counted."""

ANSWER_S = 2.0
GIVE_UP_S = 10.0
"""A measurement ends after that and the time that was ordered, whatever happens."""

_FILL = np.frombuffer(secrets.token_bytes(MAX_ALONE_BYTES), np.uint8)  # compression on the way would find nothing


class MeasurementError(UnderstudyError):
    """The way could not be measured; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """A chunk that was acknowledged: out and back by the sender's clock, its arrival by the receiver's."""

    size_bytes: int
    sent_s: float
    acked_s: float
    arrived_s: float

    @property
    def seconds(self) -> float:
        return self.acked_s - self.sent_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """See `broker.control.ProbeResult`."""

    bytes_per_s: float
    alone_bytes_per_s: float
    overhead_s: float
    size_bytes: int


def rate(trips: Sequence[Trip], *, warm_up: float = WARM_UP) -> float:
    """Bytes per second of a stream, from arrival times alone. The first chunk only starts the clock; neither do those
    count that arrived in the first part, `warm_up`, of the time.

    Raises:
        MeasurementError: too few chunks arrived, or all at once.
    """
    arrived = sorted(trips, key=lambda trip: trip.arrived_s)
    if len(arrived) < 2 or arrived[-1].arrived_s <= arrived[0].arrived_s:
        raise MeasurementError(f"{len(arrived)} chunks arrived: too few to tell a rate")
    first, last = arrived[0].arrived_s, arrived[-1].arrived_s
    settled_s = first + warm_up * (last - first)
    start = next(index for index, trip in enumerate(arrived) if trip.arrived_s >= settled_s)
    start = min(start, len(arrived) - 2) if arrived[-2].arrived_s < last else 0
    return sum(trip.size_bytes for trip in arrived[start + 1 :]) / (last - arrived[start].arrived_s)


def estimate(empty: Sequence[Trip], stream: Sequence[Trip], alone: Sequence[Trip], size_bytes: int) -> Estimate:
    """What the trips say. `alone` are of one size.

    Raises:
        MeasurementError: as for `rate`.
    """
    bytes_per_s = rate(stream)
    there_and_back_s = statistics.median(trip.seconds for trip in empty)
    beyond_s = statistics.median(trip.seconds for trip in alone) - there_and_back_s
    # A message alone is not faster than a stream of them: what says so is noise.
    alone_bytes_per_s = min(bytes_per_s, alone[0].size_bytes / beyond_s) if beyond_s > 0 else bytes_per_s
    return Estimate(
        bytes_per_s=bytes_per_s,
        alone_bytes_per_s=alone_bytes_per_s,
        overhead_s=there_and_back_s / 2,
        size_bytes=size_bytes,
    )


def write_chunk(probe: str, sequence: int, size_bytes: int) -> list[Buffer]:
    return wire.pack({"kind": "probe", "probe": probe, "sequence": sequence}, {"fill": _FILL[:size_bytes]})


def read_chunk(data: Buffer) -> tuple[str, int]:
    """Its measurement and its number.

    Raises:
        WireError: not a valid chunk.
    """
    header, _ = wire.unpack(data)
    probe, sequence = header.get("probe"), header.get("sequence")
    if header.get("kind") != "probe" or not isinstance(probe, str) or len(probe) > 64:
        raise WireError("not a chunk of a measurement")
    if type(sequence) is not int or not 0 <= sequence < 1 << 53:
        raise WireError("'sequence' must be an integer >= 0")
    return probe, sequence


class Measurement:
    """Use `run`, once."""

    def __init__(
        self, broker: Broker, to: str, *, seconds: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._broker = broker
        self._to = to
        self._seconds = seconds
        self._clock = clock
        self._id = secrets.token_hex(8)
        self._inbox = broker.new_inbox()
        self._largest = min(MAX_CHUNK_BYTES, broker.max_payload_bytes // 2)
        self._sequence = 0
        self._on_the_way: dict[int, tuple[int, float]] = {}
        self._in_flight_bytes = 0
        self._bound_bytes = 0
        self._grow_below_s = 0.0
        self._trips: list[Trip] = []
        self._nobody = False
        self._news = asyncio.Event()
        self._sent_bytes = 0
        self.malformed = 0

    async def run(self) -> Estimate:
        """Measure.

        Raises:
            MeasurementError: the other node does not answer, or too little arrived.
            BrokerError: the broker does not take the messages.
        """
        acknowledged = await self._broker.subscribe(self._inbox, self._on_ack)
        try:
            async with asyncio.timeout(GIVE_UP_S + self._seconds):
                empty = [await self._one(0) for _ in range(EMPTY_CHUNKS)]
                base_s = min(trip.seconds for trip in empty)
                size, guess = await self._find_size(base_s)
                stream = await self._stream(size, guess, base_s)
                size = min(4 * size, MAX_ALONE_BYTES, self._broker.max_payload_bytes // 2)
                alone = [await self._one(size) for _ in range(ALONE_CHUNKS)]
        except TimeoutError:
            raise MeasurementError(f"node '{self._to}' is too slow, or does not answer") from None
        finally:
            await acknowledged.unsubscribe()
        return estimate(empty, stream, alone, self._sent_bytes)

    async def _find_size(self, base_s: float) -> tuple[int, float]:
        """A size for chunks, and about how many bytes per second the way takes."""
        size = min(MIN_CHUNK_BYTES, self._largest)
        while True:
            beyond_s = (await self._one(size)).seconds - base_s
            if beyond_s >= CHUNK_S or size == self._largest:
                return size, size / max(beyond_s, 1e-6)
            size = min(2 * size, self._largest)

    async def _one(self, size_bytes: int) -> Trip:
        """Send a chunk, and wait for its acknowledgement."""
        self._trips.clear()
        self._bound_bytes = 0
        await self._send(size_bytes)
        await self._until(lambda: bool(self._trips))
        return self._trips[-1]

    async def _stream(self, size: int, guess: float, base_s: float) -> list[Trip]:
        self._trips.clear()
        self._grow_below_s = base_s + QUEUE_S
        self._bound_bytes = min(max(4 * size, int(guess * self._grow_below_s)), MAX_IN_FLIGHT_BYTES)
        end_s, end_bytes = self._clock() + self._seconds, self._sent_bytes + MAX_STREAM_BYTES
        sent = 0
        while (self._clock() < end_s and self._sent_bytes < end_bytes) or sent < MIN_STREAM_CHUNKS:
            await self._until(lambda: self._in_flight_bytes + size <= self._bound_bytes)
            await self._send(size)
            sent += 1
        await self._until(lambda: not self._on_the_way)
        return list(self._trips)

    async def _send(self, size_bytes: int) -> None:
        self._sequence += 1
        self._sent_bytes += size_bytes
        self._in_flight_bytes += size_bytes
        self._on_the_way[self._sequence] = (size_bytes, self._clock())
        parts = write_chunk(self._id, self._sequence, size_bytes)
        await self._broker.publish(subjects.probe_data(self._to), parts, reply=self._inbox)

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for acknowledgements, each of them for `ANSWER_S` at most, until the condition holds."""
        while not condition():
            if self._nobody:
                raise MeasurementError(f"node '{self._to}' is not there")
            self._news.clear()
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._news.wait()
            except TimeoutError:
                raise MeasurementError(f"node '{self._to}' does not answer") from None

    async def _on_ack(self, message: Message) -> None:
        now_s = self._clock()
        if not message.data:
            self._nobody = True  # the broker says that nobody listens
            self._news.set()
            return
        try:
            ack = control.decode(message.data, ProbeAck)
        except WireError:
            self.malformed += 1
            return
        if ack.probe != self._id or ack.sequence not in self._on_the_way:
            self.malformed += 1
            return
        size_bytes, sent_s = self._on_the_way.pop(ack.sequence)
        trip = Trip(size_bytes=size_bytes, sent_s=sent_s, acked_s=now_s, arrived_s=ack.at_s)
        self._in_flight_bytes -= size_bytes
        self._trips.append(trip)
        if trip.seconds < self._grow_below_s:
            self._bound_bytes = min(self._bound_bytes + size_bytes, MAX_IN_FLIGHT_BYTES)
        self._news.set()
