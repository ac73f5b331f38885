"""A node's part in measuring links: carries out orders to measure, and acknowledges the chunks of other nodes."""

from __future__ import annotations

import asyncio
import time

import structlog

from broker import control, subjects
from broker.control import ProbeAck, ProbeOrder, ProbeResult
from broker.errors import BrokerError, UnderstudyError, WireError
from broker.port import Broker, Message, Subscription
from stages.measurement import Measurement, read_chunk
from stages.worker import WorkerCounters

log = structlog.get_logger("understudy.probe")

INBOX = "_INBOX."


class Probe:
    """`start` it, and `stop` it. One measurement at a time: an order that comes meanwhile is answered with a failure.

    Chunks are acknowledged one by one and not kept: the receiver has no state that somebody could fill.
    """

    def __init__(self, node: str, *, data: Broker, control_broker: Broker, counters: WorkerCounters) -> None:
        self._node = node
        self._data = data
        self._control = control_broker
        self._counters = counters
        self._running: asyncio.Task[None] | None = None
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        self._subscriptions.append(await self._data.subscribe(subjects.probe_data(self._node), self._on_chunk))
        self._subscriptions.append(await self._control.subscribe(subjects.probe(self._node), self._on_order))

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()

    def check(self) -> None:
        """Raise the error of a measurement that ended with one that is a defect of ours."""
        if self._running is not None and self._running.done() and not self._running.cancelled():
            self._running.result()

    async def _on_chunk(self, message: Message) -> None:
        at_s = time.perf_counter()
        if not message.reply.startswith(INBOX):
            # Whoever may write here must not make a node write elsewhere.
            self._drop(message, "a chunk without an inbox for its acknowledgement")
            return
        try:
            probe, sequence = read_chunk(message.data)
        except WireError as error:
            self._drop(message, error.reason)
            return
        try:
            ack = ProbeAck(probe=probe, sequence=sequence, at_s=at_s)
            await self._data.publish(message.reply, control.encode(ack))
        except BrokerError as error:
            log.debug("probe-not-acknowledged", reason=str(error))

    async def _on_order(self, message: Message) -> None:
        if not message.reply:
            self._drop(message, "an order that nobody waits for")
            return
        try:
            order = control.decode(message.data, ProbeOrder)
        except WireError as error:
            self._drop(message, error.reason)
            return
        if order.to == self._node:
            await self._answer(message.reply, self._failed(order, "a node does not measure the way to itself"))
        elif self._running is not None and not self._running.done():
            await self._answer(message.reply, self._failed(order, f"node '{self._node}' measures for somebody else"))
        else:
            self.check()
            task = self._measure(order, message.reply)
            self._running = asyncio.create_task(task, name=f"measure-to-{order.to}")

    async def _measure(self, order: ProbeOrder, reply: str) -> None:
        measurement = Measurement(self._data, order.to, seconds=order.seconds)
        try:
            found = await measurement.run()
            result = ProbeResult(
                node=self._node,
                to=order.to,
                bytes_per_s=found.bytes_per_s,
                alone_bytes_per_s=found.alone_bytes_per_s,
                overhead_s=found.overhead_s,
                size_bytes=found.size_bytes,
                failure="",
            )
        except UnderstudyError as error:
            log.info("measurement-failed", to=order.to, reason=str(error))
            result = self._failed(order, str(error))
        self._counters.dropped += measurement.malformed
        self._counters.malformed.counts["probe"] += measurement.malformed
        await self._answer(reply, result)

    async def _answer(self, reply: str, result: ProbeResult) -> None:
        try:
            await self._control.publish(reply, control.encode(result))
        except BrokerError as error:
            log.warning("measurement-not-reported", to=result.to, reason=str(error))

    def _failed(self, order: ProbeOrder, why: str) -> ProbeResult:
        return ProbeResult(
            node=self._node,
            to=order.to,
            bytes_per_s=0.0,
            alone_bytes_per_s=0.0,
            overhead_s=0.0,
            size_bytes=0,
            failure=why[:1000],
        )

    def _drop(self, message: Message, reason: str) -> None:
        self._counters.dropped += 1
        self._counters.malformed.note_message("probe", message, reason)
