"""The subscriptions of one MQTT connection, and which of them a message is for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from broker.dispatch import run_handler
from broker.mqtt_topics import filter_of, pattern
from broker.port import Handler, Message

QUEUE_MESSAGES = 65_536
CLOSE_TIMEOUT_S = 2.0

_log = structlog.get_logger(__name__)


class MqttSubscription:
    """One subscription; its handler runs in one task, one message after the other.

    At most 65,536 messages wait for the handler; what comes after that is dropped, with a warning in the log.
    """

    def __init__(self, subject: str, handler: Handler, remove: Callable[[MqttSubscription], Awaitable[None]]) -> None:
        self.subject = subject
        self.filter = filter_of(subject)
        self.wild = "+" in self.filter or "#" in self.filter
        self._pattern = pattern(subject)
        self._handler = handler
        self._remove = remove
        self._ended = False
        self._messages: asyncio.Queue[Message] = asyncio.Queue(QUEUE_MESSAGES)
        self.task = asyncio.create_task(self._run(), name=f"mqtt subscription {subject}")

    def matches(self, subject: str) -> bool:
        return self._pattern.fullmatch(subject) is not None

    def put(self, message: Message) -> None:
        try:
            self._messages.put_nowait(message)
        except asyncio.QueueFull:
            _log.warning("slow_consumer", subject=message.subject, subscription=self.subject)

    async def unsubscribe(self) -> None:
        if self._ended:
            return
        self._ended = True
        await self._remove(self)
        await self.stop()

    async def stop(self) -> None:
        self._ended = True
        # Asked from inside its own handler, the task ends after it: see `_run`.
        if self.task is not asyncio.current_task():
            self.task.cancel()
            await asyncio.wait([self.task], timeout=CLOSE_TIMEOUT_S)

    async def _run(self) -> None:
        while not self._ended:
            message = await self._messages.get()
            await run_handler(self._handler, message, subscription=self.subject)


class Subscriptions:
    """Those of one connection; they outlive its loss."""

    def __init__(self) -> None:
        self._exact: dict[str, list[MqttSubscription]] = {}
        self._wild: list[MqttSubscription] = []

    def all(self) -> list[MqttSubscription]:
        return [*self._wild, *(one for several in self._exact.values() for one in several)]

    @property
    def filters(self) -> set[str]:
        return {one.filter for one in self.all()}

    def add(self, subscription: MqttSubscription) -> None:
        if subscription.wild:
            self._wild.append(subscription)
        else:
            self._exact.setdefault(subscription.subject, []).append(subscription)

    def remove(self, subscription: MqttSubscription) -> None:
        of_subject = self._wild if subscription.wild else self._exact.get(subscription.subject, [])
        if subscription in of_subject:
            of_subject.remove(subscription)
        if not self._exact.get(subscription.subject, [subscription]):
            del self._exact[subscription.subject]

    def deliver(self, message: Message) -> None:
        for subscription in self._exact.get(message.subject, ()):
            subscription.put(message)
        for subscription in self._wild:
            if subscription.matches(message.subject):
                subscription.put(message)
