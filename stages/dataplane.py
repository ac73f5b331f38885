"""Where frames run on a node: the deployments of its epochs, and its part as a head."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

import structlog

from broker import activation as wire_activation
from broker import subjects
from broker.activation import HEADER_RESERVE_BYTES, Activation, Failure
from broker.control import Activate, StageRef
from broker.errors import BrokerError, WireError
from broker.port import Broker, Message, Subscription
from stages.batch import parts_below
from stages.deployment import Deployment
from stages.fence import Confirm
from stages.gap import Gap
from stages.head import Head
from stages.leadership import Leadership
from stages.linkmeter import LinkMeter
from stages.sent import Sent
from stages.worker import WorkerCounters

log = structlog.get_logger("understudy.node")

BUSY_S = 1.0
EARLY_MESSAGES = 256
EARLY_BYTES = 64 << 20


class DataPlane:
    """`add` a loaded deployment, `switch_to` its epoch: then frames follow its route. Older epochs are over then, or
    (where they are drained) when `retire` is called.

    A message of an epoch that is loaded but not active yet is processed by that epoch's route: its sender has heard of
    the switch before this node. One of an epoch that is not known yet waits for it, within bounds.
    """

    def __init__(
        self,
        *,
        node: str,
        broker: Broker,
        counters: WorkerCounters,
        intake_executor: Executor,
        confirm: Confirm | None = None,
    ) -> None:
        """`confirm`: see `stages.fence`."""
        self._node = node
        self._broker = broker
        self._counters = counters
        self._deployments: dict[int, Deployment] = {}
        self._early: deque[Activation | Failure] = deque()
        self._subscription: Subscription | None = None
        self._worked_s = -math.inf
        self.on_work: Callable[[], None] = lambda: None
        """Called when work comes after a time without any."""
        self.lead = Leadership(node=node, broker=broker, executor=intake_executor, confirm=confirm)
        self.lead.counters.malformed = counters.malformed
        self._gap = Gap(broker, concerned=lambda: bool(self._deployments), send_again=lambda: self.lead.on_gap())
        self._sent = Sent(broker, node, active_epoch=lambda: self.active_epoch, malformed=counters.malformed)
        self.links = LinkMeter()
        self.active_epoch = 0

    @property
    def head(self) -> Head | None:
        return self.lead.head

    @property
    def busy(self) -> bool:
        """Whether frames have come by lately."""
        return time.monotonic() - self._worked_s < BUSY_S

    @property
    def newest_epoch(self) -> int:
        """The newest epoch that is loaded; 0: none."""
        return max(self._deployments, default=0)

    @property
    def deployments(self) -> list[Deployment]:
        return list(self._deployments.values())

    @property
    def stages(self) -> tuple[StageRef, ...]:
        """What runs in the active epoch."""
        active = self._deployments.get(self.active_epoch)
        workers = () if active is None else active.workers.values()
        return tuple(StageRef(first_block=w.first_block, end_block=w.end_block) for w in workers)

    async def listen(self, pipeline: str) -> None:
        """Take activations of any cut: a route that comes later needs no subscription of its own, which could be later
        than its first message. Idempotent."""
        if self._subscription is None:
            subject = subjects.activations(pipeline, self._node)
            self._subscription = await self._broker.subscribe(subject, self._on_activation)
            await self._gap.listen(pipeline)
            await self._sent.listen(pipeline)

    def add(self, deployment: Deployment) -> None:
        """Start its workers."""
        deployment.start()
        self._deployments[deployment.epoch] = deployment

    async def switch_to(self, activate: Activate) -> None:
        """Frames follow the route of this epoch, where this node is part of it."""
        self.active_epoch = activate.epoch
        deployment = self._deployments.get(activate.epoch)
        if not activate.drain:
            if deployment is None or deployment.route.head != self._node:
                self.lead.give_up()  # before anything is waited for
            await self._stop_older()
        await self.lead.follow(
            deployment,
            send=self._sender(activate.epoch),
            drain=activate.drain,
            previous_head=activate.previous_head,
        )
        await self._take_early()

    async def retire(self) -> None:
        """Epochs before the active one are over, and so is a head that another node should have taken over from."""
        await self._stop_older()
        active = self._deployments.get(self.active_epoch)
        await self.lead.settle(None if active is None else active.route.head)

    async def _stop_older(self) -> None:
        for old in [number for number in self._deployments if number < self.active_epoch]:
            await self._deployments.pop(old).stop()

    async def deliver(self, epoch: int, message: Activation | Failure) -> None:
        """Send what a stage, or the head, made to where the route of its epoch says. Never raises: what cannot be sent
        is still held by the head, which sends the frame again."""
        deployment = self._deployments.get(epoch)
        if deployment is None:
            return
        self._note_work()
        target = deployment.route.node_of(message.cut)
        try:
            if target == self._node:
                await self._accept(message)  # a hop within this process needs no broker
                return
            self._sent.note(target, message)
            subject = subjects.activation(deployment.assignment.pipeline, message.cut, target)
            if isinstance(message, Failure):
                await self._broker.publish(subject, wire_activation.encode_failure(message))
                return
            for part in parts_below(message, self._broker.max_payload_bytes - HEADER_RESERVE_BYTES):
                await self._broker.publish(subject, wire_activation.encode_activation(part))
        except (BrokerError, WireError) as error:
            self._counters.dropped += 1
            log.error("hand-over-failed", to=target, cut=message.cut, reason=str(error))

    async def check(self) -> None:
        """Raise the error of a task that ended with one: a defect, which must end the process loudly rather than leave
        it hanging quietly."""
        await self.lead.check()
        self._gap.check()
        for deployment in self._deployments.values():
            error = deployment.failed()
            if error is not None:
                raise error

    async def stop(self) -> None:
        await self._gap.stop()
        await self._sent.stop()
        await self.lead.stop()
        for deployment in self._deployments.values():
            await deployment.stop()
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    # ---- activations -------------------------------------------------------------------------------------------

    async def _on_activation(self, message: Message) -> None:
        """An activation or a failure from another node."""
        arrived_s = time.perf_counter()
        self._note_work()
        try:
            activation = wire_activation.decode(message.data, max_decoded_bytes=self._broker.max_payload_bytes)
            self._observe(activation, arrived_s, len(message.data))
            await self._accept(activation)
        except WireError as error:
            self._counters.dropped += 1
            self._counters.malformed.note_message("activation", message, error.reason)

    def _note_work(self) -> None:
        was_busy = self.busy
        self._worked_s = time.monotonic()
        if not was_busy:
            self.on_work()

    def _observe(self, message: Activation | Failure, arrived_s: float, size_bytes: int) -> None:
        """The newest frame's last hop tells who sent the message, and when."""
        if isinstance(message, Activation) and (hops := message.frames[-1].hops):
            sender, _, sent_s, _ = hops[-1]
            self.links.observe(sender, sent_s=sent_s, arrived_s=arrived_s, size_bytes=size_bytes)

    async def _accept(self, message: Activation | Failure) -> None:
        """Raises WireError where the tensors are not those of the cut."""
        deployment = self._deployments.get(message.epoch)
        if deployment is None:
            self._keep_early(message)
        elif message.cut == deployment.spec.blocks:
            await self.lead.on_outcome(message)
        elif not isinstance(message, Activation) or not deployment.accept(message):
            raise WireError(f"node {self._node} hosts no stage at cut {message.cut} in epoch {message.epoch}")

    def _keep_early(self, message: Activation | Failure) -> None:
        if message.epoch <= max(self.active_epoch, self.newest_epoch):
            # A message of an older epoch: its frames were sent again on the newer route.
            self._counters.dropped += 1
            log.info("message-stale", epoch=message.epoch, active=self.active_epoch, cut=message.cut)
            return
        self._early.append(message)
        while len(self._early) > EARLY_MESSAGES or sum(map(_size_bytes, self._early)) > EARLY_BYTES:
            self._early.popleft()
            self._counters.dropped += 1

    async def _take_early(self) -> None:
        """What came before its epoch."""
        early, self._early = self._early, deque()
        for message in early:
            try:
                await self._accept(message)
            except WireError as error:
                self._counters.dropped += 1
                self._counters.malformed.note("activation", error.reason)

    def _sender(self, epoch: int) -> Callable[[Activation], Awaitable[None]]:
        async def send(message: Activation) -> None:
            await self.deliver(epoch, message)

        return send


def _size_bytes(message: Activation | Failure) -> int:
    return message.size_bytes if isinstance(message, Activation) else 0
