"""Where a head's results go: to the output subject, to who asked for them, and dead letters beside.

When the connection is lost nobody can say whether the broker had the newest results. Who asked for one gets it again;
on the output subject it is not repeated, since it may have been there: whoever misses it publishes its frame again.
Where results are stored (durable delivery), a frame is acknowledged when its result is.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from broker import subjects
from broker.errors import BrokerError
from broker.headers import ID_HEADER
from broker.jetstream import ACK, check_stored
from broker.port import Broker, Buffer, Message
from stages.fence import Fence
from stages.in_doubt import InDoubt

log = structlog.get_logger("understudy.head")

RETRY_S = 0.01
"""Between two attempts while the connection is down."""

CONFIRM_S = 5.0
CONFIRM_EVERY_S = 0.05
"""Each question costs what a small message does: after every batch of results, some per cent of a head's work."""

STORE_AGAIN_S = 1.0
"""A result whose storing is not confirmed after so long is published again; it is stored once."""

RECENT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A frame's result.

    Attributes:
        result: JSON.
        replies: who asked for it, beside the output subject.
        acks: subjects that take the acknowledgement of a stored frame.
        dead_letter: JSON; empty: none.
    """

    id: str
    result: bytes
    replies: Sequence[str] = ()
    acks: Sequence[str] = ()
    dead_letter: bytes = b""


@dataclass(slots=True)
class _Unstored:
    """A result on its way to the store, and what is acknowledged when it is there."""

    frame_id: str
    message: Message
    acks: list[str]
    sent_s: float = field(default_factory=time.monotonic)


class Outlet:
    """Publishes for one pipeline, while `run` runs. Never raises: what the broker does not take is logged.

    Args:
        fence: what is another head's to answer is not published.
        stored: the broker stores the results.
    """

    def __init__(self, broker: Broker, pipeline: str, *, fence: Fence | None = None, stored: bool = False) -> None:
        self._broker = broker
        self._fence = fence
        self._stores = stored
        self._results = subjects.results_out(pipeline)
        self._dead = subjects.dead_letters(pipeline)
        self._inbox = broker.new_inbox()
        self._numbers = itertools.count()
        self._unconfirmed: list[Message] = []
        self._unstored: dict[str, _Unstored] = {}
        self._stored: OrderedDict[str, None] = OrderedDict()
        self._lost = 0  # how often the connection was
        self._confirmed_at = 0  # what that was when the broker last said that it has everything
        self._work = asyncio.Event()
        self.in_doubt: InDoubt | None = None
        """Whose answers do not go to the output subject yet."""
        self._releasing: set[str] = set()

    @property
    def max_payload_bytes(self) -> int:
        return self._broker.max_payload_bytes

    async def put(self, answers: Sequence[Answer]) -> None:
        """All of them in one step, so that nothing comes between the fence's word and the socket."""
        if messages := [message for answer in answers for message in self._messages(answer)]:
            await self._push(messages)

    async def answer(self, reply: str, data: bytes) -> None:
        """To who asked, if anybody waits for it."""
        if subjects.is_answerable(reply):
            await self._publish(reply, data)

    async def acknowledge(self, ack: str, word: bytes = ACK) -> None:
        """Say to the store what became of a frame."""
        await self._publish(ack, word)

    async def _publish(self, subject: str, data: bytes) -> None:
        try:
            await self._broker.publish(subject, data)
        except BrokerError as error:
            log.error("publish-failed", subject=subject, reason=str(error))

    def withheld_ids(self) -> list[str]:
        """Of the frames whose results are not out yet."""
        return [*self._releasing, *(() if self.in_doubt is None else self.in_doubt.ids)]

    async def narrow(self, entries: Sequence[bytes]) -> None:
        """Only these are in doubt: the others go out."""
        if self.in_doubt is not None:
            await self._release(self.in_doubt.narrow(entries))

    async def settle(self) -> int:
        """Nothing is in doubt any more: what was withheld goes out. How many that was."""
        # It stays: what the lost head has answered, and this one has not yet, must not go out later either.
        return 0 if self.in_doubt is None else await self._release(self.in_doubt.settle())

    async def _release(self, withheld: Mapping[str, Message]) -> int:
        if withheld:
            self._releasing |= withheld.keys()
            try:
                await self._push(list(withheld.values()))
            finally:
                self._releasing -= withheld.keys()
        return len(withheld)

    async def put_again(self, answer: Answer) -> None:
        """A stored frame was delivered again, though it was answered: its acknowledgement was lost, or the storing of
        its result."""
        pending = next((item for item in self._unstored.values() if item.frame_id == answer.id), None)
        if pending is not None:
            pending.acks += answer.acks
        elif answer.id in self._stored:
            for ack in answer.acks:
                await self.acknowledge(ack)
        else:
            await self.put([answer])

    def on_connection(self, up: bool) -> None:
        """It was lost, or is there again."""
        if not up:
            self._lost += 1
        self._work.set()

    async def run(self) -> None:
        """Work until cancelled."""
        if self._stores:
            subscription = await self._broker.subscribe(f"{self._inbox}.*", self._on_stored)
            try:
                await self._store_for_ever()
            finally:
                await subscription.unsubscribe()
        else:
            await self._confirm_for_ever()

    # ---- publishing --------------------------------------------------------------------------------------------

    def _messages(self, answer: Answer) -> list[Message]:
        replies = [
            Message(subject=reply, data=answer.result) for reply in answer.replies if subjects.is_answerable(reply)
        ]
        output = self._to_output(answer)
        is_withheld = self.in_doubt is not None and self.in_doubt.takes(answer.id, output)
        messages = replies if is_withheld else [output, *replies]
        if answer.dead_letter:
            messages.append(Message(subject=self._dead, data=answer.dead_letter))
        if replies and not self._stores:
            self._unconfirmed += replies
            self._work.set()
        return messages

    def _to_output(self, answer: Answer) -> Message:
        if not self._stores:
            return Message(subject=self._results, data=answer.result)
        number = str(next(self._numbers))
        headers = {ID_HEADER: answer.id}
        message = Message(subject=self._results, data=answer.result, reply=f"{self._inbox}.{number}", headers=headers)
        self._unstored[number] = _Unstored(answer.id, message, list(answer.acks))
        self._work.set()
        return message

    async def _push(self, messages: Sequence[Message]) -> None:
        try:
            while self._fence is None or await self._fence.passes():
                if await self._broker.publish_now(messages, lambda: self._fence is None or self._fence.is_open()):
                    return
                await asyncio.sleep(RETRY_S)
            self._drop(messages)  # they are another head's to give
        except BrokerError as error:
            self._drop(messages)
            log.error("publish-failed", subject=self._results, reason=str(error))

    def _drop(self, messages: Sequence[Message]) -> None:
        gone = {id(message) for message in messages}
        self._unconfirmed = [message for message in self._unconfirmed if id(message) not in gone]
        self._unstored = {key: item for key, item in self._unstored.items() if id(item.message) not in gone}

    # ---- at-least-once: what the broker has confirmed ------------------------------------------------------------

    async def _confirm_for_ever(self) -> None:
        """Ask the broker again and again whether it has everything; after a loss, tell those who asked again."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._unconfirmed:
                await self._confirm()
                await asyncio.sleep(CONFIRM_EVERY_S)

    async def _confirm(self) -> None:
        lost, asked = self._lost, list(self._unconfirmed)
        try:
            await self._broker.flush(timeout_s=CONFIRM_S)
        except BrokerError as error:
            log.debug("results-not-confirmed", reason=str(error))
            await asyncio.sleep(RETRY_S)
            return
        before, self._confirmed_at = self._confirmed_at, lost
        if self._lost == before:
            self._drop(asked)
        else:
            log.info("results-published-again", results=len(asked))
            await self._push(asked)

    # ---- durable: what the broker has stored -------------------------------------------------------------------

    async def _store_for_ever(self) -> None:
        lost = self._lost
        while True:
            try:
                async with asyncio.timeout(STORE_AGAIN_S):
                    await self._work.wait()
                    self._work.clear()
            except TimeoutError:
                pass
            now, at_once = time.monotonic(), self._lost != lost and self._broker.connected
            late = [item for item in self._unstored.values() if at_once or now - item.sent_s > STORE_AGAIN_S]
            if at_once:
                lost = self._lost
            for item in late:
                item.sent_s = now
            if late:
                log.info("results-published-again", results=len(late))
                await self._push([item.message for item in late])

    async def _on_stored(self, message: Message) -> None:
        number = message.subject.rpartition(".")[2]
        item = self._unstored.get(number)
        if item is None:
            return
        if not await self._is_stored(message.data):
            return
        del self._unstored[number]
        self._stored[item.frame_id] = None
        if len(self._stored) > RECENT:
            self._stored.popitem(last=False)
        for ack in item.acks:
            await self.acknowledge(ack)

    async def _is_stored(self, data: Buffer) -> bool:
        if not data:  # nobody stores: the stream is gone, or its server is starting
            return False
        try:
            check_stored(data)
        except BrokerError as error:
            log.warning("result-not-stored", reason=str(error), hint="it is published again")
            return False
        return True
