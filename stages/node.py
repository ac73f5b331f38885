"""A node: loads the stages that a controller assigns to it, switches epochs when told, and sends heartbeats.

What the frames do on it is `stages.dataplane`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from broker import control, subjects
from broker.activation import HEADER_RESERVE_BYTES
from broker.control import Beat, Bye, Confirm, Confirmed, LinkRate
from broker.errors import BrokerClosedError, BrokerError, NoRespondersError, UnderstudyError, WireError
from broker.port import Broker, Message, Subscription
from stages.blobs import BlobExchange, BlobStore
from stages.dataplane import DataPlane
from stages.duties import Duties
from stages.engine import resolve_providers
from stages.loader import Loader
from stages.probe import Probe
from stages.pulse import PulseTask
from stages.worker import WorkerCounters

log = structlog.get_logger("understudy.node")

NAMESAKE_WATCH_S = 3.0
"""For so long after its start a node looks for another of its name. Later, the other one is the newcomer."""

USAGE_EVERY_S = 1.0
CONFIRM_S = 1.0
CONFIRM_ATTEMPTS = 3
"""How long a head that was paused waits for the word of a controller that listens and does not answer, and how often
it asks."""

LEAVE_S = 8.0
"""How long a node that wants to stop waits for the pipeline to go on without it."""

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
        incarnation: tells this process from others of the name before and after it: 16 hexadecimal digits.
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
    incarnation: str = field(default_factory=lambda: secrets.token_hex(8))


class Node:
    """Use `run`; it ends when it is cancelled, and says goodbye."""

    def __init__(self, settings: NodeSettings, *, data: Broker, control_broker: Broker) -> None:
        subjects.check_name("node", settings.name)
        resolve_providers(settings.providers)
        self._settings = settings
        self._data = data
        self._control = control_broker
        self._incarnation = settings.incarnation
        self._counters = WorkerCounters()
        # One thread: inferences of one node run one after the other, each with the node's threads.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._intake_executor = ThreadPoolExecutor(1, thread_name_prefix="intake")
        self._exchange = BlobExchange(data, BlobStore(settings.cache), self._counters.malformed)
        loader = Loader(
            node=settings.name,
            exchange=self._exchange,
            executor=self._executor,
            counters=self._counters,
            threads=settings.threads,
            providers=settings.providers,
            message_bytes=lambda: data.max_payload_bytes - HEADER_RESERVE_BYTES,
        )
        self._plane = DataPlane(
            node=settings.name,
            broker=data,
            counters=self._counters,
            intake_executor=self._intake_executor,
            confirm=self._confirm_head,
        )
        self._probe = Probe(settings.name, data=data, control_broker=control_broker, counters=self._counters)
        self._name = settings.name
        self._pulse = PulseTask(
            control_broker, node=settings.name, incarnation=settings.incarnation, busy=lambda: self._plane.busy
        )
        self._beat_now = asyncio.Event()
        self._duties = Duties(
            node=settings.name,
            pipeline=settings.pipeline,
            broker=control_broker,
            loader=loader,
            plane=self._plane,
            on_news=self._beat_now.set,
            malformed=self._counters.malformed,
        )
        self._leaving = False
        self._leave_by_s = 0.0
        self._started_s = time.monotonic()
        self._namesake: NodeNameTakenError | None = None
        self._alone = True
        self._host = socket.gethostname()
        self._usage = (0.0, 0, 0)

    async def run(self) -> None:
        """Serve until cancelled, or until `leave` has taken effect.

        Raises:
            NodeNameTakenError: a node of this name is there already.
        """
        name = self._settings.name
        own_beats = await self._control.subscribe(subjects.beat(name), self._on_beat)
        await self._duties.start()
        await self._probe.start()
        self._plane.on_work = self._pulse.hurry
        self._plane.lead.on_news = self._beat_now.set
        self._pulse.start()
        self._control.on_connection(lambda up: self._beat_now.set() if up else None)
        log.info("node-started", node=name, pid=os.getpid())
        try:
            while True:
                self._beat_now.clear()
                await self._beat()
                await self._check_tasks()
                if self._may_leave():
                    return
                self._say_if_alone()
                try:
                    async with asyncio.timeout(self._settings.heartbeat_s):
                        await self._beat_now.wait()
                except TimeoutError:
                    pass
        finally:
            await self._shut_down(own_beats)

    # ---- control -----------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        try:
            await self._control.publish(subjects.beat(self._settings.name), control.encode(self._make_beat()))
        except BrokerError as error:
            log.debug("beat-not-sent", reason=str(error))

    def _make_beat(self) -> Beat:
        head, duties = self._plane.head, self._duties
        counters = self._plane.lead.counters
        rss_bytes, tasks = self._used()
        return Beat(
            node=self._settings.name,
            incarnation=self._incarnation,
            pid=os.getpid(),
            host=self._host,
            pipeline=duties.pipeline,
            assigned_epoch=duties.assigned_epoch,
            ready_epoch=self._plane.newest_epoch,
            active_epoch=self._plane.active_epoch,
            stages=self._plane.stages,
            failure=duties.failure,
            controller=duties.controller,
            spares=tuple(sorted(duties.spares)),
            spares_epoch=duties.spares_epoch,
            memory_bytes=self._settings.memory_bytes,
            threads=self._settings.threads,
            providers=self._settings.providers,
            is_head=self._plane.lead.leads,
            in_flight=head.in_flight if head else 0,
            waiting=head.waiting if head else 0,
            answered=counters.answered,
            failed=counters.failed,
            answered_epoch=counters.answered_epoch,
            oldest_epoch=head.oldest_epoch if head else 0,
            sent_again=counters.sent_again,
            degraded=counters.degraded,
            superseded=counters.superseded,
            latency_s=counters.latency_s,
            leaving=self._leaving,
            frames=self._counters.frames,
            dropped=self._counters.dropped,
            busy_s=self._counters.busy_s,
            rss_bytes=rss_bytes,
            tasks=tasks,
            interval_s=self._settings.heartbeat_s,
            malformed=dict(self._counters.malformed.counts),
            links=tuple(LinkRate(sender=n, bytes_per_s=round(r)) for n, r in self._plane.links.bytes_per_s().items()),
        )

    def _used(self) -> tuple[int, int]:
        """Memory of the process, and how many tasks have not ended, read about once a second."""
        now = time.monotonic()
        if now - self._usage[0] > USAGE_EVERY_S:
            self._usage = (now, _rss_bytes(), len(asyncio.all_tasks()))
        return self._usage[1:]

    async def _confirm_head(self) -> bool:
        """Ask the controller. Where there is none, nobody can have made another node the head."""
        question = control.encode(Confirm(node=self._name, incarnation=self._incarnation))
        subject = subjects.confirm(self._duties.pipeline)
        attempts = 0
        while attempts < CONFIRM_ATTEMPTS:
            try:
                await self._control.flush(timeout_s=CONFIRM_S)  # waits while the connection is down
                attempts += 1
                answer = await self._control.request(subject, question, timeout_s=CONFIRM_S)
                return control.decode(answer.data, Confirmed).head
            except NoRespondersError:
                break
            except BrokerClosedError:
                return False
            except (BrokerError, WireError) as error:
                log.warning("head-not-confirmed", reason=str(error))
        return True

    def leave(self) -> None:
        """Stop as soon as the pipeline goes on without this node, or after `LEAVE_S`; `run` returns then."""
        log.info("leaving", node=self._name)
        self._leaving = True
        self._leave_by_s = time.monotonic() + LEAVE_S
        self._beat_now.set()

    def _may_leave(self) -> bool:
        if not self._leaving:
            return False
        in_use = bool(self._plane.deployments) or self._plane.head is not None
        return not in_use or time.monotonic() > self._leave_by_s

    async def _on_beat(self, message: Message) -> None:
        """Our own heartbeats come back, and show if another process has our name: the later one gives way."""
        # Quick for our own, which is nearly every one.
        if self._incarnation.encode() in bytes(message.data):
            return
        other = self._counters.malformed.decode(message, Beat)
        if other is None:
            return
        if other.incarnation != self._incarnation and time.monotonic() - self._started_s < NAMESAKE_WATCH_S:
            self._namesake = NodeNameTakenError(other)
            self._beat_now.set()

    # ---- end ---------------------------------------------------------------------------------------------------

    async def _check_tasks(self) -> None:
        """A task that ended with an error is a defect of ours: end the process loudly rather than hang quietly."""
        if self._namesake is not None:
            raise self._namesake
        self._duties.check()
        await self._plane.check()
        self._probe.check()
        self._pulse.check()

    def _say_if_alone(self) -> None:
        if self._alone and not self._duties.assigned_epoch and time.monotonic() - self._started_s > ALONE_S:
            self._alone = False
            hint = "is a controller on this broker, is --control-broker the same as its own, and the user this node's?"
            log.warning("no-controller-yet", node=self._settings.name, hint=hint)

    async def _shut_down(self, own_beats: Subscription) -> None:
        try:
            await self._pulse.stop()
            bye = Bye(node=self._settings.name, incarnation=self._incarnation)
            await self._control.publish(subjects.BYE, control.encode(bye))
            await self._duties.stop()
            await self._probe.stop()
            await self._plane.stop()
            await own_beats.unsubscribe()
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
