"""A node's pulse: many times a second, from the node's own event loop.

Not from a thread of its own: measured under full load, its gaps are no smaller (inference runs off the event loop, and
what makes a pulse late, waiting for a core, makes a thread late as well), and it would go on while the loop hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from broker import pulse, subjects
from broker.errors import BrokerError
from broker.port import Broker, Message

PULSE_S = 0.02
"""Between two pulses of a node that has work: a hang is noticed after four of them."""

IDLE_PULSE_S = 0.1
"""Between two pulses of a node that has nothing to do: nobody waits for it, and idling must cost next to nothing."""

log = structlog.get_logger("understudy.pulse")


class PulseTask:
    """Sends pulses while its `async with` lasts, or from `start` to `stop`.

    The rhythm is that of a clock: a pulse that was late does not move the next one. While the connection is lost there
    are none, and none are kept for later, since an old sign of life is no sign of life.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        node: str,
        incarnation: str,
        interval_s: float = PULSE_S,
        idle_interval_s: float = IDLE_PULSE_S,
        busy: Callable[[], bool] = lambda: True,
    ) -> None:
        """
        Args:
            broker: the connection for control.
            incarnation: of the process, 16 hexadecimal digits.
            busy: whether the node has work, asked before every pulse. From a node that has none they come every
                `idle_interval_s`, as the pulses themselves say; `hurry` ends such a pause.
        """
        self._broker = broker
        self._subject = subjects.pulse(subjects.check_name("node", node))
        self._incarnation = incarnation
        self._interval_ms = max(1, round(interval_s * 1e3))
        self._idle_interval_ms = max(self._interval_ms, round(idle_interval_s * 1e3))
        self._busy = busy
        self._sequence = 0
        self._now = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="pulse")

    def check(self) -> None:
        """Raise what ended the task, if something has: a defect of ours."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    def hurry(self) -> None:
        """There is work: the next pulse goes out now."""
        self._now.set()

    async def stop(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            interval_ms = self._interval_ms if self._busy() else self._idle_interval_ms
            await self._send(interval_ms)
            due_s = max(due_s + interval_ms / 1e3, loop.time())
            if interval_ms == self._interval_ms:
                await asyncio.sleep(due_s - loop.time())
            else:
                due_s = await self._pause(due_s)

    async def _pause(self, until_s: float) -> float:
        """Wait, unless there is work; when the next pulse is due."""
        loop = asyncio.get_running_loop()
        self._now.clear()
        try:
            async with asyncio.timeout_at(until_s):
                await self._now.wait()
        except TimeoutError:
            return until_s
        return loop.time()

    async def _send(self, interval_ms: int) -> None:
        sign = pulse.Pulse(incarnation=self._incarnation, sequence=self._sequence, interval_ms=interval_ms)
        message = Message(subject=self._subject, data=pulse.encode(sign))
        try:
            self._sequence += await self._broker.publish_now([message], lambda: True)
        except BrokerError as error:
            log.debug("pulse-not-sent", reason=str(error))
