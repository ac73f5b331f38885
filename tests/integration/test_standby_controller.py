"""A second controller that stands by takes over from the first, and frames notice nothing."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from tests.integration.conftest import Digits
from tests.integration.flow import nodes_of, prepared, right, streaming
from tests.integration.harness import Running, Shell, eventually
from tests.integration.test_roles import Cluster

TAKES_OVER_S = 20.0


async def logged(running: Running, event: str) -> None:
    async def look() -> str:
        return running.log.read_text()

    await eventually(look, lambda text: event in text, within_s=TAKES_OVER_S, what=f"{event} in the log")


async def two_controllers(cluster: Cluster, digits: Digits, *nodes: str) -> tuple[Running, Running]:
    """The first serves these nodes, the second stands by."""
    first = cluster.add_controller(digits.bundle, expect=len(nodes))
    for name in nodes:
        cluster.add_node(name)
    await prepared(cluster, *nodes)
    second = cluster.add_controller(digits.bundle, "--standby", expect=len(nodes))
    await logged(second, "controller-stands-by")
    return first, second


async def taken_over(cluster: Cluster, epoch: int) -> dict[str, Any]:
    def is_new(document: dict[str, Any]) -> bool:
        return document.get("state") == "running" and document["epoch"] > epoch and document["prepared"]

    document: dict[str, Any] = await eventually(
        cluster.look, is_new, within_s=TAKES_OVER_S, what="a plan of the second controller"
    )
    return document


async def test_the_second_controller_takes_over_from_one_that_was_killed_and_heals_what_fails_then(
    cluster: Cluster, digits: Digits
) -> None:
    first, second = await two_controllers(cluster, digits, "a", "b", "c")
    before = (await cluster.status())["epoch"]
    async with streaming(cluster.url, digits) as stream:
        first.process.kill()
        first.wait()
        await stream.answers(50)
        await logged(second, "controller-has-the-lease")
        document = await taken_over(cluster, before)
        last = max((node for node in document["nodes"] if node["stages"]), key=lambda node: node["stages"][0])["name"]
        cluster.nodes[last].process.kill()
        healthy = await stream.healthy_after(document["epoch"])
        assert last not in nodes_of(healthy)
        await stream.answers(50)
    assert right(stream, stream.own.results) >= 0.97


async def test_a_controller_that_is_stopped_hands_over_at_once(cluster: Cluster, digits: Digits) -> None:
    first, second = await two_controllers(cluster, digits, "a", "b")
    before = (await cluster.status())["epoch"]
    async with streaming(cluster.url, digits) as stream:
        first.interrupt()
        assert await asyncio.to_thread(first.wait) == 0
        await logged(second, "controller-has-the-lease")
        await taken_over(cluster, before)
        await stream.answers(50)
    assert {result["technique"] for result in stream.own.results} == {"none"}


async def test_a_controller_that_hung_stands_by_when_it_goes_on_and_may_take_over_again(
    cluster: Cluster, digits: Digits
) -> None:
    first, second = await two_controllers(cluster, digits, "a", "b")
    before = (await cluster.status())["epoch"]
    async with streaming(cluster.url, digits) as stream:
        first.interrupt(signal.SIGSTOP)
        try:
            await logged(second, "controller-has-the-lease")
            document = await taken_over(cluster, before)
        finally:
            first.interrupt(signal.SIGCONT)
        await logged(first, "lease-lost")
        await logged(first, "controller-stands-by")
        await stream.answers(50)
        second.process.kill()
        second.wait()
        document = await taken_over(cluster, document["epoch"])
        assert {node["name"] for node in document["nodes"] if node["alive"]} == {"a", "b"}
        cluster.nodes["b"].process.kill()
        assert nodes_of(await stream.healthy_after(document["epoch"])) == {"a"}


async def test_a_second_controller_that_was_not_told_to_stand_by_is_refused(
    cluster: Cluster, digits: Digits, shell: Shell
) -> None:
    cluster.add_controller(digits.bundle, expect=1)
    cluster.add_node("a")
    before = await cluster.running_on("a")
    arguments = ("controller", "--bundle", str(digits.bundle), "--broker", cluster.url)
    refused = await asyncio.to_thread(shell.run, *arguments)
    assert refused.code == 2, refused.err
    assert "has a controller at" in refused.err
    assert "--standby" in refused.err
    assert "Traceback" not in refused.err
    assert (await cluster.status())["epoch"] == before["epoch"]


async def test_to_stand_by_at_a_broker_without_jetstream_is_refused(
    digits: Digits, shell: Shell, without_jetstream: str
) -> None:
    arguments = ("controller", "--bundle", str(digits.bundle), "--broker", without_jetstream, "--standby")
    refused = await asyncio.to_thread(shell.run, *arguments)
    assert refused.code == 2, refused.err
    assert "has no JetStream" in refused.err
    assert "Traceback" not in refused.err
