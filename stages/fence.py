"""A head that was paused must not answer before it knows that it still is the head.

A process that is stopped, or waits long for a core, cannot tell by itself that others took it for dead and went on
without it. When it runs again it holds frames that were answered meanwhile. So its event loop looks at the clock all
the time; after a pause that may have been noticed elsewhere it asks the controller, and answers nothing until it knows.
So it does after its connection was lost: a controller that gives up a head which is silent also has the broker end that
head's connection, so that nothing comes out that is on its way in a socket (`broker.presence`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger("understudy.head")

TICK_S = 0.02

LIMIT_S = 0.05
"""A shorter pause was noticed by nobody: with the pulse before it, it is below the least timeout of the detector
(`recovery.liveness.PULSE_DETECTOR`)."""

Confirm = Callable[[], Awaitable[bool]]
"""Whether this node still is the head, as the controller knows it."""


class Fence:
    """`run` watches the clock; `passes` is asked before every answer, and `is_open` when it goes to the socket."""

    def __init__(
        self, confirm: Confirm, *, limit_s: float = LIMIT_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._confirm = confirm
        self._limit_s = limit_s
        self._clock = clock
        self._seen_s = clock()
        self._asking: asyncio.Future[bool] | None = None
        self._closed = False

    async def run(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(TICK_S)

    async def passes(self) -> bool:
        """Whether this node may answer as the head; waits for the controller's word after a pause."""
        self._look()
        while (asking := self._asking) is not None:
            if not await asyncio.shield(asking):
                return False
            self._look()  # a yes from before another pause is not enough
            if self._asking is asking:
                self._asking = None
        return not self._closed

    @property
    def refused(self) -> bool:
        """Whether another node is the head: the last answer was that, or the fence is closed."""
        if self._closed:
            return True
        asking = self._asking
        return asking is not None and asking.done() and not asking.cancelled() and not asking.result()

    def is_open(self) -> bool:
        """Whether there is no doubt at this moment."""
        self._look()
        return self._asking is None and not self._closed

    def close(self) -> None:
        """This node is not the head any more: nothing passes again, whatever the controller says or does not say."""
        self._closed = True

    def doubt(self) -> None:
        """The controller must be asked: the connection was lost, or is there again."""
        self._asking = asyncio.ensure_future(self._ask())

    def _look(self) -> None:
        now = self._clock()
        pause_s, self._seen_s = now - self._seen_s, now
        if pause_s > self._limit_s:
            log.info("head-was-paused", pause_ms=round(pause_s * 1e3))
            self.doubt()

    async def _ask(self) -> bool:
        confirmed = await self._confirm()
        self._look()
        if confirmed and self._asking is asyncio.current_task():
            self._asking = None
        return confirmed
