"""What the delivery modes are compared with: a chain of processes on core NATS, and a publisher that counts results.

Nobody holds a frame, knows it when it comes again, confirms, or sends anything a second time; there is no head, no
standby, no controller, no heartbeat.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from bench.delivery.stage import INPUT, OUTPUT
from bench.harness import agrees, cpu_of, difference, machine_busy_s
from bench.pipeline import CLIENT, SERVER, WARM_UP_S, Streamed
from bench.subjects import Subject
from broker.activation import Activation, FrameTag, decode, encode_activation
from broker.connect import connect
from broker.headers import ID_HEADER
from broker.port import Broker, Message
from broker.process import spawn, terminate
from broker.server import NatsServer
from broker.wire import plain
from stages.graph import ModelGraph

START_S = 30.0
ANSWER_S = 30.0
GRACE_S = 2.0


class ChainError(Exception):
    """The bare chain does not run."""


@dataclass(slots=True)
class _Slice:
    """What is counted while a slice is measured; `ids`: frames under way."""

    seconds: float
    warm_s: float
    ids: set[int] = field(default_factory=set)
    count: int = 0
    wrong: int = 0
    started_s: float | None = None
    elapsed_s: float = 0.0
    before: dict[str, float] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    busy_s: float = 0.0

    @property
    def ended(self) -> bool:
        return self.elapsed_s > 0


class Bare:
    """A chain that runs, and its publisher, which keeps `window` frames under way. Made by `start`.

    Args:
        edges: frames go in as the pipeline's clients publish them, and a JSON result comes out for each. Otherwise
            tensors go in and come out, as between stages: the least that there is to do.
    """

    def __init__(
        self,
        subject: Subject,
        scores: Sequence[Sequence[float]],
        broker: Broker,
        *,
        window: int,
        pids: dict[str, int],
        edges: bool,
    ) -> None:
        self.pids = pids
        self.head = next(name for name in pids if name.startswith("node"))
        self._subject = subject
        self._scores = scores
        self._broker = broker
        self._window = window
        self._edges = edges
        self._numbers = itertools.count()
        self._wake = asyncio.Event()
        self._slice: _Slice | None = None

    @property
    def nodes(self) -> dict[str, int]:
        return {role: pid for role, pid in self.pids.items() if role.startswith("node")}

    async def listen(self) -> None:
        await self._broker.subscribe(OUTPUT, self._on_result if self._edges else self._on_tensors)

    async def stream(self, seconds: float) -> Streamed:
        """As `Pipeline.stream`.

        Raises:
            ChainError: nothing comes back.
        """
        current = self._slice = _Slice(seconds, time.perf_counter() + WARM_UP_S)
        while not current.ended or current.ids:
            while not current.ended and len(current.ids) < self._window:
                await self._publish(current)
            await self._await(current)
        others_s = max(0.0, current.busy_s - sum(current.used.values()))
        return Streamed(
            frames=current.count,
            elapsed_s=current.elapsed_s,
            cpu_s=current.used,
            others_s=others_s,
            wrong=current.wrong,
        )

    async def single(self) -> None:
        """One frame, until it is answered."""
        current = self._slice = _Slice(0.0, math.inf)
        await self._publish(current)
        await self._await(current)

    async def _await(self, current: _Slice) -> None:
        """Until something comes back."""
        self._wake.clear()
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._wake.wait()
        except TimeoutError:
            raise ChainError(f"{len(current.ids)} frames are under way and nothing comes back") from None

    async def _publish(self, current: _Slice) -> None:
        number = next(self._numbers)
        current.ids.add(number)
        index = number % len(self._scores)
        if self._edges:
            headers = {ID_HEADER: str(number)}
            await self._broker.publish(INPUT, self._subject.frames[index], headers=headers)
            return
        frame = (FrameTag(str(number)),)
        single = Activation(epoch=1, cut=0, frames=frame, tensors=self._subject.inputs[index])
        await self._broker.publish(INPUT, encode_activation(single))

    async def _on_result(self, message: Message) -> None:
        document = json.loads(bytes(message.data))
        self._take(int(document["id"]), document["class_index"])
        self._look()

    async def _on_tensors(self, message: Message) -> None:
        outcome = decode(message.data)
        if not isinstance(outcome, Activation):
            return
        (scores,) = plain(outcome.tensors).values()
        for tag, best in zip(outcome.frames, scores.argmax(axis=1).tolist(), strict=True):
            self._take(int(tag.id), best)
        self._look()

    def _take(self, number: int, class_index: int) -> None:
        current = self._slice
        if current is None:
            return
        current.ids.remove(number)
        current.wrong += not agrees(class_index, self._scores[number % len(self._scores)])
        current.count += current.started_s is not None and not current.ended

    def _look(self) -> None:
        """Begin or end what is measured."""
        current = self._slice
        assert current is not None
        now = time.perf_counter()
        if current.started_s is None:
            if now >= current.warm_s:
                current.before, current.busy_s = cpu_of(self.pids), machine_busy_s()
                current.started_s = time.perf_counter()
        elif not current.ended and now >= current.started_s + current.seconds:
            current.elapsed_s = now - current.started_s
            current.used = difference(cpu_of(self.pids), current.before)
            current.busy_s = machine_busy_s() - current.busy_s
        self._wake.set()


async def start(
    subject: Subject,
    scores: Sequence[Sequence[float]],
    *,
    cuts: Sequence[int],
    batch: int,
    window: int,
    edges: bool,
    folder: Path,
    stack: AsyncExitStack,
) -> Bare:
    """Start a server and a process for every stage.

    Args:
        cuts: where the stages begin.
        batch: frames in one inference, at most.

    Raises:
        ChainError: a stage does not start.
    """
    server = await stack.enter_async_context(await NatsServer.start())
    graph = ModelGraph.load(subject.bundle.model_path)
    spec_path = folder / f"{subject.name}.json"
    spec_path.write_bytes(subject.spec.to_json())
    pids = {CLIENT: os.getpid(), SERVER: server.pid}
    for number, (first, end) in enumerate(pairwise((*cuts, subject.spec.blocks)), start=1):
        model_path = folder / f"{subject.name}-{first}-{end}.onnx"
        model_path.write_bytes(graph.submodel(first, end))
        options: list[str | Path | int] = ["--broker", server.operator_url, "--model", model_path, "--spec", spec_path]
        options += ["--first", first, "--end", end, "--batch", batch, *(["--edges"] if edges else [])]
        argv = [sys.executable, "-m", "bench.delivery.stage", *map(str, options)]
        process = await spawn(argv, stdout=asyncio.subprocess.PIPE)
        stack.push_async_callback(terminate, process, GRACE_S)
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            if await process.stdout.readline() != b"ready\n":
                raise ChainError(f"the stage of blocks [{first}, {end}) did not start; its stderr says why")
        pids[f"node{number}"] = process.pid
    broker = await connect(server.operator_url, name="bare-publisher")
    stack.push_async_callback(broker.close)
    bare = Bare(subject, scores, broker, window=window, pids=pids, edges=edges)
    await bare.listen()
    return bare
