"""A running pipeline of K stages, and what can be measured on it: a stream, single frames, idling."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import understudy
from bench.harness import agrees, children, cpu_of, difference, gaps_us, machine_busy_s, outside_us, rss_bytes
from bench.subjects import Subject
from broker.control import FlowSettings
from stages.flow import Flow, choose_flow
from understudy.client import Client
from understudy.config import UpConfig
from understudy.local import LocalCluster
from understudy.settings import Settings

WARM_UP_S = 0.4
POLL_S = 0.1
CLIENT = "client"
SERVER = "nats-server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """One slice of a stream. `cpu_s`: by process, the client's among them; `others_s`: of processes not ours."""

    frames: int
    elapsed_s: float
    cpu_s: Mapping[str, float]
    others_s: float
    wrong: int

    @property
    def frames_per_s(self) -> float:
        return self.frames / self.elapsed_s

    @property
    def cpu_s_per_frame(self) -> float:
        return sum(self.cpu_s.values()) / self.frames


@dataclass(slots=True, kw_only=True)
class Singles:
    """Of frames that were sent one at a time, in microseconds: each list has one value per frame."""

    round_trip_us: list[float] = field(default_factory=list)
    in_stages_us: list[float] = field(default_factory=list)
    outside_us: list[float] = field(default_factory=list)
    gap_us: dict[int, list[float]] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Pipeline:
    """A pipeline that runs and a client of it. Made by `start`."""

    subject: Subject
    stages: int
    cuts: tuple[int, ...]
    flow: Flow
    client: Client
    pids: Mapping[str, int]
    head: str
    scores: Sequence[Sequence[float]]
    next_frame: int = 0

    @property
    def nodes(self) -> dict[str, int]:
        return {role: pid for role, pid in self.pids.items() if role.startswith("node")}

    def rss_bytes(self) -> dict[str, int]:
        return {name: rss_bytes(pid) for name, pid in self.nodes.items()}

    async def stream(self, seconds: float) -> Streamed:
        """Keep the pipeline full for `seconds`. Counted from the first result after the warm-up to the first one after
        the end: both are moments at which a batch comes out, so no part of a batch is counted."""
        sent: list[int] = []
        ended = False

        def frames() -> Iterator[bytes]:
            while not ended:
                yield self._take(sent)

        wrong = count = answered = 0
        elapsed_s = busy_s = 0.0
        started_s: float | None = None
        before: dict[str, float] = {}
        used: dict[str, float] = {}
        warm_s = time.perf_counter() + WARM_UP_S
        async for result in self.client.stream(frames()):
            now = time.perf_counter()
            wrong += not agrees(result.class_index, self.scores[sent[answered]])
            answered += 1
            if ended:
                continue
            if started_s is None:
                if now >= warm_s:
                    before, busy_s, started_s = cpu_of(self.pids), machine_busy_s(), time.perf_counter()
                continue
            count += 1
            if now >= started_s + seconds:
                elapsed_s, ended = now - started_s, True
                used = difference(cpu_of(self.pids), before)
                busy_s = machine_busy_s() - busy_s
        others_s = max(0.0, busy_s - sum(used.values()))
        return Streamed(frames=count, elapsed_s=elapsed_s, cpu_s=used, others_s=others_s, wrong=wrong)

    async def single(self) -> None:
        """One frame, until it is answered."""
        await self.client.infer(self._take([]))

    async def singles(self, seconds: float) -> Singles:
        """One frame at a time, the next when the last is answered."""
        measured = Singles()
        deadline_s = time.perf_counter() + seconds
        await self.client.infer(self._take([]))
        while time.perf_counter() < deadline_s or not measured.round_trip_us:
            frame = self._take([])
            started_s = time.perf_counter()
            result = await self.client.infer(frame)
            measured.round_trip_us.append((time.perf_counter() - started_s) * 1e6)
            measured.in_stages_us.append(sum(hop.ms for hop in result.path) * 1e3)
            measured.outside_us.append(outside_us(result.latency_ms, result.path))
            for cut, gap in gaps_us(result.path).items():
                measured.gap_us.setdefault(cut, []).append(gap)
        return measured

    def _take(self, sent: list[int]) -> bytes:
        index = self.next_frame
        self.next_frame = (index + 1) % len(self.subject.frames)
        sent.append(index)
        return self.subject.frames[index]


def client_window(flow: Flow, stages: int) -> int:
    """Frames that the client keeps under way: what the pipeline takes and two batches that wait in the head, but of
    large frames no more than keep every stage busy, since all of them must come back before a slice ends."""
    return min(flow.window + 2 * flow.batch, max(4 * stages, 16 * flow.batch))


async def start(
    subject: Subject,
    stages: int,
    scores: Sequence[Sequence[float]],
    *,
    settings: Settings,
    stack: AsyncExitStack,
    prepared_s: float = 0.0,
) -> Pipeline:
    """Start a pipeline of K stages on K nodes of one thread each, with a broker and a controller of its own.

    Args:
        prepared_s: wait up to so long until what to do about failures is prepared too, and nothing is loaded any more.

    Raises:
        UnderstudyError: it does not start; says why.
    """
    before = children(os.getpid())
    name = f"bench-{subject.name}-{stages}"
    config = UpConfig.model_validate({"nodes": stages, "stages": stages, "pipeline": name, **subject.served})
    cluster = await stack.enter_async_context(LocalCluster(config, pipeline=name, settings=settings))
    pids = {child.name: child.process.pid for child in cluster.children.values()}
    # The embedded server is the only other process that the cluster has started.
    (server,) = children(os.getpid()) - before - set(pids.values())
    document = await cluster.status() or {}
    prepared_by_s = time.perf_counter() + prepared_s
    while not document.get("prepared") and time.perf_counter() < prepared_by_s:
        await asyncio.sleep(POLL_S)
        document = await cluster.status() or {}
    cuts = tuple(sorted(first for node in document["nodes"] for first, _ in node["stages"]))
    flow = choose_flow(FlowSettings(window=config.window, max_batch=config.max_batch), subject.spec, cuts)
    client = await stack.enter_async_context(
        understudy.connect(cluster.broker_url, name, timeout_s=60.0, window=client_window(flow, stages))
    )
    return Pipeline(
        subject=subject,
        stages=stages,
        cuts=cuts,
        flow=flow,
        client=client,
        head=next(node["name"] for node in document["nodes"] if node["head"]),
        pids={CLIENT: os.getpid(), SERVER: server, **pids},
        scores=scores,
    )
