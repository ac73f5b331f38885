"""Where a head's results go: to the output subject, to who asked for them, and dead letters beside."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from broker import subjects
from broker.errors import BrokerError
from broker.port import Broker, Buffer
from stages.fence import Fence

log = structlog.get_logger("understudy.head")

RETRY_S = 0.01
"""Between two attempts while the connection is down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A frame's result, as JSON, who asked for it beside the output subject, and its dead letter if there is one."""

    result: bytes
    replies: Sequence[str] = ()
    dead_letter: bytes = b""


class Outlet:
    """Publishes for one pipeline. Never raises: what the broker does not take is logged. With a `fence`, what is
    another head's to answer is not published."""

    def __init__(self, broker: Broker, pipeline: str, fence: Fence | None = None) -> None:
        self._broker = broker
        self._fence = fence
        self._results = subjects.results_out(pipeline)
        self._dead = subjects.dead_letters(pipeline)

    @property
    def max_payload_bytes(self) -> int:
        return self._broker.max_payload_bytes

    async def put(self, answers: Sequence[Answer]) -> None:
        """All of them in one step, so that nothing comes between the fence's word and the socket."""
        messages = [message for answer in answers for message in self._messages(answer)]
        if not messages:
            return
        if self._fence is None:
            for subject, data in messages:
                await self._publish(subject, data)
            return
        try:
            while await self._fence.passes():
                if await self._broker.publish_now(messages, self._fence.is_open):
                    return
                await asyncio.sleep(RETRY_S)
        except BrokerError as error:
            log.error("publish-failed", subject=self._results, reason=str(error))

    def _messages(self, answer: Answer) -> list[tuple[str, Buffer]]:
        messages: list[tuple[str, Buffer]] = [(self._results, answer.result)]
        messages += [(reply, answer.result) for reply in answer.replies if subjects.is_answerable(reply)]
        if answer.dead_letter:
            messages.append((self._dead, answer.dead_letter))
        return messages

    async def answer(self, reply: str, data: Buffer) -> None:
        """To who asked, if anybody waits for it."""
        if subjects.is_answerable(reply):
            await self._publish(reply, data)

    async def _publish(self, subject: str, data: Buffer) -> None:
        try:
            await self._broker.publish(subject, data)
        except BrokerError as error:
            log.error("publish-failed", subject=subject, reason=str(error))
