"""A node that is told to stop leaves when the pipeline goes on without it, and no frame notices."""

from __future__ import annotations

import asyncio
import signal
import time

from stages.node import LEAVE_S
from tests.integration.conftest import Digits
from tests.integration.flow import head_of, nodes_of, prepared, right, streaming
from tests.integration.harness import Running, eventually
from tests.integration.test_roles import Cluster

LEFT_S = LEAVE_S + 5.0


async def three(cluster: Cluster, digits: Digits) -> None:
    cluster.add_controller(digits.bundle, expect=3)
    for name in ("a", "b", "c"):
        cluster.add_node(name)
    await prepared(cluster, "a", "b", "c")


async def ended(running: Running, *, within_s: float = LEFT_S) -> int:
    return await asyncio.to_thread(running.wait, within_s)


async def logged(running: Running, event: str) -> None:
    async def look() -> str:
        return running.log.read_text()

    await eventually(look, lambda text: event in text, within_s=LEFT_S, what=f"{event} in the log")


async def test_nodes_leave_one_after_the_other_the_head_first_and_each_frame_is_answered_once(
    cluster: Cluster, digits: Digits
) -> None:
    await three(cluster, digits)
    names = {"a", "b", "c"}
    async with streaming(cluster.url, digits) as stream:
        for of_the_head in (True, False):
            head = head_of(await prepared(cluster, *names))
            leaver = head if of_the_head else next(iter(names - {head}))
            cluster.nodes[leaver].interrupt(signal.SIGTERM)
            began = time.monotonic()
            assert await ended(cluster.nodes[leaver]) == 0
            assert time.monotonic() - began < LEAVE_S  # because the pipeline goes on, and not because time was up
            names -= {leaver}
            later = (await stream.answers(100))[-50:]
            assert {node for result in later for node in nodes_of(result)} == names
    results = stream.own.results
    # Planned: nothing was degraded, or waited for a failure to be noticed.
    assert {result["technique"] for result in results} == {"none"}
    assert right(stream, results) >= 0.97


async def test_a_node_that_serves_no_pipeline_ends_at_once(cluster: Cluster, digits: Digits) -> None:
    del digits
    node = cluster.add_node("alone")
    await logged(node, "node-started")
    node.interrupt(signal.SIGTERM)
    assert await ended(node, within_s=LEAVE_S / 2) == 0


async def test_a_node_that_is_told_twice_ends_at_once(cluster: Cluster, digits: Digits) -> None:
    """The only node of a pipeline cannot leave: it stays for a while, unless it is told again."""
    cluster.add_controller(digits.bundle, expect=1)
    node = cluster.add_node("a")
    await cluster.running_on("a")
    node.interrupt(signal.SIGTERM)
    await logged(node, "leaving")
    node.interrupt(signal.SIGTERM)
    assert await ended(node, within_s=LEAVE_S / 2) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)


async def test_the_only_node_answers_until_its_time_is_up(cluster: Cluster, digits: Digits) -> None:
    cluster.add_controller(digits.bundle, expect=1)
    node = cluster.add_node("a")
    await cluster.running_on("a")
    async with streaming(cluster.url, digits) as stream:
        node.interrupt(signal.SIGTERM)
        await logged(node, "leaving")
        later = await stream.answers(100)
        assert {frozenset(nodes_of(result)) for result in later} == {frozenset({"a"})}
        # Somebody else comes before its time is up: it hands over, and goes.
        cluster.add_node("b")
        assert await ended(node) == 0
        assert nodes_of((await stream.answers(50))[-1]) == {"b"}


async def test_a_node_without_a_controller_leaves_when_its_time_is_up(cluster: Cluster, digits: Digits) -> None:
    controller = cluster.add_controller(digits.bundle, expect=2)
    for name in ("a", "b"):
        cluster.add_node(name)
    await prepared(cluster, "a", "b")
    controller.process.kill()
    controller.wait()
    cluster.nodes["a"].interrupt(signal.SIGTERM)
    assert await ended(cluster.nodes["a"]) == 0
