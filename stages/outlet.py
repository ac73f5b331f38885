"""Where a head's results go: to the output subject, to who asked for them, and dead letters beside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog

from broker import subjects
from broker.errors import BrokerError
from broker.port import Broker

log = structlog.get_logger("understudy.head")


class Outlet:
    """Publishes for one pipeline. Never raises: what the broker does not take is logged. `may_answer` is asked before
    every result: False: another head has the frame, and nothing is published."""

    def __init__(self, broker: Broker, pipeline: str, may_answer: Callable[[], Awaitable[bool]] | None = None) -> None:
        self._broker = broker
        self._may_answer = may_answer
        self._results = subjects.results_out(pipeline)
        self._dead = subjects.dead_letters(pipeline)

    @property
    def max_payload_bytes(self) -> int:
        return self._broker.max_payload_bytes

    async def result(self, result: bytes, replies: Sequence[str]) -> None:
        if self._may_answer is not None and not await self._may_answer():
            return
        await self.answer(self._results, result)
        for reply in replies:
            await self.answer(reply, result)

    async def dead_letter(self, letter: bytes) -> None:
        if self._may_answer is not None and not await self._may_answer():
            return
        await self.answer(self._dead, letter)

    async def answer(self, subject: str, data: bytes) -> None:
        """To one subject; an empty one is nobody's."""
        if not subject:
            return
        try:
            await self._broker.publish(subject, data)
        except BrokerError as error:
            log.error("publish-failed", subject=subject, reason=str(error))
