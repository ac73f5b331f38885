"""Where messages go on a node while epochs come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from broker import subjects
from broker.activation import Activation, Failure, FrameTag, encode_activation, encode_failure
from broker.control import Activate, Assignment, FlowSettings, Route
from broker.memory import MemoryBroker
from broker.url import parse_broker_url
from broker.wire import Encoded
from stages import codec as codecs
from stages import dataplane as dataplane_module
from stages.dataplane import DataPlane
from stages.deployment import Deployment
from stages.flow import Flow
from stages.worker import WorkerCounters
from tests.contract.conftest import Inbox, eventually
from tests.unit.builders import BLOB, activation, numbers, pipeline_spec, route, tensor

SPEC = pipeline_spec(tensor("x", None, 2), tensor("m", None, 2), tensor("y", None, 2))


class Worker:
    """Keeps what it is given."""

    def __init__(self, first_block: int, end_block: int) -> None:
        self.first_block, self.end_block = first_block, end_block
        self.accepted: list[Activation] = []

    async def run(self) -> None:
        await asyncio.Event().wait()

    def accept(self, message: Activation) -> None:
        self.accepted.append(message)

    @property
    def ids(self) -> list[str]:
        return [frame.id for message in self.accepted for frame in message.frames]


class Machine:
    """Node `b`, with block 1; block 0 and the head are on node `a`."""

    def __init__(self, broker: MemoryBroker, executor: ThreadPoolExecutor) -> None:
        self.broker = broker
        self.counters = WorkerCounters()
        self.plane = DataPlane(node="b", broker=broker, counters=self.counters, intake_executor=executor)
        self.at_a = Inbox()

    def load(self, epoch: int, way: Route | None = None) -> dict[int, Worker]:
        """Have this epoch's parts loaded; what they are given."""
        way = way or route(epoch, ("a", "stage:0-1"), ("b", "stage:1-2"))
        assignment = Assignment(pipeline="p", controller="c", spec=BLOB, route=way, flow=FlowSettings())
        workers: dict[int, Any] = {
            part.first_block: Worker(part.first_block, part.end_block) for part in way.parts_on("b")
        }
        self.plane.add(Deployment(assignment=assignment, spec=SPEC, flow=Flow(window=9, batch=1), workers=workers))
        return workers

    async def activate(self, epoch: int, *, drain: bool = False) -> None:
        await self.plane.switch_to(
            Activate(pipeline="p", controller="c", epoch=epoch, drain=drain, previous_head="", assignment=None)
        )

    async def receive(self, epoch: int, *ids: str, cut: int = 1) -> None:
        """Activations from node `a`."""
        for frame_id in ids:
            message = activation({"m": numbers(1)}, [frame_id], cut=cut, epoch=epoch)
            await self.broker.publish(subjects.activation("p", cut, "b"), encode_activation(message))
        for _ in range(5):
            await self.broker.publish("nothing", b"")


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
async def machine(executor: ThreadPoolExecutor) -> AsyncIterator[Machine]:
    broker = await MemoryBroker.connect(parse_broker_url("memory://plane"))
    own = Machine(broker, executor)
    await broker.subscribe(subjects.activations("p", "a"), own.at_a)
    await own.plane.listen("p")
    yield own
    await own.plane.stop()
    await broker.close()


async def test_an_activation_goes_to_the_stage_of_its_epoch_and_cut(machine: Machine) -> None:
    workers = machine.load(1)
    await machine.activate(1)
    await machine.receive(1, "f")
    assert workers[1].ids == ["f"]
    assert [(stage.first_block, stage.end_block) for stage in machine.plane.stages] == [(1, 2)]


async def test_an_epoch_that_is_loaded_is_served_before_this_node_has_heard_of_its_activation(machine: Machine) -> None:
    machine.load(1)
    await machine.activate(1)
    new = machine.load(2)
    await machine.receive(2, "f")
    assert (new[1].ids, machine.counters.dropped) == (["f"], 0)


async def test_messages_of_an_epoch_that_is_not_known_yet_wait_for_it_in_their_order(machine: Machine) -> None:
    machine.load(1)
    await machine.activate(1)
    await machine.receive(2, "f1", "f2")
    new = machine.load(2)
    await machine.activate(2)
    assert (new[1].ids, machine.counters.dropped) == (["f1", "f2"], 0)


async def test_messages_that_wait_for_an_epoch_that_this_node_has_no_part_in_are_dropped(machine: Machine) -> None:
    machine.load(1)
    await machine.activate(1)
    await machine.receive(2, "f1", "f2")
    await machine.activate(2)
    assert machine.counters.dropped == 2


async def test_of_a_later_epoch_still_those_that_wait_go_on_waiting(machine: Machine) -> None:
    await machine.receive(3, "f")
    machine.load(2)
    await machine.activate(2)
    new = machine.load(3)
    await machine.activate(3)
    assert (new[1].ids, machine.counters.dropped) == (["f"], 0)


async def test_no_more_messages_wait_than_a_bound_and_the_oldest_are_dropped(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataplane_module, "EARLY_MESSAGES", 3)
    await machine.receive(1, *"abcde")
    workers = machine.load(1)
    await machine.activate(1)
    assert (workers[1].ids, machine.counters.dropped) == (["c", "d", "e"], 2)


async def test_no_more_bytes_wait_than_a_bound(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataplane_module, "EARLY_BYTES", 2 * numbers(1).nbytes)
    await machine.receive(1, *"abc")
    workers = machine.load(1)
    await machine.activate(1)
    assert (workers[1].ids, machine.counters.dropped) == (["b", "c"], 1)


async def test_a_stale_message_is_dropped_and_counted(machine: Machine) -> None:
    old = machine.load(1)
    await machine.activate(1)
    new = machine.load(2)
    await machine.activate(2)
    await machine.receive(1, "f")
    assert (old[1].ids, new[1].ids, machine.counters.dropped) == ([], [], 1)


async def test_an_epoch_that_is_drained_is_served_until_it_is_over(machine: Machine) -> None:
    old = machine.load(1)
    await machine.activate(1)
    new = machine.load(2)
    await machine.activate(2, drain=True)
    await machine.receive(1, "old")
    await machine.receive(2, "new")
    assert (old[1].ids, new[1].ids, machine.counters.dropped) == (["old"], ["new"], 0)
    await machine.plane.deliver(1, activation({"y": numbers(1)}, ["old"], cut=2, epoch=1))
    assert (await machine.at_a.next()).subject == "understudy.p.cut.2.a"
    await machine.plane.retire()
    await machine.receive(1, "late")
    assert (old[1].ids, machine.counters.dropped) == (["old"], 1)


async def test_a_way_around_a_failure_ends_all_that_was_drained(machine: Machine) -> None:
    machine.load(1)
    await machine.activate(1)
    machine.load(2)
    await machine.activate(2, drain=True)
    bridge = machine.load(3, route(3, ("b", "standby:0-1"), ("b", "stage:1-2"), technique="standby"))
    await machine.activate(3)
    assert [deployment.epoch for deployment in machine.plane.deployments] == [3]
    assert set(bridge) == {0, 1}
    assert machine.plane.lead.leads


async def test_a_head_that_nobody_asked_to_hand_over_is_over_when_its_route_is(machine: Machine) -> None:
    """The question of the new head may be lost, or late: there must not be two heads for ever."""
    machine.load(1, route(1, ("b", "stage:0-1"), ("b", "stage:1-2")))
    await machine.activate(1)
    machine.load(2, route(2, ("a", "stage:0-1"), ("b", "stage:1-2")))
    await machine.activate(2, drain=True)
    assert machine.plane.lead.leads
    await machine.plane.retire()
    await machine.plane.check()
    assert not machine.plane.lead.leads


async def test_what_a_stage_makes_goes_where_the_route_of_its_epoch_says(machine: Machine) -> None:
    machine.load(1)
    machine.load(2, route(2, ("b", "stage:0-1"), ("c", "stage:1-2"), head="a"))
    at_c = Inbox()
    await machine.broker.subscribe(subjects.activations("p", "c"), at_c)
    await machine.activate(2, drain=True)
    await machine.plane.deliver(1, activation({"y": numbers(1)}, ["old"], cut=2, epoch=1))
    await machine.plane.deliver(2, activation({"m": numbers(1)}, ["new"], cut=1, epoch=2))
    assert (await machine.at_a.next()).subject == "understudy.p.cut.2.a"
    assert (await at_c.next()).subject == "understudy.p.cut.1.c"


async def test_what_is_made_for_an_epoch_that_is_over_goes_nowhere(machine: Machine) -> None:
    machine.load(1)
    await machine.activate(1)
    machine.load(2)
    await machine.activate(2)
    await machine.plane.deliver(1, activation({"y": numbers(1)}, ["old"], cut=2, epoch=1))
    await machine.broker.publish("nothing", b"")
    assert machine.at_a.waiting == 0


async def test_a_hop_within_the_node_needs_no_broker(machine: Machine) -> None:
    workers = machine.load(1, route(1, ("b", "stage:0-1"), ("b", "stage:1-2"), head="a"))
    await machine.activate(1)
    await machine.plane.deliver(1, activation({"m": numbers(1)}, ["f"], cut=1))
    assert workers[1].ids == ["f"]


@pytest.mark.parametrize("cut", [0, 2])
async def test_an_activation_of_a_cut_that_no_stage_here_takes_is_dropped_and_counted(
    machine: Machine, cut: int
) -> None:
    machine.load(1)
    await machine.activate(1)
    message = activation({"x": numbers(1)}, ["f"], cut=cut)
    await machine.broker.publish(subjects.activation("p", cut, "b"), encode_activation(message))
    # Cut 2 is the head's business: this node has none, and nothing is answered.
    if cut == 0:
        await eventually(lambda: machine.counters.dropped == 1)
    assert machine.plane.head is None


FAILURE = Failure(epoch=1, cut=1, frames=(FrameTag("f"),), code="failed", reason="not for a stage")


@pytest.mark.parametrize("data", [b"", b"nonsense", b"".join(encode_failure(FAILURE))], ids=len)
async def test_what_is_no_activation_is_dropped_and_counted_and_the_next_is_processed(
    machine: Machine, data: bytes
) -> None:
    workers = machine.load(1)
    await machine.activate(1)
    await machine.broker.publish(subjects.activation("p", 1, "b"), data)
    await machine.receive(1, "f")
    assert (workers[1].ids, machine.counters.dropped) == (["f"], 1)


async def test_an_encoded_activation_is_handed_on_as_it_came(machine: Machine) -> None:
    workers = machine.load(1)
    await machine.activate(1)
    (packed,) = codecs.pack(activation({"m": np.zeros((1, 900), np.float32)}, ["f"], cut=1), "zstd", 1 << 20)
    await machine.broker.publish(subjects.activation("p", 1, "b"), encode_activation(packed))
    await machine.receive(1, "g")
    assert (workers[1].ids, machine.counters.dropped) == (["f", "g"], 0)
    assert isinstance(workers[1].accepted[0].tensors["m"], Encoded)


async def test_what_would_become_larger_than_the_broker_s_limit_is_malformed_and_the_next_is_processed(
    machine: Machine,
) -> None:
    workers = machine.load(1)
    await machine.activate(1)
    count = machine.broker.max_payload_bytes // 4 + 1
    (bomb,) = codecs.pack(activation({"m": np.zeros((1, count), np.float32)}, ["f"], cut=1), "zstd", 1 << 40)
    await machine.broker.publish(subjects.activation("p", 1, "b"), encode_activation(bomb))
    await machine.receive(1, "g")
    assert (workers[1].ids, machine.counters.dropped) == (["g"], 1)
    assert machine.counters.malformed.counts == {"activation": 1}


async def test_answers_that_are_encoded_are_malformed(machine: Machine) -> None:
    machine.load(1, route(1, ("b", "stage:0-1"), ("a", "stage:1-2")))
    await machine.activate(1)
    (packed,) = codecs.pack(activation({"y": numbers(*[0] * 99)}, [str(i) for i in range(99)], cut=2), "zstd", 1 << 20)
    await machine.broker.publish(subjects.activation("p", 2, "b"), encode_activation(packed))
    await eventually(lambda: machine.counters.malformed.counts == {"activation": 1})


async def test_it_is_busy_when_frames_have_come_by(machine: Machine) -> None:
    started: list[bool] = []
    machine.plane.on_work = lambda: started.append(True)
    machine.load(1)
    await machine.activate(1)
    assert not machine.plane.busy
    await machine.receive(1, "f", "g")
    assert machine.plane.busy
    assert started == [True]
