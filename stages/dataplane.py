"""Where frames run on a node: the deployments of its epochs, the subjects they listen on, and perhaps the head."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

import structlog

from broker import activation as wire_activation
from broker import subjects
from broker.activation import HEADER_RESERVE_BYTES, Activation, Failure
from broker.control import StageRef
from broker.errors import BrokerError, WireError
from broker.port import Broker, Message, Subscription
from stages.batch import parts_below
from stages.deployment import Deployment
from stages.head import Head
from stages.ledger import Ledger
from stages.linkmeter import LinkMeter
from stages.worker import WorkerCounters

log = structlog.get_logger("understudy.node")


class DataPlane:
    """`add` a loaded deployment, `switch_to` its epoch: then frames follow its route, and older epochs are over.

    A message of an epoch that is loaded but not active yet is processed by that epoch's route: its sender has heard of
    the switch before this node.
    """

    def __init__(self, *, node: str, broker: Broker, counters: WorkerCounters, intake_executor: Executor) -> None:
        self._node = node
        self._broker = broker
        self._counters = counters
        self._intake_executor = intake_executor
        self._deployments: dict[int, Deployment] = {}
        self._subscribed: dict[str, Subscription] = {}
        self._head_task: asyncio.Task[None] | None = None
        self.links = LinkMeter()
        self.active_epoch = 0
        self.head: Head | None = None

    @property
    def newest_epoch(self) -> int:
        """The newest epoch that is loaded; 0: none."""
        return max(self._deployments, default=0)

    @property
    def deployments(self) -> list[Deployment]:
        return list(self._deployments.values())

    @property
    def stages(self) -> tuple[StageRef, ...]:
        """The stages of the active epoch."""
        active = self._deployments.get(self.active_epoch)
        workers = () if active is None else active.workers.values()
        return tuple(StageRef(first_block=w.first_block, end_block=w.end_block) for w in workers)

    async def add(self, deployment: Deployment) -> None:
        """Start its workers, and listen for their activations."""
        for subject in self._subjects(deployment):
            if subject not in self._subscribed:
                self._subscribed[subject] = await self._broker.subscribe(subject, self._on_activation)
        deployment.start()
        self._deployments[deployment.epoch] = deployment

    async def switch_to(self, epoch: int) -> None:
        """Older epochs are over; frames follow the route of this one, where this node is part of it."""
        self.active_epoch = epoch
        for old in [number for number in self._deployments if number < epoch]:
            await self._deployments.pop(old).stop()
        deployment = self._deployments.get(epoch)
        if deployment is not None and deployment.route.head == self._node:
            await self._lead(deployment)
        else:
            await self._step_down()
        await self._unsubscribe_stale()

    async def deliver(self, epoch: int, message: Activation | Failure) -> None:
        """Send what a stage, or the head, made to where the route of its epoch says. Never raises: what cannot be sent
        is still held by the head, which sends the frame again."""
        deployment = self._deployments.get(epoch)
        if deployment is None:
            return
        target = deployment.route.node_of(message.cut)
        try:
            if target == self._node:
                await self._accept(message)  # a hop within this process needs no broker
                return
            subject = subjects.activation(deployment.assignment.pipeline, message.cut, target)
            if isinstance(message, Failure):
                await self._broker.publish(subject, wire_activation.encode_failure(message))
                return
            for part in parts_below(message, self._broker.max_payload_bytes - HEADER_RESERVE_BYTES):
                await self._broker.publish(subject, wire_activation.encode_activation(part))
        except (BrokerError, WireError) as error:
            self._counters.dropped += 1
            log.error("hand-over-failed", to=target, cut=message.cut, reason=str(error))

    def check(self) -> None:
        """Raise the error of a task that ended with one: a defect, which must end the process loudly rather than leave
        it hanging quietly."""
        if self._head_task is not None and self._head_task.done():
            self._head_task.result()
        for deployment in self._deployments.values():
            error = deployment.failed()
            if error is not None:
                raise error

    async def stop(self) -> None:
        await self._step_down()
        for deployment in self._deployments.values():
            await deployment.stop()
        for subscription in self._subscribed.values():
            await subscription.unsubscribe()

    # ---- activations -------------------------------------------------------------------------------------------

    def _subjects(self, deployment: Deployment) -> list[str]:
        pipeline = deployment.assignment.pipeline
        hops = [hop for hop in deployment.route.hops if hop.node == self._node]
        return [subjects.activation(pipeline, hop.cut, self._node) for hop in hops]

    async def _unsubscribe_stale(self) -> None:
        needed = {subject for deployment in self._deployments.values() for subject in self._subjects(deployment)}
        if self.head is not None:
            needed |= {subjects.frames_in(deployment.assignment.pipeline) for deployment in self.deployments}
        for subject in set(self._subscribed) - needed:
            await self._subscribed.pop(subject).unsubscribe()

    async def _on_activation(self, message: Message) -> None:
        """An activation or a failure from another node."""
        arrived_s = time.perf_counter()
        try:
            activation = wire_activation.decode(message.data)
            self._observe(activation, arrived_s, len(message.data))
            await self._accept(activation)
        except WireError as error:
            self._counters.dropped += 1
            log.warning("message-malformed", subject=message.subject, reason=error.reason, size_bytes=len(message.data))

    def _observe(self, message: Activation | Failure, arrived_s: float, size_bytes: int) -> None:
        """The newest frame's last hop tells who sent the message, and when."""
        if isinstance(message, Activation) and (hops := message.frames[-1].hops):
            sender, _, sent_s, _ = hops[-1]
            self.links.observe(sender, sent_s=sent_s, arrived_s=arrived_s, size_bytes=size_bytes)

    async def _accept(self, message: Activation | Failure) -> None:
        """Raises WireError where the tensors are not those of the cut."""
        deployment = self._deployments.get(message.epoch)
        if deployment is None or message.epoch < self.active_epoch:
            # A message of an older epoch: its frames were sent again on the newer route.
            self._counters.dropped += 1
            log.info("message-stale", epoch=message.epoch, active=self.active_epoch, cut=message.cut)
        elif message.cut == deployment.spec.blocks and self.head is not None:
            await self.head.on_outcome(message)
        elif not isinstance(message, Activation) or not deployment.accept(message):
            raise WireError(f"node {self._node} hosts no stage at cut {message.cut} in epoch {message.epoch}")

    # ---- head --------------------------------------------------------------------------------------------------

    async def _lead(self, deployment: Deployment) -> None:
        """Become the head, or follow the new route as the head."""
        pipeline, flow = deployment.assignment.pipeline, deployment.assignment.flow
        if self.head is None:
            self.head = Head(
                pipeline=pipeline,
                spec=deployment.spec,
                ledger=Ledger(queue_frames=flow.queue_frames, queue_bytes=flow.queue_bytes),
                top_k=flow.top_k,
                resend_after_s=flow.resend_after_s,
                max_attempts=flow.max_attempts,
                broker=self._broker,
                executor=self._intake_executor,
            )
            self._head_task = asyncio.create_task(self.head.run(), name="head")
        await self.head.follow(deployment.epoch, deployment.flow, self._sender(deployment.epoch))
        subject = subjects.frames_in(pipeline)
        if subject not in self._subscribed:
            self._subscribed[subject] = await self._broker.subscribe(subject, self.head.on_frame)

    def _sender(self, epoch: int) -> Callable[[Activation], Awaitable[None]]:
        async def send(message: Activation) -> None:
            await self.deliver(epoch, message)

        return send

    async def _step_down(self) -> None:
        if self._head_task is not None:
            self._head_task.cancel()
            await asyncio.gather(self._head_task, return_exceptions=True)
        self.head = self._head_task = None
