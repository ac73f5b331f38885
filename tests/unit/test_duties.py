"""What a node does when it is told several things at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker import control, subjects
from broker.control import Activate, Assignment, FlowSettings
from broker.malformed import Malformed
from broker.memory import MemoryBroker
from broker.url import parse_broker_url
from stages.duties import Duties
from tests.contract.conftest import eventually
from tests.unit.builders import BLOB, route


class Plane:
    """Subscribes slowly, as a broker far away does."""

    active_epoch = 0

    def __init__(self) -> None:
        self.listening = 0
        self.subscribed = asyncio.Event()

    async def listen(self, _: str) -> None:
        self.listening += 1
        await self.subscribed.wait()


class NothingLoaded:
    """A loader that has nothing, and is never done with what it is given."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def load(self, *_: object) -> None:
        await asyncio.Event().wait()

    def assemble(self, assignment: Assignment, _: object) -> None:
        self.asked.append(assignment.route.epoch)


class Machine:
    """Node `a`, which has just started."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.plane, self.loader = Plane(), NothingLoaded()
        stand_ins: Any = {"loader": self.loader, "plane": self.plane}
        self.duties = Duties(
            node="a", pipeline="p", broker=broker, on_news=lambda: None, malformed=Malformed(), **stand_ins
        )

    async def tell_plan(self, epoch: int) -> None:
        await self._broker.publish(subjects.assign("a"), control.encode(assignment(epoch)))

    async def tell_bridge(self, epoch: int) -> None:
        words = Activate(
            pipeline="p", controller="c", epoch=epoch, drain=False, previous_head="", assignment=assignment(epoch)
        )
        await self._broker.publish(subjects.activate("p"), control.encode(words))


def assignment(epoch: int) -> Assignment:
    way = route(epoch, ("a", "stage:0-1"), ("b", "stage:1-2"))
    return Assignment(pipeline="p", controller="c", spec=BLOB, route=way, flow=FlowSettings())


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    broker = await MemoryBroker.connect(parse_broker_url("memory://duties"))
    own = Machine(broker)
    await own.duties.start()
    yield own
    await own.duties.stop()
    await broker.close()


async def test_a_way_around_a_failure_over_parts_that_are_not_loaded_is_reported(machine: Machine) -> None:
    machine.plane.subscribed.set()
    await machine.tell_bridge(41)
    await eventually(lambda: bool(machine.duties.failure))
    assert machine.duties.assigned_epoch == 41


async def test_such_a_way_says_nothing_about_the_plan_that_was_made_meanwhile(machine: Machine) -> None:
    await machine.tell_bridge(41)
    await eventually(lambda: machine.plane.listening == 1)
    await machine.tell_plan(42)
    await eventually(lambda: machine.plane.listening == 2)
    machine.plane.subscribed.set()
    await eventually(lambda: machine.loader.asked == [41])
    assert (machine.duties.assigned_epoch, machine.duties.failure) == (42, "")
