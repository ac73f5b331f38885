"""Driver: a schedule of faults beside a stream of frames that a checker follows."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nats.errors import Error as NatsError

from bench.faults.checker import Checker, Pace
from bench.faults.cluster import PIPELINE, ChaosCluster, ChaosError
from bench.faults.depositor import Depositor
from bench.faults.faults import SkippedError
from bench.faults.leaks import Meter
from bench.faults.mqtt_checker import MqttChecker
from bench.faults.mqtt_line import LineError
from bench.faults.nats_checker import NatsChecker
from bench.faults.promise import PROMISES
from bench.faults.schedule import Planned
from bench.faults.tally import Tally
from understudy.data import digits_frames

FINISH_S = 60.0
HEALTHY_AGAIN_S = 45.0
AFTER_S = 1.0
INJECT_S = 5.0
"""Those that need the broker (strangers who connect) are skipped where it is away for longer."""

CAPACITY_S = 3.0

BURST, BACKLOG = 20, 10_000
"""Of frames for a pipeline that answers the newest: as from a camera, which does not wait."""

Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Done:
    """A fault that was made. Moments are of `time.monotonic`.

    Attributes:
        on: what it was done to.
        skipped: why it was not made.
        silence_s: the longest time without an answer while it lasted, and a second longer.
    """

    planned: Planned
    on: str = ""
    skipped: str = ""
    began_s: float = 0.0
    ended_s: float = 0.0
    silence_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run found.

    Attributes:
        stuck: why the pipeline was not healthy again in the end; empty: it was.
        ended: processes that ended by themselves, and were started again.
        crashes: of logs, what tells of errors which nobody expected.
        logs: where the logs are kept; None: they are not.
        rate_per_s: of the frames.
    """

    tally: Tally
    faults: list[Done]
    stuck: str = ""
    ended: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    logs: str = ""
    seconds: float = 0.0
    rate_per_s: float = 0.0
    meter: Meter | None = None

    @property
    def good(self) -> bool:
        return self.tally.kept and not self.stuck and not self.crashes


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a run shall do.

    Attributes:
        frames: to publish at least; it goes on until all faults are over.
        rate_per_s: 0: `load` times what the healthy pipeline can.
        replicas: of what is stored.
        broker, servers: one of `BROKERS`, and how many of it.
        sample_s: how often memory, threads and files of all processes are read; 0: never.
    """

    schedule: Sequence[Planned]
    frames: int
    rate_per_s: float = 0.0
    load: float = 0.8
    nodes: int = 4
    controllers: int = 2
    delivery: str = "at-least-once"
    replicas: int = 1
    broker: str = "nats"
    servers: int = 1
    sample_s: float = 0.0


async def run(order: Order, say: Say = lambda _: None) -> Outcome:
    """Start a cluster, make the faults of the schedule one after the other, and check what comes out.

    Raises:
        ChaosError, CheckerError: it was not healthy to begin with.
    """
    images, _ = digits_frames()
    small_store = any(planned.kind == "store-full" for planned in order.schedule)
    cluster = ChaosCluster(
        nodes=order.nodes,
        controllers=order.controllers,
        small_store=small_store,
        delivery=order.delivery,
        replicas=order.replicas,
        broker=order.broker,
        server_count=order.servers,
    )
    async with cluster:
        kind = _checker(order)
        promise = PROMISES[order.delivery]
        async with kind(cluster.url, pipeline=PIPELINE, images=images, promise=promise) as checker:
            rate = order.rate_per_s or order.load * await checker.capacity_per_s(seconds=CAPACITY_S)
            say(f"healthy; {rate:.0f} frames/s from now on")
            async with _metered(cluster, order.sample_s) as meter:
                outcome = await _under_load(cluster, checker, order, rate, say)
                outcome.meter = meter
            outcome.crashes, outcome.ended = cluster.crashes(), cluster.ended
            if not outcome.good:
                outcome.logs = str(cluster.keep_logs())
            return outcome


def _checker(order: Order) -> type[Checker]:
    if order.delivery == "durable":
        return Depositor
    return NatsChecker if order.broker == "nats" else MqttChecker


@contextlib.asynccontextmanager
async def _metered(cluster: ChaosCluster, every_s: float):  # type: ignore[no-untyped-def]
    if not every_s:
        yield None
        return
    meter = Meter(cluster.pids, cluster.tasks)
    task = asyncio.create_task(meter.run(every_s), name="chaos-meter")
    try:
        yield meter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _under_load(cluster: ChaosCluster, checker: Checker, order: Order, rate: float, say: Say) -> Outcome:
    began_s, over = time.monotonic(), asyncio.Event()
    outcome = Outcome(tally=checker.tally, faults=[], rate_per_s=rate)
    answered = PROMISES[order.delivery].answered
    pace = Pace(rate_per_s=rate) if answered else Pace(rate_per_s=rate, window=BACKLOG, burst=BURST)
    async with asyncio.TaskGroup() as group:
        publishing = group.create_task(checker.publish(order.frames, pace, until=over), name="chaos-publish")
        outcome.faults = await _make_all(cluster, order.schedule, began_s, say)
        try:
            await cluster.ready(within_s=HEALTHY_AGAIN_S)
        except ChaosError as error:
            outcome.stuck = str(error)
            say(f"stuck: {error}")
        over.set()
        try:
            async with asyncio.timeout(order.frames / rate + FINISH_S):
                await publishing
        except TimeoutError:
            # A window full of frames that are not answered: they are counted as lost.
            outcome.stuck = outcome.stuck or "no frame is answered any more, so none can be published"
    await checker.finish(within_s=FINISH_S)
    if not answered:
        await checker.newest()
        await checker.finish(within_s=FINISH_S)
    outcome.seconds = time.monotonic() - began_s
    for done in outcome.faults:
        if not done.skipped:
            done.silence_s = outcome.tally.silence_s(done.began_s, done.ended_s + AFTER_S)
    return outcome


async def _make_all(cluster: ChaosCluster, schedule: Sequence[Planned], began_s: float, say: Say) -> list[Done]:
    """Each in its time, several at once where the schedule has it so."""

    async def make(planned: Planned) -> Done:
        await asyncio.sleep(max(0.0, began_s + planned.at_s - time.monotonic()))
        done = Done(planned=planned)
        fault = planned.make()
        done.began_s = time.monotonic()
        try:
            async with asyncio.timeout(INJECT_S):
                done.on = await fault.inject(cluster)
        except (SkippedError, OSError, NatsError, LineError) as error:  # the server may be away just then
            done.skipped = str(error) or f"it could not be made within {INJECT_S:g} s"
            say(f"{time.monotonic() - began_s:7.2f} s  {planned}: skipped, {error}")
            return done
        say(f"{time.monotonic() - began_s:7.2f} s  {planned}: {done.on}")
        try:
            await asyncio.sleep(planned.lasts_s)
        finally:
            await fault.repair(cluster)
            done.ended_s = time.monotonic()
            say(f"{time.monotonic() - began_s:7.2f} s  #{planned.number} {planned.kind} is over")
        return done

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(make(planned), name=str(planned)) for planned in schedule]
    return [task.result() for task in tasks]
