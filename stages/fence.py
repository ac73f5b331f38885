"""A head that was paused must not answer before it knows that it still is the head.

A process that is stopped, or waits long for a core, cannot tell by itself that others took it for dead and went on
without it. When it runs again it holds frames that were answered meanwhile. So its event loop looks at the clock all
the time; after a pause that may have been noticed elsewhere it asks the controller, and answers nothing until it knows.
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
    """`run` watches the clock; `passes` is asked before every answer."""

    def __init__(
        self, confirm: Confirm, *, limit_s: float = LIMIT_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._confirm = confirm
        self._limit_s = limit_s
        self._clock = clock
        self._seen_s = clock()
        self._asking: asyncio.Future[bool] | None = None

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
        return True

    def _look(self) -> None:
        now = self._clock()
        pause_s, self._seen_s = now - self._seen_s, now
        if pause_s > self._limit_s:
            log.info("head-was-paused", pause_ms=round(pause_s * 1e3))
            self._asking = asyncio.ensure_future(self._ask())

    async def _ask(self) -> bool:
        confirmed = await self._confirm()
        self._look()
        if confirmed and self._asking is asyncio.current_task():
            self._asking = None
        return confirmed
