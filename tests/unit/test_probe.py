"""Measuring one way: what arrival times say, and the node's side over the in-memory broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import control, subjects, wire
from broker.connect import connect
from broker.control import ProbeAck, ProbeOrder, ProbeResult
from broker.errors import WireError
from broker.port import Broker, Message
from stages import measurement
from stages.measurement import Measurement, MeasurementError, Trip, estimate, rate, read_chunk, write_chunk
from stages.probe import Probe
from stages.worker import WorkerCounters

WAIT_S = 5.0
DOUBLINGS = (measurement.MAX_CHUNK_BYTES // measurement.MIN_CHUNK_BYTES).bit_length()


def trips(arrivals: Sequence[float], size: int = 1000, round_trip_s: float = 0.5) -> list[Trip]:
    return [Trip(size_bytes=size, sent_s=0.0, acked_s=round_trip_s, arrived_s=at) for at in arrivals]


# ---- arrival times -------------------------------------------------------------------------------------------------


@given(
    st.floats(1e2, 1e9),
    st.integers(2, 200),
    st.floats(0, 1e5),
    st.randoms(use_true_random=False),
)
def test_a_steady_stream_has_the_rate_of_its_link_whatever_the_receiver_s_clock_says(
    bytes_per_s: float, count: int, clock_starts_at: float, random: object
) -> None:
    size = max(1, int(bytes_per_s / 50))
    found = trips([clock_starts_at + i * size / bytes_per_s for i in range(count)], size)
    random.shuffle(found)  # type: ignore[attr-defined]
    assert rate(found) == pytest.approx(bytes_per_s, rel=1e-3)


def test_the_slow_start_of_a_stream_is_not_counted() -> None:
    slow = [i * 0.01 for i in range(10)]
    fast = [0.1 + i * 0.001 for i in range(301)]
    assert rate(trips(slow + fast)) == pytest.approx(1000 / 0.001, rel=1e-6)


def test_a_burst_at_the_start_that_a_shaped_link_lets_through_is_not_counted() -> None:
    burst = [i * 1e-6 for i in range(100)]
    steady = [0.01 * i for i in range(1, 40)]
    assert rate(trips(burst + steady)) == pytest.approx(1e5, rel=1e-6)


def test_chunks_that_arrive_in_clumps_still_make_a_rate() -> None:
    assert rate(trips([0.0, 1.0, 1.0])) == pytest.approx(2000)
    assert rate(trips([0.0, 0.0, 2.0, 2.0])) == pytest.approx(1500)


@pytest.mark.parametrize("arrivals", [[], [1.0], [1.0, 1.0], [2.0] * 9])
def test_too_few_arrivals_are_no_rate(arrivals: list[float]) -> None:
    with pytest.raises(MeasurementError, match="too few"):
        rate(trips(arrivals))


def test_the_overhead_is_half_of_an_empty_round_trip_and_a_lone_message_pays_for_every_part_of_its_way() -> None:
    stream = trips([0.01 * i for i in range(100)], size=20_000)  # 2 MB/s: the slower of two links, one behind the other
    alone = trips([0.0] * 5, size=20_000, round_trip_s=0.004 + 0.02)  # 10 ms on each of the two
    found = estimate(trips([0.0] * 9, size=0, round_trip_s=0.004), stream, alone, 7)
    assert found.bytes_per_s == pytest.approx(2e6)
    assert found.alone_bytes_per_s == pytest.approx(1e6)
    assert found.overhead_s == pytest.approx(0.002)
    assert found.size_bytes == 7


def test_a_lone_message_that_seems_faster_than_the_stream_is_noise() -> None:
    stream = trips([0.01 * i for i in range(100)], size=20_000)
    for round_trip_s in (0.004, 0.001, 0.00401):
        found = estimate(
            trips([0.0], size=0, round_trip_s=0.004), stream, trips([0.0], 20_000, round_trip_s=round_trip_s), 0
        )
        assert found.alone_bytes_per_s == found.bytes_per_s


# ---- chunks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 8192, measurement.MAX_ALONE_BYTES])
def test_a_chunk_comes_back_as_it_was_and_has_its_size(size: int) -> None:
    data = b"".join(bytes(part) for part in write_chunk("ab", 7, size))
    assert read_chunk(data) == ("ab", 7)
    assert size <= len(data) < size + 200


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_chunk(data: bytes) -> None:
    with pytest.raises(WireError):
        read_chunk(data)


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"kind": "activation", "probe": "a", "sequence": 1},
        {"kind": "probe", "sequence": 1},
        {"kind": "probe", "probe": "a" * 65, "sequence": 1},
        {"kind": "probe", "probe": 5, "sequence": 1},
        {"kind": "probe", "probe": "a", "sequence": -1},
        {"kind": "probe", "probe": "a", "sequence": True},
        {"kind": "probe", "probe": "a", "sequence": 1 << 60},
    ],
    ids=str,
)
def test_a_header_of_something_else_is_refused(header: dict[str, object]) -> None:
    with pytest.raises(WireError):
        read_chunk(b"".join(bytes(part) for part in wire.pack(header, {})))


# ---- the node's side -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Ring:
    """Nodes on an in-memory broker, whose data and control accounts do not see each other."""

    data: Broker
    control: Broker
    probes: dict[str, Probe]
    counters: dict[str, WorkerCounters]

    async def order(self, node: str, to: str, seconds: float = 0.05) -> ProbeResult:
        order = control.encode(ProbeOrder(to=to, seconds=seconds))
        answer = await self.control.request(subjects.probe(node), order, timeout_s=WAIT_S)
        return control.decode(answer.data, ProbeResult)


@asynccontextmanager
async def ring(*names: str) -> AsyncIterator[Ring]:
    data, control_broker = await connect("memory://data"), await connect("memory://control")
    counters = {name: WorkerCounters() for name in names}
    probes = {name: Probe(name, data=data, control_broker=control_broker, counters=counters[name]) for name in names}
    try:
        for probe in probes.values():
            await probe.start()
        yield Ring(data, control_broker, probes, counters)
        for probe in probes.values():
            probe.check()
            await probe.stop()
    finally:
        await data.close()
        await control_broker.close()


async def test_a_node_measures_the_way_to_another_and_answers_whoever_ordered_it() -> None:
    async with ring("a", "b") as nodes:
        started = time.perf_counter()
        result = await nodes.order("a", "b")
        assert time.perf_counter() - started >= 0.05
        assert (result.node, result.to, result.failure) == ("a", "b", "")
        assert result.bytes_per_s > 1e6
        assert 0 < result.alone_bytes_per_s <= result.bytes_per_s
        assert 0 < result.overhead_s < 0.1
        assert result.size_bytes > 8 * 8192
        assert [counters.dropped for counters in nodes.counters.values()] == [0, 0]
        assert (await nodes.order("b", "a")).bytes_per_s > 1e6


async def test_an_order_that_comes_while_a_node_measures_is_refused_and_disturbs_nothing() -> None:
    async with ring("a", "b") as nodes:
        first, second = await asyncio.gather(nodes.order("a", "b"), nodes.order("a", "b"))
        assert first.failure == ""
        assert second.failure == "node 'a' measures for somebody else"
        assert second.bytes_per_s == 0


async def test_a_node_does_not_measure_the_way_to_itself() -> None:
    async with ring("a") as nodes:
        assert "itself" in (await nodes.order("a", "a")).failure


async def test_a_node_that_does_not_acknowledge_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "ANSWER_S", 0.05)
    async with ring("a") as nodes:
        assert (await nodes.order("a", "ghost")).failure == "node 'ghost' does not answer"


async def test_a_broker_that_says_that_nobody_listens_ends_a_measurement_at_once() -> None:
    async with ring("a") as nodes:

        async def nobody(message: Message) -> None:
            await nodes.data.publish(message.reply, b"")

        await nodes.data.subscribe(subjects.probe_data("ghost"), nobody)
        assert (await nodes.order("a", "ghost")).failure == "node 'ghost' is not there"


async def test_the_bytes_on_the_way_are_bounded() -> None:
    """A receiver that acknowledges nothing of the stream gets no more of it than the bound."""
    got = 0
    async with ring("a") as nodes:

        async def slow(message: Message) -> None:
            nonlocal got
            probe, sequence = read_chunk(message.data)
            got += len(message.data)
            if sequence <= measurement.EMPTY_CHUNKS + DOUBLINGS:
                ack = ProbeAck(probe=probe, sequence=sequence, at_s=time.perf_counter())
                await nodes.data.publish(message.reply, control.encode(ack))

        await nodes.data.subscribe(subjects.probe_data("slow"), slow)
        measured = Measurement(nodes.data, "slow", seconds=0.2)
        with pytest.raises(MeasurementError, match="does not answer"):
            await measured.run()
    assert got < measurement.MAX_IN_FLIGHT_BYTES + 2 * measurement.MAX_CHUNK_BYTES + 10_000


GARBAGE = [b"", b"\xc1", b"hello", msgpack.packb(5), msgpack.packb({}), b"\x91" * 1000, b"\xff" * 100_000]


@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: f"{data[:8].hex()} of {len(data)}")
async def test_garbage_is_dropped_and_counted_and_harms_nothing(data: bytes) -> None:
    async with ring("a", "b") as nodes:
        inbox = nodes.data.new_inbox()
        await nodes.data.publish(subjects.probe_data("a"), data, reply=inbox)
        await nodes.control.publish(subjects.probe("a"), data, reply=inbox)
        await nodes.control.publish(subjects.probe("a"), data)
        assert (await nodes.order("b", "a")).failure == ""
        assert (await nodes.order("a", "b")).failure == ""
        assert nodes.counters["a"].dropped == 3


@pytest.mark.parametrize("reply", ["", "understudy.digits.in", "understudy._.beat.a"])
async def test_a_chunk_cannot_make_a_node_write_to_a_subject_that_is_no_inbox(reply: str) -> None:
    async with ring("a") as nodes:
        heard: list[Message] = []

        async def hear(message: Message) -> None:
            heard.append(message)

        await nodes.data.subscribe("understudy.digits.in", hear)
        await nodes.data.subscribe("understudy._.beat.*", hear)
        chunk = [bytes(part) for part in write_chunk("x", 1, 5)]
        await nodes.data.publish(subjects.probe_data("a"), chunk, reply=reply)
        inbox = nodes.data.new_inbox()
        answered = asyncio.Event()

        async def answer(_: Message) -> None:
            answered.set()

        await nodes.data.subscribe(inbox, answer)
        await nodes.data.publish(subjects.probe_data("a"), chunk, reply=inbox)
        async with asyncio.timeout(WAIT_S):
            await answered.wait()
        assert heard == []
        assert nodes.counters["a"].dropped == 1


async def test_forged_acknowledgements_are_counted_and_change_nothing() -> None:
    async with ring("a", "b") as nodes:
        inboxes: set[str] = set()

        async def forge(message: Message) -> None:
            if message.reply not in inboxes:
                inboxes.add(message.reply)
                for probe, sequence in (("other", 1), ("other", 99), ("x", 1 << 40)):
                    forged = ProbeAck(probe=probe, sequence=sequence, at_s=1e9)
                    await nodes.data.publish(message.reply, control.encode(forged))
                await nodes.data.publish(message.reply, b"garbage")

        await nodes.data.subscribe(subjects.probe_data("b"), forge)
        result = await nodes.order("a", "b")
        assert result.failure == ""
        assert nodes.counters["a"].dropped == 4


async def test_a_node_that_stops_while_it_measures_stops_at_once() -> None:
    async with ring("a", "b") as nodes:
        order = control.encode(ProbeOrder(to="b", seconds=10))
        await nodes.control.publish(subjects.probe("a"), order, reply=nodes.control.new_inbox())
        await asyncio.sleep(0)
        async with asyncio.timeout(1.0):
            await nodes.probes["a"].stop()


@pytest.mark.parametrize("seconds", [0.0, -1.0, 11.0, float("nan"), float("inf")])
def test_an_order_without_a_bound_on_its_time_is_refused(seconds: float) -> None:
    data = control.encode(ProbeOrder(to="b", seconds=seconds))
    with pytest.raises(WireError, match="seconds"):
        control.decode(data, ProbeOrder)
