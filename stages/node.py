"""A node: loads the stages that a controller assigns to it, switches epochs when told, and sends heartbeats.

What the frames do on it is `stages.dataplane`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from broker import control, subjects
from broker.activation import Activation, Failure
from broker.control import Activate, Assignment, Beat, Bye, LinkRate
from broker.errors import BrokerError, UnderstudyError, WireError
from broker.port import Broker, Message, Subscription
from stages.blobs import BlobExchange, BlobStore
from stages.dataplane import DataPlane
from stages.engine import resolve_providers
from stages.loader import Loader
from stages.probe import Probe
from stages.worker import WorkerCounters

log = structlog.get_logger("understudy.node")

NAMESAKE_WATCH_S = 3.0
"""For so long after its start a node looks for another of its name. Later, the other one is the newcomer."""

RSS_EVERY_S = 1.0
ALONE_S = 5.0
"""After so long without a controller a node says what may be wrong, once."""


class NodeNameTakenError(UnderstudyError):
    """A node of the same name is alive at this broker."""

    def __init__(self, other: Beat) -> None:
        super().__init__(
            f"a node named '{other.node}' is there already (pid {other.pid} on {other.host}): "
            f"give this one another --name"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """One node's own settings.

    Attributes:
        memory_bytes: what stages may use; 0: no limit.
        threads: of one inference.
        providers: onnxruntime execution providers, in order of preference.
        cache: folder for sub-models; None keeps them in memory.
        pipeline: work for this pipeline alone; empty: for the first that asks.
        heartbeat_s: interval of heartbeats.
    """

    name: str
    memory_bytes: int = 0
    threads: int = 1
    providers: tuple[str, ...] = ("CPU",)
    cache: Path | None = None
    pipeline: str = ""
    heartbeat_s: float = 0.1


class Node:
    """Use `run`; it ends when it is cancelled, and says goodbye."""

    def __init__(self, settings: NodeSettings, *, data: Broker, control_broker: Broker) -> None:
        subjects.check_name("node", settings.name)
        resolve_providers(settings.providers)
        self._settings = settings
        self._data = data
        self._control = control_broker
        self._incarnation = secrets.token_hex(8)
        self._pipeline = settings.pipeline
        self._counters = WorkerCounters()
        # One thread: inferences of one node run one after the other, each with the node's threads.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._intake_executor = ThreadPoolExecutor(1, thread_name_prefix="intake")
        self._exchange = BlobExchange(data, BlobStore(settings.cache))
        self._loader = Loader(
            node=settings.name,
            exchange=self._exchange,
            executor=self._executor,
            counters=self._counters,
            threads=settings.threads,
            providers=settings.providers,
        )
        self._plane = DataPlane(
            node=settings.name, broker=data, counters=self._counters, intake_executor=self._intake_executor
        )
        self._probe = Probe(settings.name, data=data, control_broker=control_broker, counters=self._counters)
        self._assigned_epoch = 0
        self._failure = ""
        self._loading: asyncio.Task[None] | None = None
        self._beat_now = asyncio.Event()
        self._started_s = time.monotonic()
        self._namesake: NodeNameTakenError | None = None
        self._alone = True
        self._host = socket.gethostname()
        self._rss = (0.0, 0)

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            NodeNameTakenError: a node of this name is there already.
        """
        name = self._settings.name
        subscriptions = (
            await self._control.subscribe(subjects.assign(name), self._on_assign),
            await self._control.subscribe(subjects.activate("*"), self._on_activate),
            await self._control.subscribe(subjects.beat(name), self._on_beat),
        )
        await self._probe.start()
        self._control.on_connection(lambda up: self._beat_now.set() if up else None)
        log.info("node-started", node=name, pid=os.getpid())
        try:
            while True:
                await self._beat()
                self._check_tasks()
                self._say_if_alone()
                self._beat_now.clear()
                try:
                    async with asyncio.timeout(self._settings.heartbeat_s):
                        await self._beat_now.wait()
                except TimeoutError:
                    pass
        finally:
            await self._shut_down(subscriptions)

    # ---- control -----------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        try:
            await self._control.publish(subjects.beat(self._settings.name), control.encode(self._make_beat()))
        except BrokerError as error:
            log.debug("beat-not-sent", reason=str(error))

    def _make_beat(self) -> Beat:
        head = self._plane.head
        return Beat(
            node=self._settings.name,
            incarnation=self._incarnation,
            pid=os.getpid(),
            host=self._host,
            pipeline=self._pipeline,
            assigned_epoch=self._assigned_epoch,
            ready_epoch=self._plane.newest_epoch,
            active_epoch=self._plane.active_epoch,
            stages=self._plane.stages,
            failure=self._failure,
            memory_bytes=self._settings.memory_bytes,
            threads=self._settings.threads,
            providers=self._settings.providers,
            is_head=head is not None,
            in_flight=head.in_flight if head else 0,
            waiting=head.waiting if head else 0,
            answered=head.frames_answered if head else 0,
            failed=head.frames_failed if head else 0,
            frames=self._counters.frames,
            dropped=self._counters.dropped,
            busy_s=self._counters.busy_s,
            rss_bytes=self._rss_bytes(),
            interval_s=self._settings.heartbeat_s,
            links=tuple(LinkRate(sender=n, bytes_per_s=round(r)) for n, r in self._plane.links.bytes_per_s().items()),
        )

    def _rss_bytes(self) -> int:
        """Memory of the process, read about once a second."""
        now = time.monotonic()
        if now - self._rss[0] > RSS_EVERY_S:
            self._rss = (now, _rss_bytes())
        return self._rss[1]

    async def _on_assign(self, message: Message) -> None:
        try:
            assignment = control.decode(message.data, Assignment)
        except WireError as error:
            log.warning("assignment-malformed", reason=error.reason)
            return
        if self._pipeline not in ("", assignment.pipeline):
            log.warning("assignment-refused", pipeline=assignment.pipeline, serves=self._pipeline)
            return
        if assignment.epoch <= self._assigned_epoch:
            return
        self._pipeline = assignment.pipeline
        self._assigned_epoch = assignment.epoch
        self._failure = ""
        if self._loading is not None:
            self._loading.cancel()
        self._loading = asyncio.create_task(self._load(assignment), name=f"load-epoch-{assignment.epoch}")
        self._beat_now.set()

    async def _load(self, assignment: Assignment) -> None:
        epoch = assignment.epoch

        async def deliver(message: Activation | Failure) -> None:
            await self._plane.deliver(epoch, message)

        try:
            deployment = await self._loader.load(assignment, deliver)
        except UnderstudyError as error:
            log.error("load-failed", epoch=epoch, reason=str(error))
            self._failure = str(error)[:1000]
            self._beat_now.set()
            return
        await self._plane.add(deployment)
        log.info("loaded", epoch=epoch, stages=[[w.first_block, w.end_block] for w in deployment.workers.values()])
        self._beat_now.set()

    async def _on_activate(self, message: Message) -> None:
        try:
            activate = control.decode(message.data, Activate)
        except WireError as error:
            log.warning("activation-malformed", reason=error.reason)
            return
        if activate.pipeline == self._pipeline and activate.epoch > self._plane.active_epoch:
            await self._plane.switch_to(activate.epoch)
            self._loader.forget([deployment.assignment for deployment in self._plane.deployments])
            log.info("switched", epoch=activate.epoch, head=self._plane.head is not None)
            self._beat_now.set()

    async def _on_beat(self, message: Message) -> None:
        """Our own heartbeats come back, and show if another process has our name: the later one gives way."""
        try:
            other = control.decode(message.data, Beat)
        except WireError:
            return  # the controllers log it
        if other.incarnation != self._incarnation and time.monotonic() - self._started_s < NAMESAKE_WATCH_S:
            self._namesake = NodeNameTakenError(other)
            self._beat_now.set()

    # ---- end ---------------------------------------------------------------------------------------------------

    def _check_tasks(self) -> None:
        """A task that ended with an error is a defect of ours: end the process loudly rather than hang quietly."""
        if self._namesake is not None:
            raise self._namesake
        if self._loading is not None and self._loading.done() and not self._loading.cancelled():
            self._loading.result()
        self._plane.check()
        self._probe.check()

    def _say_if_alone(self) -> None:
        if self._alone and not self._assigned_epoch and time.monotonic() - self._started_s > ALONE_S:
            self._alone = False
            hint = "is a controller on this broker, and is --control-broker the same as the controller's?"
            log.warning("no-controller-yet", node=self._settings.name, hint=hint)

    async def _shut_down(self, control_subscriptions: Sequence[Subscription]) -> None:
        try:
            bye = Bye(node=self._settings.name, incarnation=self._incarnation)
            await self._control.publish(subjects.BYE, control.encode(bye))
            if self._loading is not None:
                self._loading.cancel()
            await self._probe.stop()
            await self._plane.stop()
            for subscription in control_subscriptions:
                await subscription.unsubscribe()
            await self._exchange.close()
        except BrokerError as error:
            log.warning("goodbye-not-sent", reason=str(error))
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._intake_executor.shutdown(wait=False, cancel_futures=True)


def _rss_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
