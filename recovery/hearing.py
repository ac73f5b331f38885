"""Whether a controller hears its broker: a silence of everybody says nothing about anybody.

While a controller's connection is lost, or its broker stands still, it hears of no node, and must not take them for
lost. Each message tells that the broker works; where none comes the broker itself is asked. After a time without, nodes
are given a moment more: they were cut off as well, and come back one after the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from broker.errors import BrokerError
from broker.port import Broker

ASK_AFTER_S = 0.02
QUIET_S = 0.05
"""Without a message for so long the broker is asked; where it does not say a word either, silences count no more."""

DEAF_S = 0.1
GRACE_S = 0.3
"""After so long without the broker nodes have so long to be heard again."""

ANSWER_S = 1.0


class Hearing:
    """`heard` at every message, `hears` at every tick, `stop` at the end."""

    def __init__(self, broker: Broker, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._broker = broker
        self._clock = clock
        self._heard_s = self._grace_ends_s = clock()
        self._asking: asyncio.Task[None] | None = None

    def heard(self) -> None:
        """Something came from the broker."""
        self._heard_s = self._clock()

    def hears(self) -> bool:
        """Whether a node that is not heard is silent itself."""
        now_s = self._clock()
        quiet_s = now_s - self._heard_s
        connected = self._broker.connected
        if connected and quiet_s > ASK_AFTER_S and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask(), name="broker-asked")
        if not connected or quiet_s > DEAF_S:
            self._grace_ends_s = now_s + GRACE_S
        return connected and quiet_s <= QUIET_S and now_s >= self._grace_ends_s

    async def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        try:
            await self._broker.flush(timeout_s=ANSWER_S)
        except (BrokerError, TimeoutError):
            return
        self.heard()
