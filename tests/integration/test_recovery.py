"""Nodes of a running pipeline are killed and stopped; somebody with plain nats-py watches what comes out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from broker import subjects
from broker.connect import connect
from tests.integration.conftest import Digits
from tests.integration.harness import Shell, Up, eventually
from tests.integration.stranger import Stranger, stranger
from tests.integration.test_roles import hosts
from understudy.discovery import statuses

SOON_S = 20.0
"""Everything that must come about comes about much sooner; this is when a test gives up."""

WINDOW = 16
PATIENCE_S = 5.0
"""As the client library's."""

DEGRADED = {"standby", "stand-in", "skip", "exit"}


@dataclass(slots=True)
class Stream:
    """Digits that are published one after the other, with at most `WINDOW` of them not answered. Where nothing comes
    back for `PATIENCE_S`, what is not answered is published again under its id, as the protocol says; `again` counts
    that."""

    own: Stranger
    digits: Digits
    labels: dict[str, int] = field(default_factory=dict)
    frames: dict[str, bytes] = field(default_factory=dict)
    again: int = 0

    async def publish_for_ever(self) -> None:
        while True:
            await self._room()
            number = len(self.labels)
            frame_id = f"frame-{number}"
            self.labels[frame_id] = self.digits.labels[number % 400]
            self.frames[frame_id] = self.digits.frames[number % 400]
            await self.own.publish(self.frames[frame_id], frame_id)

    async def finish(self) -> None:
        """Wait until all that was published is answered."""
        while len(self.own.results) < len(self.labels):
            await self._room(window=1)

    async def _room(self, window: int = WINDOW) -> None:
        while True:
            before = len(self.own.results)
            try:
                async with asyncio.timeout(PATIENCE_S), self.own._news:
                    await self.own._news.wait_for(lambda: len(self.labels) - len(self.own.results) < window)
                    return
            except TimeoutError:
                if len(self.own.results) == before:
                    await self._publish_again()

    async def _publish_again(self) -> None:
        answered = {result["id"] for result in self.own.results}
        for frame_id in self.frames.keys() - answered:
            self.again += 1
            await self.own.publish(self.frames[frame_id], frame_id)

    async def answers(self, more: int) -> list[dict[str, Any]]:
        """Wait for so many more results, and return them."""
        before = await self._seen()
        await eventually(self._seen, lambda seen: seen >= before + more, within_s=SOON_S, what=f"{more} more results")
        return self.own.results[before:]

    async def healthy_after(self, epoch: int, *, through: str = "", in_a_row: int = 1) -> dict[str, Any]:
        """Wait for a result of a later epoch that no recovery had a part in, and this node had. For more than one in a
        row where that matters: what is on its way over a bridge may come after the first result of the new plan."""

        def healed(result: dict[str, Any]) -> bool:
            nodes = {hop["node"] for hop in result["path"]}
            return result["epoch"] > epoch and result["technique"] == "none" and (not through or through in nodes)

        async def newest() -> list[dict[str, Any]]:
            return self.own.results[-in_a_row:]

        found: list[dict[str, Any]] = await eventually(
            newest, lambda seen: all(map(healed, seen)), within_s=SOON_S, what=f"healing of epoch {epoch}"
        )
        return found[-1]

    def check(self, *, right: float = 0.97) -> None:
        """Each frame has one answer; nearly all are right, and what is not the whole network's is labelled."""
        results = self.own.results
        counted = Counter(result["id"] for result in results)
        assert {frame_id for frame_id in self.labels if frame_id not in counted} == set()
        assert {frame_id for frame_id, count in counted.items() if count != 1} == set()
        assert [result["error"] for result in results if result["error"]] == []
        correct = sum(result["class_index"] == self.labels[result["id"]] for result in results)
        assert correct / len(results) >= right
        for result in results:
            assert result["technique"] in DEGRADED | {"none"}
            assert (result["exit"] is not None) == (result["technique"] == "exit")
            assert result["expected_accuracy"] is None or 0 < result["expected_accuracy"] <= 1

    async def _seen(self) -> int:
        return len(self.own.results)


@dataclass(slots=True)
class Running:
    """A pipeline of its own, with a stream of digits through it."""

    up: Up
    stream: Stream
    observer: Any
    folder: Path

    async def status(self) -> dict[str, Any]:
        return (await statuses(self.observer, until="digits")).get("digits", {})

    async def on(self, *names: str) -> dict[str, Any]:
        """Wait until these nodes have the stages."""

        def runs(document: dict[str, Any]) -> bool:
            return document.get("state") == "running" and hosts(document) == set(names)

        document: dict[str, Any] = await eventually(
            self.status, runs, within_s=SOON_S, what=f"a pipeline on {', '.join(names)}"
        )
        return document

    async def ready_for_a_failure(self) -> dict[str, Any]:
        """Wait until the whole network runs on all nodes, all spares are loaded, and what to do about each failure is
        decided. On a busy machine a node may have been missed for a moment."""

        def is_ready(document: dict[str, Any]) -> bool:
            healthy = document.get("state") == "running" and document["technique"] == "none"
            return healthy and document["prepared"] and hosts(document) == set(self.order)

        document: dict[str, Any] = await eventually(
            self.status, is_ready, within_s=SOON_S, what="a pipeline that is ready for a failure"
        )
        return document

    @property
    def order(self) -> list[str]:
        """The nodes in the order of their stages, when the pipeline started."""
        placed = [(node["stages"][0], node["name"]) for node in self.up.document["nodes"] if node["stages"]]
        return [name for _, name in sorted(placed)]

    def signal(self, number: int, *names: str) -> None:
        pids = {node["name"]: node["pid"] for node in self.up.document["nodes"]}
        for name in names:
            os.kill(pids[name], number)


async def bridged_first(running: Running, victim: str, healthy: dict[str, Any]) -> None:
    """Before there was a new plan there was a way around the victim, and what was answered on it says so. The plan may
    be there before any frame came."""
    document = json.loads(bytes((await running.observer.request(subjects.journal("digits"), timeout_s=SOON_S)).data))
    failure = next(record for record in document["records"] if victim in record["nodes"] and record["bridge_epoch"])
    assert failure["technique"] in DEGRADED
    assert failure["bridge_epoch"] < healthy["epoch"]
    results = running.stream.own.results
    over = {result["technique"] for result in results if result["epoch"] == failure["bridge_epoch"]}
    assert over <= {failure["technique"]}


@asynccontextmanager
async def pipeline(
    shell: Shell, digits: Digits, nodes: int, *options: str, meet: Any = stranger
) -> AsyncIterator[Running]:
    """A pipeline that has answered, and is ready for a failure. At the end the stream is checked.

    `meet`: who publishes, `stranger` or another one of its kind."""
    with shell.up("--nodes", str(nodes), *options) as up:
        observer = await connect(up.url, name="observer")
        try:
            async with meet(up.url, "digits") as own:
                running = Running(up, Stream(own, digits), observer, shell.folder)
                publishing = asyncio.create_task(running.stream.publish_for_ever())
                try:
                    await running.stream.answers(100)
                    await running.ready_for_a_failure()
                    yield running
                    assert not publishing.done()
                finally:
                    publishing.cancel()
                    await asyncio.gather(publishing, return_exceptions=True)
                stream = running.stream
                async with asyncio.timeout(SOON_S):
                    await stream.finish()
                # What would be answered twice is, by now: a frame that was published later has come through.
                await own.answer(digits.frames[0], "the end")
                stream.labels["the end"] = digits.labels[0]
                stream.check()
        finally:
            await observer.close()


@pytest.mark.parametrize("position", [0, 1, 2, 3], ids=["the head", "its standby", "the third", "the last stage"])
async def test_a_killed_node_is_bridged_and_healed_and_each_frame_is_answered_once(
    shell: Shell, digits: Digits, position: int
) -> None:
    async with pipeline(shell, digits, 4) as running:
        victim = running.order[position]
        before = (await running.ready_for_a_failure())["epoch"]
        running.signal(signal.SIGKILL, victim)
        healthy = await running.stream.healthy_after(before, in_a_row=50)
        assert victim not in {hop["node"] for hop in healthy["path"]}
        await bridged_first(running, victim, healthy)
        assert running.stream.again == 0  # whoever publishes once is answered, too


@pytest.mark.parametrize("position", [0, 2], ids=["the head", "the third"])
async def test_a_stopped_node_is_bridged_and_when_it_goes_on_it_answers_nothing_twice_and_is_taken_in(
    shell: Shell, digits: Digits, position: int
) -> None:
    async with pipeline(shell, digits, 4) as running:
        victim = running.order[position]
        before = (await running.ready_for_a_failure())["epoch"]
        running.signal(signal.SIGSTOP, victim)
        try:
            await running.stream.healthy_after(before)
            await running.stream.answers(50)
        finally:
            running.signal(signal.SIGCONT, victim)
        await running.stream.healthy_after(before, through=victim)
        await running.stream.answers(50)
        assert running.stream.again == 0


async def test_a_node_that_hangs_for_a_moment_only_does_no_harm(shell: Shell, digits: Digits) -> None:
    async with pipeline(shell, digits, 3) as running:
        for victim in running.order:
            running.signal(signal.SIGSTOP, victim)
            before = len(running.stream.own.results)
            await asyncio.sleep(0.15)  # long enough to be missed, and short enough to be back before the heal
            running.signal(signal.SIGCONT, victim)
            await running.stream.answers(50)
            assert len(running.stream.own.results) > before
        await running.on(*running.order)


async def test_two_of_five_nodes_are_killed_at_once(shell: Shell, digits: Digits) -> None:
    async with pipeline(shell, digits, 5) as running:
        order = running.order
        before = (await running.ready_for_a_failure())["epoch"]
        running.signal(signal.SIGKILL, order[0], order[2])
        await running.stream.healthy_after(before)
        await running.on(*(name for name in order if name not in (order[0], order[2])))
        await running.stream.answers(50)


async def test_all_nodes_but_one_are_killed_at_once(shell: Shell, digits: Digits) -> None:
    async with pipeline(shell, digits, 4) as running:
        *victims, survivor = running.order
        await running.ready_for_a_failure()
        running.signal(signal.SIGKILL, *victims)
        await running.on(survivor)
        await running.stream.answers(50)
        assert {hop["node"] for hop in running.stream.own.results[-1]["path"]} == {survivor}


async def test_nodes_are_killed_one_after_the_other(shell: Shell, digits: Digits) -> None:
    async with pipeline(shell, digits, 5) as running:
        *victims, survivor = running.order
        await running.ready_for_a_failure()
        for victim in victims:
            running.signal(signal.SIGKILL, victim)
            await running.stream.answers(5)
        await running.on(survivor)
        await running.stream.answers(50)
