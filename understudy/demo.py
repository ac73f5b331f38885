"""The demo's work: stream held-out digits through a pipeline, kill nodes in mid-stream, compare the answers with the
labels, show it live."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from broker import subjects
from broker.connect import connect as connect_broker
from broker.port import Message
from understudy.client import Client, FrameRejectedError, FrameTimeoutError, connect
from understudy.data import digits_frames
from understudy.local import LocalCluster
from understudy.objectives import RecoveryConfig
from understudy.timeline import Outage, Timeline

CLIENTS = 64
"""Frames under way, at most."""

FIRST_KILL, SECOND_KILL = 0.25, 0.65
"""When the nodes are killed, as shares of the time."""

READY_S, HEAL_S = 10.0, 15.0
"""How long to wait until spares are loaded before a kill, and for the full plan after it."""

AFTER_S = 1.0
"""How long to go on after the last heal."""

LOOK_S = 0.02
"""How often to look whether what is waited for has come."""

FIRST_WISHES = RecoveryConfig(techniques=("standby", "repartition"))
SECOND_WISHES = RecoveryConfig(techniques=("stand-in", "skip", "exit", "repartition"))
"""Where the bundle has parts for both: no answer but by the network's own stages; then no second copy of a stage, as on
machines that have no memory for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What happens in the demo.

    Attributes:
        seconds: how long to stream, at least.
        rate: frames per second; 0: as many as there are answers.
        kills: nodes to kill, 0 to 2.
        lesser: whether the bundle has parts that could answer for the second one without a standby.
    """

    seconds: float
    rate: float
    kills: int
    lesser: bool


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What the demo measured. Latencies are from the head's receipt of a frame to its result."""

    published: int = 0
    errors: int = 0
    twice: int = 0
    elapsed_s: float = 0.0
    expected_accuracy: float | None = None
    stages: list[str] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def answered(self) -> int:
        return len(self.timeline.answers)

    @property
    def lost(self) -> int:
        return self.published - self.answered - self.errors

    def document(self) -> dict[str, Any]:
        """The summary as JSON values."""
        answers = self.timeline.answers
        median, p95 = _percentiles([answer.latency_ms for answer in answers])
        return {
            "published": self.published,
            "answered": self.answered,
            "lost": self.lost,
            "errors": self.errors,
            "answered_twice": self.twice,
            "accuracy": self.timeline.right / self.answered if answers else None,
            "expected_accuracy": self.expected_accuracy,
            "frames_per_s": self.answered / self.elapsed_s if self.elapsed_s else None,
            "latency_ms": {"median": median, "p95": p95},
            "stages": self.stages,
            "failures": [outage.document() for outage in self.timeline.outages],
        }


class Demo:
    """One run of the script on a cluster. `outcome` and `now` may be read while it runs."""

    def __init__(
        self, cluster: LocalCluster, script: Script, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._cluster = cluster
        self._script = script
        self._clock = clock
        self._began_s = 0.0
        self._over = False
        self._ids: Counter[str] = Counter()
        self.outcome = Outcome()
        self.now = ""
        """What happens at the moment that no outage tells."""

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._began_s

    async def run(self) -> Outcome:
        """Stream, kill, and return when every frame is answered or given up."""
        document = await self._cluster.status() or {"nodes": []}
        self.outcome.stages = stage_lines(document)
        broker = await connect_broker(self._cluster.broker_url, name="understudy-demo")
        try:
            await broker.subscribe(subjects.results_out(self._cluster.pipeline), self._count)
            async with connect(self._cluster.broker_url, self._cluster.pipeline) as client:
                self._began_s = self._clock()
                await self._play(client)
            self.outcome.elapsed_s = self.elapsed_s
            await self._ask_controller()
        finally:
            await broker.close()
        self.outcome.twice = sum(1 for count in self._ids.values() if count > 1)
        return self.outcome

    async def _play(self, client: Client) -> None:
        frames, labels = digits_frames()
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._publish(client, frames, labels), name=f"demo-client-{number}")
            try:
                await self._direct()
            finally:
                self._over = True

    async def _publish(self, client: Client, frames: list[bytes], labels: list[int]) -> None:
        """One of the clients: its next frame is published when the one before is answered, and when it is due."""
        outcome = self.outcome
        while not self._over:
            number = outcome.published
            outcome.published += 1
            if self._script.rate:
                # Also when late: the others shall have their turn.
                await asyncio.sleep(max(0.0, number / self._script.rate - self.elapsed_s))
            index = number % len(frames)
            try:
                result = await client.infer(frames[index], frame_id=f"demo-{number}")
            except FrameRejectedError:
                outcome.errors += 1
                continue
            except FrameTimeoutError:
                continue  # it counts as lost
            outcome.timeline.answered(self.elapsed_s, result, labels[index])
            if result.technique == "none":
                outcome.expected_accuracy = result.expected_accuracy

    async def _count(self, message: Message) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            self._ids[json.loads(bytes(message.data))["id"]] += 1

    # ---- what happens ------------------------------------------------------------------------------------------

    async def _direct(self) -> None:
        script = self._script
        for number, share in zip(range(script.kills), (FIRST_KILL, SECOND_KILL), strict=False):
            if number and script.lesser:
                await asyncio.sleep(AFTER_S)
                await self._forbid_standbys()
            self.now = "spares are being loaded"
            await self._until_prepared(READY_S)
            self.now = ""
            await asyncio.sleep(max(0.0, share * script.seconds - self.elapsed_s))
            await self._fail()
        await asyncio.sleep(max(AFTER_S if script.kills else 0.0, script.seconds - self.elapsed_s))

    async def _fail(self) -> None:
        """Kill a node, and wait until it is healed."""
        outage = await self._kill()
        if outage is not None:
            await self._until(lambda: outage.healed_s is not None, HEAL_S)

    async def _kill(self) -> Outage | None:
        document = await self._cluster.status()
        node = victim(document) if document is not None else None
        if node is None or node not in self._cluster.children:
            return None
        os.kill(self._cluster.children[node].process.pid, signal.SIGKILL)
        return self.outcome.timeline.killed(self.elapsed_s, node)

    async def _forbid_standbys(self) -> None:
        self.now = "a new controller begins, which may use no standby"
        self.outcome.timeline.marks.append((self.elapsed_s, "new controller, standbys forbidden"))
        before = self.outcome.timeline.epoch
        await self._ask_controller()  # its journal ends with it
        await self._cluster.replace_controller(SECOND_WISHES)
        await self._until(lambda: self.outcome.timeline.epoch > before, READY_S)

    async def _until(self, wanted: Callable[[], bool], within_s: float) -> None:
        """Returns as well when the time is up: the demo goes on with what there is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not wanted():  # noqa: ASYNC110 - what is wanted is seen in many places
                    await asyncio.sleep(LOOK_S)

    async def _until_prepared(self, within_s: float) -> None:
        """The controller has decided about the next failure, with every spare loaded; or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not (await self._cluster.status() or {}).get("prepared"):  # noqa: ASYNC110 - it is asked for
                    await asyncio.sleep(LOOK_S)

    async def _ask_controller(self) -> None:
        """What the controller noted of each outage."""
        document = await self._cluster.status() or {}
        for outage in self.outcome.timeline.outages:
            for record in document.get("recoveries", ()):
                if record["kind"] == "failure" and outage.node in record["nodes"]:
                    outage.controller = record


def victim(document: Mapping[str, Any]) -> str | None:
    """The node to kill: in the middle of the pipeline, and not the head's. None: there is none to spare."""
    working = [node for node in document["nodes"] if node["alive"] and node["stages"]]
    working.sort(key=lambda node: node["stages"][0][0])
    candidates = [node["name"] for node in working if not node["head"]]
    return candidates[(len(candidates) - 1) // 2] if candidates else None


def stage_lines(document: Mapping[str, Any]) -> list[str]:
    """`node1: blocks 0-3` of each stage, in their order, and the codec of what comes to it."""
    stages = [(first, end, node["name"]) for node in document["nodes"] for first, end in node["stages"]]
    codecs = {hop["cut"]: f", by {hop['codec']}" for hop in document.get("codecs", ())}
    return [f"{name}: blocks {first}-{end - 1}{codecs.get(first, '')}" for first, end, name in sorted(stages)]


def _percentiles(values: Sequence[float]) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return (values[0], values[0]) if values else (None, None)
    return statistics.median(values), statistics.quantiles(values, n=20)[-1]
