"""Hears the nodes: beats, pulses, goodbyes, and what the broker says of their connections. All of it becomes state."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from broker import control, pulse, subjects
from broker.control import Beat, Bye, Confirm, Confirmed
from broker.errors import WireError
from broker.malformed import Malformed
from broker.port import Broker, Message
from broker.presence import NodeProcess, NoPresence, PresenceWatch, watch_presence
from recovery.hearing import Hearing
from recovery.journal import Journal
from recovery.liveness import OwnClock
from recovery.queries import is_appointed, lost
from recovery.rates import RateMeter
from recovery.speeds import SpeedMeter
from recovery.state import Gone, Heard, Left, Pulsed
from recovery.store import Store

log = structlog.get_logger("understudy.controller")

TICK_S = 0.01
"""How often silences are judged."""

_DECISIVE = (
    "incarnation",
    "pipeline",
    "assigned_epoch",
    "ready_epoch",
    "active_epoch",
    "answered_epoch",
    "failure",
    "leaving",
    "is_head",
    "oldest_epoch",
    "spares",
    "spares_epoch",
)
"""A beat in which one of these is new may lead to a decision at once."""


class Observer:
    """Use `run`; it ends when it is cancelled.

    Args:
        clock: must be the store's; the observer ticks it.
        speeds: of the model that serves; who serves another one replaces it.
        on_loss: called at once when a node of the active route is lost.
        on_news: called when something may lead to a decision.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        system_url: str | None,
        store: Store,
        clock: OwnClock,
        journal: Journal,
        speeds: SpeedMeter,
        on_loss: Callable[[], None],
        on_news: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._system_url = system_url
        self._store = store
        self._clock = clock
        self._journal = journal
        self._on_loss = on_loss
        self._on_news = on_news
        self._watch: PresenceWatch = NoPresence()
        self._hearing = Hearing(broker, clock=clock.real)
        self.malformed = Malformed()
        self.rates = RateMeter()
        self.speeds = speeds

    async def run(self) -> None:
        """Listen until cancelled."""
        async with contextlib.AsyncExitStack() as stack:
            for subject, handler in (
                (subjects.BEATS, self._on_beat),
                (subjects.PULSES, self._on_pulse),
                (subjects.BYE, self._on_bye),
                (subjects.confirm(self._store.state.pipeline), self._on_confirm),
            ):
                subscription = await self._broker.subscribe(subject, handler)
                stack.push_async_callback(subscription.unsubscribe)
            self._watch = await watch_presence(self._system_url, self._on_gone)
            stack.push_async_callback(self._watch.close)
            hearing = self._hearing
            stack.push_async_callback(hearing.stop)
            while True:
                await asyncio.sleep(TICK_S)
                if not hearing.hears():
                    self._clock.pause()
                elif self._clock.tick() and lost(self._store.state, self._store.now_s):
                    self._on_loss()

    async def cut_off(self, node: str) -> None:
        """A node that is silent, and leads no more, must not send anything that it has sent half already."""
        view = self._store.state.nodes.get(node)
        if view is None or view.left or view.pulse.gone_s is not None:
            return  # its connections are closed already
        if await self._watch.cut_off(NodeProcess(node, view.beat.incarnation)):
            log.info("node-cut-off", node=node)

    def counted(self) -> tuple[int, int]:
        """Frames sent again, and answered in a lesser way, so far, by all heads."""
        state = self._store.state
        beats = [view.beat for view in state.nodes.values() if view.beat.pipeline == state.pipeline]
        return sum(beat.sent_again for beat in beats), sum(beat.degraded for beat in beats)

    async def _on_beat(self, message: Message) -> None:
        self._hearing.heard()
        news = self.malformed.decode(message, Beat)
        if news is None:
            return
        if message.subject != subjects.beat(news.node):
            self.malformed.note_message("beat", message, f"it names node {news.node}")
            return
        view = self._store.state.nodes.get(news.node)
        before = None if view is None else view.beat
        now_s = self._store.now_s
        self._store.apply(Heard(beat=news, now_s=now_s))
        if news.pipeline == self._store.state.pipeline:
            self._measure(news, now_s)
        if before is None or before.incarnation != news.incarnation:
            log.info("node-joined", node=news.node, pid=news.pid, memory_bytes=news.memory_bytes or None)
        if before is None or any(getattr(before, name) != getattr(news, name) for name in _DECISIVE):
            self._on_news()

    def _measure(self, news: Beat, now_s: float) -> None:
        self.speeds.observe(news)
        if news.is_head:
            self.rates.count(news.incarnation, news.answered, now_s)
            self._journal.head_says(
                active_epoch=news.active_epoch,
                answered_epoch=news.answered_epoch,
                counted=self.counted(),
                latency_s=news.latency_s,
            )

    async def _on_pulse(self, message: Message) -> None:
        self._hearing.heard()
        try:
            sign = pulse.decode(message.data)
        except WireError as error:
            self.malformed.note_message("pulse", message, error.reason)
            return
        node = message.subject.rpartition(".")[2]
        self._alive(node, sign.incarnation, sign.interval_ms / 1e3)

    def _alive(self, node: str, incarnation: str, interval_s: float) -> None:
        now_s = self._store.now_s
        self._store.apply(Pulsed(node=node, incarnation=incarnation, interval_s=interval_s, now_s=now_s))

    def _on_gone(self, process: NodeProcess) -> None:
        """The broker says so: a crash, most likely."""
        log.info("node-disconnected", node=process.node)
        now_s = self._store.now_s
        self._store.apply(Gone(node=process.node, incarnation=process.incarnation, now_s=now_s))
        self._on_loss()

    async def _on_bye(self, message: Message) -> None:
        bye = self.malformed.decode(message, Bye)
        if bye is not None:
            log.info("node-left", node=bye.node)
            self._store.apply(Left(bye=bye))
            self._on_loss()

    async def _on_confirm(self, message: Message) -> None:
        """A head that was paused: is it still the head? Its question is a sign of life, so a yes stays true."""
        question = self.malformed.decode(message, Confirm)
        if question is None or not message.reply:
            return
        state = self._store.state
        view = state.nodes.get(question.node)
        is_head = (
            is_appointed(state, question.node) and view is not None and view.beat.incarnation == question.incarnation
        )
        if is_head and view is not None:
            self._alive(question.node, question.incarnation, view.pulse.interval_s)
        await self._broker.publish(message.reply, control.encode(Confirmed(head=is_head)))
