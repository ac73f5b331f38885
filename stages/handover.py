"""What one head asks another: requests on the handover subject of its node (docs/protocol.md, Heads).

Which frames it holds, and which it will finish when it shall take no more: answered with their entries
(`stages.identity.entry`). Which of some frames it has answered lately: answered with the digests of their ids.
That it is no head any more: answered with nothing, when it puts out nothing more of what it had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from broker import subjects
from broker.errors import BrokerError, NoRespondersError, WireError
from broker.port import Broker, Buffer
from stages.identity import DIGEST_BYTES, ENTRY_BYTES, split

log = structlog.get_logger("understudy.head")

TIMEOUT_S = 1.0

OVER_TIMEOUT_S = 0.1

_HAND_OVER, _OVER, _WHAT, _ANSWERED = b"hand over", b"over", b"what", b"answered "


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """As it came. `epoch`: of the route of the head that asks, where it says so; `marks`: digests of ids."""

    kind: Literal["hand over", "over", "what", "answered"]
    epoch: int = 0
    marks: tuple[bytes, ...] = ()


def read_question(data: Buffer) -> Question:
    """Raises WireError where it is none."""
    question = bytes(data)
    if question == _WHAT:
        return Question(kind="what")
    if question.startswith(_ANSWERED):
        return Question(kind="answered", marks=tuple(split(question[len(_ANSWERED) :], DIGEST_BYTES)))
    words, _, epoch = question.rpartition(b" ")
    if words in (_HAND_OVER, _OVER) and epoch.isdigit():
        return Question(kind="over" if words == _OVER else "hand over", epoch=int(epoch[:20]))
    raise WireError(f"{question[:40]!r} is no question to a head")


class OtherHead:
    """Asks the head on another node. None: it does not say."""

    def __init__(self, broker: Broker, pipeline: str, node: str) -> None:
        self._broker = broker
        self._subject = subjects.handover(pipeline, node)
        self.node = node

    async def hand_over(self, epoch: int) -> list[bytes] | None:
        """It takes no more frames from then on, and finishes these (entries). `epoch`: of the route of who asks."""
        return _listed(await self._ask(b"%s %d" % (_HAND_OVER, epoch)))

    async def held(self) -> list[bytes] | None:
        """Which frames it holds (entries)."""
        return _listed(await self._ask(_WHAT))

    async def answered(self, marks: Sequence[bytes]) -> list[bytes] | None:
        """Which of these frames (digests of their ids) it has answered lately."""
        answer = await self._ask(_ANSWERED + b"".join(marks))
        return None if answer is None else split(answer, DIGEST_BYTES)

    async def is_over(self, epoch: int) -> bool:
        """Whether it says that nothing of it can come any more, behind its last result.

        Raises:
            NoRespondersError: nobody is there to ask: its process has ended, or its broker, or the connection between
                that one and ours.
        """
        question = b"%s %d" % (_OVER, epoch)
        try:
            await self._broker.request(self._subject, question, timeout_s=OVER_TIMEOUT_S)
        except NoRespondersError:
            raise
        except BrokerError:
            return False
        return True

    async def _ask(self, question: bytes) -> bytes | None:
        try:
            return bytes((await self._broker.request(self._subject, question, timeout_s=TIMEOUT_S)).data)
        except BrokerError as error:
            log.debug("head-does-not-answer", node=self.node, reason=str(error))
            return None


def _listed(answer: bytes | None) -> list[bytes] | None:
    return None if answer is None else split(answer, ENTRY_BYTES)
