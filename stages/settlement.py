"""What becomes of frames that a lost head may have answered (`stages.in_doubt`): asked until it is known.

A head that takes over from one that was lost begins a settlement. It ends when the lost head, or the broker, says that
nothing of it can come any more. Meanwhile the nodes that sent the lost head its outcomes are asked which those were:
of another frame it can have said nothing but an error of its own.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from broker.control import Route
from broker.errors import NoRespondersError
from broker.port import Broker, Buffer
from stages.handover import OtherHead
from stages.head import Head
from stages.in_doubt import InDoubt
from stages.sent import ask_sent

log = structlog.get_logger("understudy.head")

LONGEST_S = 25.0
"""A result of a lost head comes within so long or not at all: nats-server gives up a route on which nothing comes back
after 10 to 15 s (`ping_interval` of `broker.server`)."""

CRASHED_S = 5.0
"""Where nobody is there to ask within so long after the take-over, a process has ended: its connections are closed
everywhere. Later our server may have given up the route, and others not yet."""

OTHERS_S = 5.0
"""So much later they have."""

ASK_S = 0.05

SEEN_S = 5.0
"""A standby head knows the routes that frames are on once it has seen them for so long."""

DRAINED_S = 30.0
"""Frames of a route that is over have been answered, or lost, after so long."""


class SeenRoutes:
    """Routes that a standby head has seen, since when, and until when."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_s = clock()
        self._over: list[tuple[Route, float]] = []
        self._now: Route | None = None

    def note(self, route: Route) -> None:
        now_s = self._clock()
        if self._now is not None and self._now.epoch != route.epoch:
            self._over = [(old, over_s) for old, over_s in self._over if now_s - over_s < DRAINED_S]
            self._over.append((self._now, now_s))
        self._now = route

    def senders(self, head: str) -> frozenset[str]:
        """Nodes of which each frame that the head on this node has answered lately was sent on by one. Empty: that is
        not known, or some frames came from nobody else."""
        now_s = self._clock()
        if self._now is None or now_s - self._since_s < SEEN_S:
            return frozenset()
        seen = [self._now, *(route for route, over_s in self._over if now_s - over_s < DRAINED_S)]
        senders = frozenset(route.node_before_head for route in seen if route.head == head)
        return frozenset() if "" in senders else senders


class Settlement:
    """Begins at once, in a task of its own; `heard` the results on the output subject, `stop` it where the head is over
    before it is.

    Args:
        head: that took over, on the route of `epoch`.
        marks: of the frames that it took over (`InDoubt`).
        senders: `SeenRoutes.senders`.
        hear_all: returns when all that the broker had sent before was handed to `heard`.
        on_end: called when nothing is in doubt any more.
    """

    def __init__(
        self,
        broker: Broker,
        pipeline: str,
        head: Head,
        lost: OtherHead,
        *,
        marks: Sequence[bytes],
        senders: frozenset[str],
        epoch: int,
        hear_all: Callable[[], Awaitable[None]],
        on_end: Callable[[], Awaitable[None]],
    ) -> None:
        self._broker = broker
        self._pipeline = pipeline
        self._head = head
        self._lost = lost
        self._senders = senders
        self._epoch = epoch
        self._hear_all = hear_all
        self._on_end = on_end
        self._in_doubt = InDoubt(marks, epoch=epoch)
        head.doubt(self._in_doubt)
        self.is_open = True
        self._task = asyncio.create_task(self._run(), name="head-settlement")

    def heard(self, result: Buffer) -> None:
        self._in_doubt.heard(result)

    def check(self) -> None:
        """Raise the error of its task, if it ended with one: a defect."""
        if self._task.done() and not self._task.cancelled():
            self._task.result()

    def stop(self) -> None:
        self.is_open = False
        self._task.cancel()

    async def _run(self) -> None:
        began_s = time.monotonic()
        is_narrow = not self._senders
        gone_s = math.inf
        while (now_s := time.monotonic()) - began_s < LONGEST_S and now_s - gone_s < OTHERS_S:
            try:
                if await self._lost.is_over(self._epoch):
                    break
                gone_s = math.inf
            except NoRespondersError:
                if time.monotonic() - began_s < CRASHED_S:
                    break
                gone_s = min(gone_s, now_s)
            is_narrow = is_narrow or await self._narrow()
            await asyncio.sleep(ASK_S)
        await self._hear_all()
        self.is_open = False
        released = await self._head.settle()
        late = self._in_doubt.late
        if released or late:
            seconds = round(time.monotonic() - began_s, 3)
            log.info("results-were-in-doubt", withheld=released, late=late, seconds=seconds, head=self._lost.node)
        await self._on_end()

    async def _narrow(self) -> bool:
        """Leave in doubt only what was sent to the lost head. False: not all who sent it something say what."""
        asked = (
            ask_sent(self._broker, self._pipeline, by=sender, to=self._lost.node, epoch=self._epoch)
            for sender in self._senders
        )
        sent: list[bytes] = []
        for answer in await asyncio.gather(*asked):
            if answer is None:
                return False
            sent += answer
        await self._head.narrow(sent)
        return True
