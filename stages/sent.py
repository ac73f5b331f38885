"""What a node has sent to another: asked by the head that takes over from one on that other node, which was lost.

Of a frame whose outcome was never sent to the lost head's node that can have said nothing but an error of its own
(`stages.in_doubt`).
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable

from broker import subjects
from broker.activation import Activation, Failure
from broker.errors import BrokerError, WireError
from broker.malformed import Malformed
from broker.port import Broker, Message, Subscription
from stages.identity import ENTRY_BYTES, entries, split

FRAMES = 4096
"""That are remembered of each node to which some were sent: more than can be under way."""

KNOWS_AFTER_S = 5.0
"""A process that has begun since may have sent something before, as another one."""

ASK_TIMEOUT_S = 0.2


class Sent:
    """Made with the connection for data. `note` each message; `listen` as soon as the pipeline is known.

    Args:
        active_epoch: what this node serves.
    """

    def __init__(self, broker: Broker, node: str, *, active_epoch: Callable[[], int], malformed: Malformed) -> None:
        self._broker = broker
        self._node = node
        self._active_epoch = active_epoch
        self._malformed = malformed
        self._ids: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=FRAMES))
        self._since_s = time.monotonic()
        self._subscription: Subscription | None = None

    def note(self, target: str, message: Activation | Failure) -> None:
        """A message goes to another node."""
        self._ids[target].extend([frame.id for frame in message.frames])

    async def listen(self, pipeline: str) -> None:
        """Idempotent."""
        if self._subscription is None:
            self._subscription = await self._broker.subscribe(subjects.sent(pipeline, self._node), self._on_question)

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def _on_question(self, message: Message) -> None:
        try:
            epoch, target = _read(bytes(message.data))
        except WireError as error:
            self._malformed.note_message("sent", message, error.reason)
            return
        # On an older route this node may still send something there: who asks asks again.
        knows = self._active_epoch() >= epoch and time.monotonic() - self._since_s > KNOWS_AFTER_S
        if message.reply and knows:
            await self._broker.publish(message.reply, entries(self._ids.get(target, ())))


async def ask_sent(broker: Broker, pipeline: str, *, by: str, to: str, epoch: int) -> list[bytes] | None:
    """Which frames node `by` has sent to node `to` lately (entries), and will send no more of, since it serves `epoch`,
    or a later one. None: it does not say."""
    question = f"{epoch} {to}".encode()
    try:
        answer = await broker.request(subjects.sent(pipeline, by), question, timeout_s=ASK_TIMEOUT_S)
    except BrokerError:
        return None
    return split(answer.data, ENTRY_BYTES)


def _read(question: bytes) -> tuple[int, str]:
    epoch, _, target = question.partition(b" ")
    if not epoch.isdigit() or not target:
        raise WireError(f"{question[:40]!r} is no question for what was sent")
    return int(epoch[:20]), target.decode(errors="replace")
