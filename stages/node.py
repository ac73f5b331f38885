"""A node: hosts the stages, and perhaps the head, that a controller assigns to it, and sends heartbeats."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from broker import activation as wire_activation
from broker import control, subjects
from broker.activation import Activation, Failure
from broker.control import Activate, Assignment, Beat, Bye, StageRef
from broker.errors import BrokerError, UnderstudyError, WireError
from broker.port import Broker, Message, Subscription
from stages.batch import parts_below
from stages.blobs import BlobExchange, BlobStore
from stages.deployment import Deployment
from stages.engine import resolve_providers
from stages.head import Head
from stages.ledger import Ledger
from stages.loader import Loader
from stages.worker import WorkerCounters

log = structlog.get_logger("understudy.node")

HEADER_RESERVE_BYTES = 64 << 10
"""Part of the broker's payload limit that is kept for a message's header."""


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
        self._deployments: dict[int, Deployment] = {}
        self._assigned_epoch = 0
        self._active_epoch = 0
        self._failure = ""
        self._loading: asyncio.Task[None] | None = None
        self._subscribed: dict[str, Subscription] = {}
        self._head: Head | None = None
        self._head_task: asyncio.Task[None] | None = None
        self._beat_now = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled."""
        assigned = await self._control.subscribe(subjects.assign(self._settings.name), self._on_assign)
        activated = await self._control.subscribe(subjects.activate("*"), self._on_activate)
        self._control.on_connection(lambda up: self._beat_now.set() if up else None)
        log.info("node-started", node=self._settings.name, pid=os.getpid())
        try:
            while True:
                await self._beat()
                self._check_tasks()
                self._beat_now.clear()
                try:
                    async with asyncio.timeout(self._settings.heartbeat_s):
                        await self._beat_now.wait()
                except TimeoutError:
                    pass
        finally:
            await self._shut_down((assigned, activated))

    # ---- control -----------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        try:
            await self._control.publish(subjects.BEAT, control.encode(self._make_beat()))
        except BrokerError as error:
            log.debug("beat-not-sent", reason=str(error))

    def _make_beat(self) -> Beat:
        head = self._head
        newest = self._deployments.get(self._active_epoch)
        stages = () if newest is None else newest.workers.values()
        return Beat(
            node=self._settings.name,
            incarnation=self._incarnation,
            pid=os.getpid(),
            host=socket.gethostname(),
            pipeline=self._pipeline,
            assigned_epoch=self._assigned_epoch,
            ready_epoch=max(self._deployments, default=0),
            active_epoch=self._active_epoch,
            stages=tuple(StageRef(first_block=w.first_block, end_block=w.end_block) for w in stages),
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
            rss_bytes=_rss_bytes(),
            interval_s=self._settings.heartbeat_s,
        )

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
            await self._deliver(epoch, message)

        try:
            deployment = await self._loader.load(assignment, deliver)
        except UnderstudyError as error:
            log.error("load-failed", epoch=epoch, reason=str(error))
            self._failure = str(error)
            self._beat_now.set()
            return
        await self._subscribe(deployment)
        deployment.start()
        self._deployments[epoch] = deployment
        log.info("loaded", epoch=epoch, stages=[[w.first_block, w.end_block] for w in deployment.workers.values()])
        self._beat_now.set()

    async def _on_activate(self, message: Message) -> None:
        try:
            activate = control.decode(message.data, Activate)
        except WireError as error:
            log.warning("activation-malformed", reason=error.reason)
            return
        if activate.pipeline == self._pipeline and activate.epoch > self._active_epoch:
            await self._switch_to(activate.epoch)

    async def _switch_to(self, epoch: int) -> None:
        """Older epochs are over; frames follow the route of this one, where this node is part of it."""
        self._active_epoch = epoch
        for old in [deployment for number, deployment in self._deployments.items() if number < epoch]:
            del self._deployments[old.epoch]
            await old.stop()
        deployment = self._deployments.get(epoch)
        self._loader.forget([d.assignment for d in self._deployments.values()])
        is_head = deployment is not None and deployment.route.head == self._settings.name
        if deployment is not None and is_head:
            await self._lead(deployment)
        elif self._head is not None:
            await self._step_down()
        await self._unsubscribe_stale()
        log.info("switched", epoch=epoch, head=is_head)
        self._beat_now.set()

    # ---- data --------------------------------------------------------------------------------------------------

    async def _subscribe(self, deployment: Deployment) -> None:
        for subject in self._subjects(deployment):
            if subject not in self._subscribed:
                self._subscribed[subject] = await self._data.subscribe(subject, self._on_activation)

    def _subjects(self, deployment: Deployment) -> list[str]:
        name = self._settings.name
        hops = [hop for hop in deployment.route.hops if hop.node == name]
        return [subjects.activation(self._pipeline, hop.cut, name) for hop in hops]

    async def _unsubscribe_stale(self) -> None:
        needed = {subject for deployment in self._deployments.values() for subject in self._subjects(deployment)}
        if self._head is not None:
            needed.add(subjects.frames_in(self._pipeline))
        for subject in set(self._subscribed) - needed:
            await self._subscribed.pop(subject).unsubscribe()

    async def _on_activation(self, message: Message) -> None:
        """An activation or a failure from another node."""
        try:
            await self._accept(wire_activation.decode(message.data))
        except WireError as error:
            self._counters.dropped += 1
            log.warning("message-malformed", subject=message.subject, reason=error.reason, bytes=len(message.data))

    async def _accept(self, message: Activation | Failure) -> None:
        """Raises WireError where the tensors are not those of the cut."""
        deployment = self._deployments.get(message.epoch)
        if deployment is None or message.epoch < self._active_epoch:
            # A message of an older epoch: its frames were sent again on the newer route.
            self._counters.dropped += 1
            log.info("message-stale", epoch=message.epoch, active=self._active_epoch, cut=message.cut)
        elif message.cut == deployment.spec.blocks and self._head is not None:
            await self._head.on_outcome(message)
        elif isinstance(message, Activation) and deployment.accept(message):
            return
        else:
            raise WireError(f"node {self._settings.name} hosts no stage at cut {message.cut} in epoch {message.epoch}")

    async def _deliver(self, epoch: int, message: Activation | Failure) -> None:
        """Send what a stage made to where the route of its epoch says."""
        deployment = self._deployments.get(epoch)
        if deployment is None:
            return
        target = deployment.route.node_of(message.cut)
        try:
            if target == self._settings.name:
                await self._accept(message)  # a hop within this process needs no broker
                return
            subject = subjects.activation(self._pipeline, message.cut, target)
            if isinstance(message, Failure):
                await self._data.publish(subject, wire_activation.encode_failure(message))
                return
            for part in parts_below(message, self._data.max_payload_bytes - HEADER_RESERVE_BYTES):
                await self._data.publish(subject, wire_activation.encode_activation(part))
        except (BrokerError, WireError) as error:
            # The head still holds the frames, and sends them again.
            self._counters.dropped += 1
            log.error("hand-over-failed", to=target, cut=message.cut, reason=str(error))

    # ---- head --------------------------------------------------------------------------------------------------

    async def _lead(self, deployment: Deployment) -> None:
        """Become the head, or follow the new route as the head."""
        flow = deployment.assignment.flow
        if self._head is None:
            self._head = Head(
                pipeline=self._pipeline,
                spec=deployment.spec,
                ledger=Ledger(queue_frames=flow.queue_frames, queue_bytes=flow.queue_bytes),
                top_k=flow.top_k,
                resend_after_s=flow.resend_after_s,
                max_attempts=flow.max_attempts,
                broker=self._data,
                executor=self._intake_executor,
            )
            self._head_task = asyncio.create_task(self._head.run(), name="head")
        await self._head.follow(deployment.epoch, deployment.flow, self._sender(deployment.epoch))
        subject = subjects.frames_in(self._pipeline)
        if subject not in self._subscribed:
            self._subscribed[subject] = await self._data.subscribe(subject, self._head.on_frame)

    def _sender(self, epoch: int) -> Callable[[Activation], Awaitable[None]]:
        async def send(message: Activation) -> None:
            await self._deliver(epoch, message)

        return send

    async def _step_down(self) -> None:
        subscription = self._subscribed.pop(subjects.frames_in(self._pipeline), None)
        if subscription is not None:
            await subscription.unsubscribe()
        if self._head_task is not None:
            self._head_task.cancel()
            await asyncio.gather(self._head_task, return_exceptions=True)
        self._head = self._head_task = None

    # ---- end ---------------------------------------------------------------------------------------------------

    def _check_tasks(self) -> None:
        """A task that ended with an error is a defect of ours: end the process loudly rather than hang quietly."""
        for task in (self._head_task, self._loading):
            if task is not None and task.done() and not task.cancelled() and task.exception() is not None:
                task.result()
        for deployment in self._deployments.values():
            error = deployment.failed()
            if error is not None:
                raise error

    async def _shut_down(self, control_subscriptions: Sequence[Subscription]) -> None:
        try:
            bye = Bye(node=self._settings.name, incarnation=self._incarnation)
            await self._control.publish(subjects.BYE, control.encode(bye))
            await self._step_down()
            if self._loading is not None:
                self._loading.cancel()
            for deployment in self._deployments.values():
                await deployment.stop()
            for subscription in (*control_subscriptions, *self._subscribed.values()):
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
