"""The roles one by one, as they run on real machines: a broker, a controller, nodes that know the broker's URL only."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import understudy
from tests.integration.conftest import Digits
from tests.integration.harness import Running, Shell, eventually
from tests.integration.stranger import stranger

READY_S = 20.0
HEAL_S = 20.0


@dataclass(slots=True)
class Cluster:
    """Processes of `understudy controller` and `understudy node` at one broker."""

    shell: Shell
    url: str
    look: Callable[[], Awaitable[dict[str, Any]]]
    stack: ExitStack
    nodes: dict[str, Running] = field(default_factory=dict)

    def add_controller(self, bundle: Path, *options: str, expect: int) -> Running:
        arguments = ["controller", "--bundle", str(bundle), "--broker", self.url, "--expect", str(expect)]
        return self.stack.enter_context(self.shell.start(*arguments, *options))

    def add_node(self, name: str) -> Running:
        arguments = ["node", "--name", name, "--broker", self.url, "--cache", str(self.cache(name))]
        self.nodes[name] = self.stack.enter_context(self.shell.start(*arguments))
        return self.nodes[name]

    def cache(self, name: str) -> Path:
        return self.shell.folder / f"cache of {name}"

    async def status(self) -> dict[str, Any]:
        """As soon as a controller answers."""
        document: dict[str, Any] = await eventually(self.look, bool, within_s=READY_S, what="an answer of a controller")
        return document

    async def running_on(self, *names: str, within_s: float = READY_S) -> dict[str, Any]:
        """The status, once the pipeline runs on exactly these nodes."""

        def runs(document: dict[str, Any]) -> bool:
            return document.get("state") == "running" and hosts(document) == set(names)

        document: dict[str, Any] = await eventually(
            self.look, runs, within_s=within_s, what=f"a pipeline on {', '.join(names)}"
        )
        return document


def hosts(document: dict[str, Any]) -> set[str]:
    return {node["name"] for node in document.get("nodes", []) if node["alive"] and node["stages"]}


@pytest.fixture
async def two_nodes(cluster: Cluster, digits: Digits) -> Cluster:
    """A controller for the digits, and the nodes a and b."""
    cluster.add_controller(digits.bundle, expect=2)
    for name in ("a", "b"):
        cluster.add_node(name)
    await cluster.running_on("a", "b")
    return cluster


async def test_nodes_that_know_the_broker_alone_are_given_stages_and_answer(cluster: Cluster, digits: Digits) -> None:
    cluster.add_controller(digits.bundle, "--recovery", '{"spare_memory": 0}', expect=2)
    for name in ("a", "b"):
        cluster.add_node(name)
    document = await cluster.running_on("a", "b")
    assert {node["name"]: node["pid"] for node in document["nodes"]} == {
        name: running.pid for name, running in cluster.nodes.items()
    }
    async with understudy.connect(cluster.url, "digits") as client:
        results = [result async for result in client.stream(digits.frames[:100])]
    assert [result.error for result in results] == [None] * 100
    assert sum(r.class_index == label for r, label in zip(results, digits.labels[:100], strict=True)) >= 97
    assert all({hop.node for hop in result.path} == {"a", "b"} for result in results)

    # Without spares each node has its own sub-model, and not the other's; files are named by what they hold.
    held = {name: {path.name: path.read_bytes() for path in cluster.cache(name).iterdir()} for name in ("a", "b")}
    for files in held.values():
        assert files
        assert all(hashlib.sha256(data).hexdigest() == name for name, data in files.items())
    whole = (digits.bundle / "model.onnx").stat().st_size
    sizes = [sum(len(data) for data in files.values()) for files in held.values()]
    assert all(size < whole for size in sizes)
    assert set(held["a"]) - set(held["b"])
    assert set(held["b"]) - set(held["a"])


async def test_a_node_that_comes_later_is_taken_in_and_nobody_notices(two_nodes: Cluster, digits: Digits) -> None:
    enough = asyncio.Event()
    results: list[understudy.Result] = []

    def frames() -> Iterator[bytes]:
        while not enough.is_set():
            yield from digits.frames[:50]

    async def stream() -> None:
        async with understudy.connect(two_nodes.url, "digits") as client:
            async for result in client.stream(frames(), window=16):
                results.append(result)

    task = asyncio.create_task(stream())
    two_nodes.add_node("c")
    await two_nodes.running_on("a", "b", "c")

    async def path() -> set[str]:
        return {hop.node for hop in results[-1].path} if results else set()

    # What was sent before the nodes had the new plan is answered first.
    await eventually(path, lambda nodes: nodes == {"a", "b", "c"}, within_s=READY_S, what="a result of three nodes")
    enough.set()
    async with asyncio.timeout(READY_S):
        await task
    assert {(result.error, result.technique) for result in results} == {(None, "none")}
    assert {hop.node for hop in results[-1].path} == {"a", "b", "c"}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("position", [0, 1, 2], ids=["the head", "the second stage", "the last stage"])
async def test_no_frame_of_a_stream_is_lost_when_a_node_is_killed_and_the_others_go_on_without_it(
    two_nodes: Cluster, digits: Digits, position: int
) -> None:
    two_nodes.add_node("c")
    document = await two_nodes.running_on("a", "b", "c")
    victim = sorted((node["stages"][0], node["name"]) for node in document["nodes"])[position][1]
    survivors = {"a", "b", "c"} - {victim}
    labels: list[int] = []
    healed = asyncio.Event()

    def frames() -> Iterator[bytes]:
        # A bounded number after the heal; the window bounds those before.
        after = 0
        while after < 100:
            after += healed.is_set()
            labels.append(digits.labels[len(labels) % 400])
            yield digits.frames[(len(labels) - 1) % 400]

    results: list[understudy.Result] = []

    async def stream() -> None:
        async with understudy.connect(two_nodes.url, "digits", timeout_s=HEAL_S * 2) as client:
            async for result in client.stream(frames(), window=32):
                results.append(result)
                if len(results) == 50:
                    two_nodes.nodes[victim].process.kill()

    task = asyncio.create_task(stream())
    try:
        await eventually(_count(results), lambda count: count >= 50, within_s=READY_S, what="50 results")
        await two_nodes.running_on(*survivors, within_s=HEAL_S)
        healed.set()
        async with asyncio.timeout(HEAL_S * 2):
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [result.error for result in results] == [None] * len(labels)
    right = sum(result.class_index == label for result, label in zip(results, labels, strict=True))
    assert right / len(labels) >= 0.97
    assert {hop.node for hop in results[-1].path} == survivors
    assert results[-1].epoch > results[0].epoch
    assert results[-1].technique == "none"


def _count(results: list[understudy.Result]) -> Callable[[], Awaitable[int]]:
    async def look() -> int:
        return len(results)

    return look


async def test_a_node_that_leaves_on_purpose_is_replaced_at_once(two_nodes: Cluster, digits: Digits) -> None:
    two_nodes.nodes["b"].interrupt()
    assert await asyncio.to_thread(two_nodes.nodes["b"].wait) == 0
    await two_nodes.running_on("a", within_s=HEAL_S)
    async with understudy.connect(two_nodes.url, "digits") as client:
        result = await client.infer(digits.frames[4])
    assert (result.class_index, {hop.node for hop in result.path}) == (4, {"a"})


async def test_a_node_that_is_killed_and_started_again_at_once_is_there_again_and_frames_are_answered(
    two_nodes: Cluster, digits: Digits
) -> None:
    before = await two_nodes.status()
    two_nodes.nodes["b"].process.kill()
    again = two_nodes.add_node("b")

    def is_back(document: dict[str, Any]) -> bool:
        alive = {node["name"]: node["pid"] for node in document.get("nodes", []) if node["alive"]}
        return (
            document.get("state") == "running" and document["epoch"] > before["epoch"] and alive.get("b") == again.pid
        )

    await eventually(two_nodes.look, is_back, within_s=HEAL_S, what="the new process of the node")
    async with understudy.connect(two_nodes.url, "digits") as client:
        assert (await client.infer(digits.frames[4])).class_index == 4


async def test_frames_are_answered_while_no_controller_runs_and_a_new_one_takes_over(
    cluster: Cluster, digits: Digits
) -> None:
    first = cluster.add_controller(digits.bundle, expect=2)
    for name in ("a", "b"):
        cluster.add_node(name)
    before = await cluster.running_on("a", "b")
    async with understudy.connect(cluster.url, "digits") as client:
        first.process.kill()
        first.wait()
        assert (await client.infer(digits.frames[5])).class_index == 5
        cluster.add_controller(digits.bundle, expect=2)

        def has_taken_over(document: dict[str, Any]) -> bool:
            return document.get("state") == "running" and document["epoch"] > before["epoch"]

        await eventually(cluster.look, has_taken_over, within_s=HEAL_S, what="a plan of the new controller")
        result = await client.infer(digits.frames[6])
    assert (result.class_index, {hop.node for hop in result.path}) == (6, {"a", "b"})
    assert result.epoch > before["epoch"]


async def test_a_node_that_was_started_first_waits_for_the_controller(cluster: Cluster, digits: Digits) -> None:
    cluster.add_node("a")
    cluster.add_controller(digits.bundle, expect=1)
    await cluster.running_on("a")
    async with understudy.connect(cluster.url, "digits") as client:
        assert (await client.infer(digits.frames[7])).class_index == 7


async def test_a_frame_that_comes_before_the_nodes_is_answered_when_they_are_there(
    cluster: Cluster, digits: Digits
) -> None:
    cluster.add_controller(digits.bundle, expect=1)
    await cluster.status()
    async with understudy.connect(cluster.url, "digits") as client:
        early = asyncio.create_task(client.infer(digits.frames[8]))
        cluster.add_node("a")
        assert (await early).class_index == 8


async def test_frames_that_a_living_head_holds_are_answered_when_another_node_is_killed(
    cluster: Cluster, digits: Digits
) -> None:
    """A publisher without our library sends each frame once: whoever has accepted it answers for it."""
    cluster.add_controller(digits.bundle, expect=2)
    for name in ("b", "c"):
        cluster.add_node(name)
    document = await cluster.running_on("b", "c")
    last = max(document["nodes"], key=lambda node: node["stages"][0])["name"]
    # A node whose name comes first is put first in the next plan, and the head stays where it is.
    cluster.add_node("a")
    await cluster.running_on("a", "b", "c")
    async with stranger(cluster.url, "digits") as own:
        cluster.nodes[last].process.kill()
        cluster.nodes[last].wait()
        for i, frame in enumerate(digits.frames[:20]):
            await own.publish(frame, f"held-{i}")
        async with asyncio.timeout(HEAL_S):
            results = [await own.result(f"held-{i}") for i in range(20)]
    assert [result["class_index"] for result in results] == digits.labels[:20]
