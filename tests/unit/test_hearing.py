"""Whether what is silent is silent itself, or the broker is."""

from __future__ import annotations

import asyncio
from typing import Any

from broker.errors import BrokerError
from recovery.hearing import GRACE_S, Hearing
from recovery.observer import TICK_S


class Wire:
    """A broker that answers or does not, and its time."""

    def __init__(self) -> None:
        self.connected, self.answers, self.now_s = True, True, 100.0

    async def flush(self, *, timeout_s: float) -> None:
        if not self.answers:
            raise BrokerError(f"no answer within {timeout_s} s")


def make() -> tuple[Wire, Hearing]:
    wire: Any = Wire()
    return wire, Hearing(wire, clock=lambda: wire.now_s)


async def verdicts(wire: Wire, hearing: Hearing, seconds: float) -> list[bool]:
    """At every tick."""
    found = []
    for _ in range(round(seconds / TICK_S)):
        wire.now_s += TICK_S
        await asyncio.sleep(0)
        found.append(hearing.hears())
    await hearing.stop()
    return found


async def test_where_all_nodes_are_silent_the_broker_says_that_it_is_not() -> None:
    wire, hearing = make()
    assert all(await verdicts(wire, hearing, 2.0))


async def test_nobody_is_silent_while_the_broker_stands_still_and_for_a_moment_afterwards() -> None:
    wire, hearing = make()
    wire.answers = False
    assert not any((await verdicts(wire, hearing, 2.0))[10:])
    wire.answers = True
    after = await verdicts(wire, hearing, 2.0)
    assert GRACE_S <= after.index(True) * TICK_S <= GRACE_S + 5 * TICK_S
    assert all(after[after.index(True) :])


async def test_nobody_is_silent_while_there_is_no_connection_and_for_a_moment_afterwards() -> None:
    wire, hearing = make()
    wire.connected = False
    assert not any(await verdicts(wire, hearing, 0.05))
    wire.connected = True
    hearing.heard()
    after = await verdicts(wire, hearing, 1.0)
    assert GRACE_S - TICK_S <= after.index(True) * TICK_S <= GRACE_S + 5 * TICK_S
