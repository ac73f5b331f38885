"""The pulse: what it is on the wire, and when it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import pulse, subjects
from broker.connect import connect
from broker.errors import SubjectError, WireError
from broker.memory import MemoryBroker
from broker.pulse import MAX_PULSE_BYTES, Pulse
from stages.pulse import PulseTask
from tests.contract.conftest import Inbox, eventually

INCARNATION = "0123456789abcdef"


# ---- on the wire ---------------------------------------------------------------------------------------------------


@given(st.from_regex(r"[0-9a-f]{16}", fullmatch=True), st.integers(0, (1 << 53) - 1), st.integers(1, 60_000))
def test_a_pulse_makes_the_round_trip(incarnation: str, sequence: int, interval_ms: int) -> None:
    sent = Pulse(incarnation=incarnation, sequence=sequence, interval_ms=interval_ms)
    assert pulse.decode(pulse.encode(sent)) == sent


def test_a_pulse_is_tiny_and_as_documented() -> None:
    data = pulse.encode(Pulse(incarnation=INCARNATION, sequence=7, interval_ms=20))
    assert data == b"\x93\xb0" + INCARNATION.encode() + b"\x07\x14"


def test_items_that_a_later_version_appends_are_ignored() -> None:
    assert pulse.decode(msgpack.packb([INCARNATION, 1, 20, "more"])).sequence == 1


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        {},
        [INCARNATION, 1],
        [INCARNATION.upper(), 1, 20],
        [INCARNATION + "0", 1, 20],
        [INCARNATION + "\n", 1, 20],
        [b"0123456789abcdef", 1, 20],
        [INCARNATION, -1, 20],
        [INCARNATION, 1 << 53, 20],
        [INCARNATION, True, 20],
        [INCARNATION, 1.0, 20],
        [INCARNATION, 1, 0],
        [INCARNATION, 1, 60_001],
        [INCARNATION, 1, "20"],
    ],
)
def test_anything_else_is_refused(raw: object) -> None:
    with pytest.raises(WireError):
        pulse.decode(msgpack.packb(raw))


@given(st.binary(max_size=MAX_PULSE_BYTES + 50))
def test_any_bytes_are_a_pulse_or_refused(data: bytes) -> None:
    try:
        pulse.decode(data)
    except WireError:
        return


def test_a_long_message_is_refused_unread() -> None:
    with pytest.raises(WireError, match="exceeds"):
        pulse.decode(msgpack.packb([INCARNATION, 1, 20, "x" * MAX_PULSE_BYTES]))


# ---- when ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    connection = await connect("memory://pulse")
    assert isinstance(connection, MemoryBroker)
    yield connection
    await connection.close()


async def heard(broker: MemoryBroker) -> Inbox:
    inbox = Inbox()
    await broker.subscribe(subjects.PULSES, inbox)
    return inbox


def task(broker: MemoryBroker, busy: Callable[[], bool] = lambda: True) -> PulseTask:
    return PulseTask(broker, node="one", incarnation=INCARNATION, interval_s=0.005, idle_interval_s=30.0, busy=busy)


async def test_pulses_come_one_after_the_other_with_the_interval_that_they_name(broker: MemoryBroker) -> None:
    inbox = await heard(broker)
    started = asyncio.get_running_loop().time()
    async with task(broker):
        messages = await inbox.take(20)
    assert asyncio.get_running_loop().time() - started > 19 * 0.005 - 0.002
    assert {message.subject for message in messages} == {"understudy._.pulse.one"}
    assert [pulse.decode(message.data) for message in messages] == [
        Pulse(incarnation=INCARNATION, sequence=number, interval_ms=5) for number in range(20)
    ]


async def test_an_idle_node_pulses_seldom_says_so_and_hurries_when_there_is_work(broker: MemoryBroker) -> None:
    inbox, busy = await heard(broker), False
    async with task(broker, lambda: busy) as pulses:
        assert pulse.decode((await inbox.next()).data).interval_ms == 30_000
        busy = True
        pulses.hurry()
        assert [pulse.decode(message.data).interval_ms for message in await inbox.take(3)] == [5, 5, 5]


class Cut(MemoryBroker):
    up = True

    @property
    def connected(self) -> bool:
        return self.up


async def test_without_a_connection_nothing_is_kept_for_later(broker: MemoryBroker) -> None:
    inbox = await heard(broker)
    cut = Cut("pulse", broker._hubs)
    async with task(cut):
        await inbox.take(2)
        cut.up = False
        waiting = inbox.waiting
        # Longer than several intervals, in which nothing must come.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await inbox.take(waiting + 2)
        cut.up = True
        await inbox.next()
    await cut.close()


async def test_a_task_that_was_stopped_is_silent_and_can_be_stopped_again(broker: MemoryBroker) -> None:
    pulses = task(broker)
    pulses.start()
    pulses.start()
    await eventually(lambda: pulses._sequence > 1)
    await pulses.stop()
    count = pulses._sequence
    await pulses.stop()
    pulses.check()
    assert pulses._sequence == count


def test_a_name_that_would_change_the_subject_is_refused(broker: MemoryBroker) -> None:
    with pytest.raises(SubjectError):
        PulseTask(broker, node="a.b", incarnation=INCARNATION)
