"""The loader with real sub-models: what is loaded once, kept, and let go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from broker.activation import Activation, Failure
from broker.control import Assignment, BlobRef, FlowSettings, PartRef, Route, RouteHop
from broker.errors import UnderstudyError
from broker.memory import MemoryBroker
from broker.url import parse_broker_url
from stages.blobs import BlobExchange, BlobStore
from stages.engine import Engine
from stages.loader import Loader
from stages.worker import WorkerCounters
from tests.contract.conftest import eventually
from tests.onnx_models import Net
from tests.unit.builders import activation, numbers, pipeline_spec, tensor

SPEC = pipeline_spec(tensor("x", None, 2), tensor("m", None, 2), tensor("y", None, 2))


def add(value: float, source: str, target: str) -> bytes:
    """target = source + value."""
    net = Net()
    net.named(target, "Add", source, net.constant(np.array([value, value], np.float32)))
    data: bytes = net.model({source: ["n", 2]}, {target: ["n", 2]}).SerializeToString()
    return data


class Depot:
    """A controller's blobs, and a loader of node `a` that fetches them over the broker."""

    def __init__(self, broker: MemoryBroker, executor: ThreadPoolExecutor) -> None:
        self.store = BlobStore(None)
        self.offers = BlobExchange(broker, self.store)
        self.fetches = BlobExchange(broker, BlobStore(None))
        self.loader = Loader(
            node="a",
            exchange=self.fetches,
            executor=executor,
            counters=WorkerCounters(),
            threads=1,
            providers=("CPU",),
            message_bytes=lambda: 1 << 20,
        )
        self.delivered: list[Activation | Failure] = []

    async def offer(self, data: bytes) -> BlobRef:
        ref = self.store.put(data)
        await self.offers.offer(ref)
        return ref

    async def part(self, name: str, data: bytes) -> PartRef:
        first, end = map(int, name.split(":")[1].split("-"))
        return PartRef(part=name, first_block=first, end_block=end, model=await self.offer(data))

    async def assignment(self, epoch: int, *hops: tuple[str, PartRef], blocks: int = 2) -> Assignment:
        made = tuple(RouteHop(node=node, part=part) for node, part in hops)
        way = Route(epoch=epoch, blocks=blocks, hops=made, head="a")
        spec = await self.offer(SPEC.to_json())
        return Assignment(pipeline="p", controller="c", spec=spec, route=way, flow=FlowSettings())

    async def deliver(self, message: Activation | Failure) -> None:
        self.delivered.append(message)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
async def depot(executor: ThreadPoolExecutor) -> AsyncIterator[Depot]:
    broker = await MemoryBroker.connect(parse_broker_url("memory://depot"))
    own = Depot(broker, executor)
    yield own
    await own.fetches.close()
    await own.offers.close()
    await broker.close()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each engine that was loaded."""
    counted: list[int] = []
    load = Engine.load.__func__  # type: ignore[attr-defined]

    def counting(cls: type[Engine], /, model: bytes, **options: object) -> Engine:
        counted.append(len(model))
        engine: Engine = load(cls, model, **options)
        return engine

    monkeypatch.setattr(Engine, "load", classmethod(counting))
    return counted


async def test_the_parts_that_a_route_places_here_are_fetched_loaded_and_run(depot: Depot) -> None:
    first, second = await depot.part("stage:0-1", add(1, "x", "m")), await depot.part("stage:1-2", add(10, "m", "y"))
    deployment = await depot.loader.load(await depot.assignment(1, ("a", first), ("b", second)), depot.deliver)
    assert (deployment.epoch, set(deployment.workers)) == (1, {0})
    deployment.start()
    try:
        assert deployment.accept(activation({"x": numbers(5)}))
        await eventually(lambda: bool(depot.delivered))
    finally:
        await deployment.stop()
    [made] = depot.delivered
    assert isinstance(made, Activation)
    np.testing.assert_array_equal(made.tensors["m"], numbers(5) + 1)


async def test_a_part_that_stays_the_same_is_not_loaded_again(depot: Depot, loads: list[int]) -> None:
    first, second = await depot.part("stage:0-1", add(1, "x", "m")), await depot.part("stage:1-2", add(10, "m", "y"))
    await depot.loader.load(await depot.assignment(1, ("a", first), ("b", second)), depot.deliver)
    await depot.loader.load(await depot.assignment(2, ("a", first), ("c", second)), depot.deliver)
    assert len(loads) == 1


async def test_a_standby_in_full_precision_is_its_stage_and_takes_no_memory_of_its_own(
    depot: Depot, loads: list[int]
) -> None:
    data = add(1, "x", "m")
    spec = await depot.offer(SPEC.to_json())
    await depot.loader.keep(await depot.part("stage:0-1", data), spec)
    await depot.loader.keep(await depot.part("standby:0-1", data), spec)
    assert len(loads) == 1


async def test_a_route_over_spares_is_there_at_once_and_one_over_what_is_not_loaded_is_none(
    depot: Depot, loads: list[int]
) -> None:
    first, second = await depot.part("stage:0-1", add(1, "x", "m")), await depot.part("standby:1-2", add(10, "m", "y"))
    bridge = await depot.assignment(2, ("a", first), ("a", second))
    assert depot.loader.assemble(bridge, depot.deliver) is None
    await depot.loader.keep(first, bridge.spec)
    assert depot.loader.assemble(bridge, depot.deliver) is None
    await depot.loader.keep(second, bridge.spec)
    loaded = len(loads)
    deployment = depot.loader.assemble(bridge, depot.deliver)
    assert deployment is not None
    assert set(deployment.workers) == {0, 1}
    assert len(loads) == loaded


async def test_a_node_that_a_route_gives_no_part_has_an_empty_deployment(depot: Depot) -> None:
    """The head's, and that of its standby."""
    whole = await depot.part("stage:0-2", add(1, "x", "y"))
    assignment = await depot.assignment(1, ("b", whole))
    deployment = await depot.loader.load(assignment, depot.deliver)
    assert deployment.workers == {}
    assert depot.loader.assemble(replace(assignment), depot.deliver) is not None


async def test_what_is_forgotten_is_loaded_anew_and_the_rest_is_still_there(depot: Depot, loads: list[int]) -> None:
    first, second = await depot.part("stage:0-1", add(1, "x", "m")), await depot.part("standby:1-2", add(10, "m", "y"))
    spec = await depot.offer(SPEC.to_json())
    for part in (first, second):
        await depot.loader.keep(part, spec)
    depot.loader.forget([second])
    for part in (second, first):
        await depot.loader.keep(part, spec)
    assert len(loads) == 3


async def test_a_route_of_another_model_is_refused(depot: Depot) -> None:
    part = await depot.part("stage:0-3", add(1, "x", "m"))
    with pytest.raises(UnderstudyError, match="has 3 blocks, the model 2"):
        await depot.loader.load(await depot.assignment(1, ("a", part), blocks=3), depot.deliver)


async def test_a_model_that_cannot_be_loaded_says_so_and_others_still_can(depot: Depot) -> None:
    broken = await depot.part("stage:0-2", b"no model")
    with pytest.raises(UnderstudyError):
        await depot.loader.load(await depot.assignment(1, ("a", broken)), depot.deliver)
    good = await depot.part("stage:0-2", add(1, "x", "y"))
    assert (await depot.loader.load(await depot.assignment(2, ("a", good)), depot.deliver)).epoch == 2


async def test_a_spare_of_blocks_that_the_model_has_not_is_refused(depot: Depot) -> None:
    odd = await depot.part("standby:1-5", add(1, "m", "y"))
    with pytest.raises(UnderstudyError):
        await depot.loader.keep(odd, await depot.offer(SPEC.to_json()))
