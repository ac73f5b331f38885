"""The subscriptions of one MQTT connection, and which of them a message is for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from broker.dispatch import QueuedSubscription
from broker.mqtt_topics import filter_of
from broker.port import Handler, Message

QUEUE_MESSAGES = 65_536


class MqttSubscription(QueuedSubscription):
    """One subscription. At most `QUEUE_MESSAGES` messages wait for its handler."""

    def __init__(self, subject: str, handler: Handler, remove: Callable[[MqttSubscription], Awaitable[None]]) -> None:
        self.filter = filter_of(subject)
        self.wild = "+" in self.filter or "#" in self.filter
        self._remove = remove
        super().__init__(subject, handler, kind="mqtt", queue_messages=QUEUE_MESSAGES)

    async def unsubscribe(self) -> None:
        if self._ended:
            return
        self._ended = True
        await self._remove(self)
        await self.stop()


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
