"""What came of a fault: how long nobody was answered, who noticed it and when, and when all was well again.

Two see it: the client, by its answers (`Answer`), and the controller, by its journal (`understudy.events.Episode`).
The words are those of `bench.recovery`: the *first answer* is the first of a newer epoch than all before the fault, the
*full* one the first of those that comes by no technique; here none may follow it that does, until the next step.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from understudy.events import Episode

NOTICED_S = 0.2
NOTICED_GAPS = 5.0
"""A time without an answer that is longer than this, and than so many usual ones, is a disturbance."""

TOGETHER_S = 1.0
"""Steps that follow one another so soon are judged by the same answers: nobody can tell which did what."""

SLACK_S = 0.25
"""The controller may know so much earlier than the engine says that it has done it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Moments are seconds since the stream began.

    Attributes:
        right: it is what the whole network says, run in one piece.
        correct: it is what the frame shows; None: nobody knows.
        epoch: of the plan that the frame followed.
    """

    sent_s: float
    at_s: float
    technique: str
    right: bool
    correct: bool | None = None
    epoch: int = 0

    @property
    def degraded(self) -> bool:
        return self.technique != "none"

    @property
    def latency_s(self) -> float:
        return self.at_s - self.sent_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A step of a scenario that was carried out, at `at_s`. `note`: what could not be done as asked."""

    action: str
    who: str
    at_s: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """What came of a fault until the next step. None: it did not come to that, or nobody knows.

    Attributes:
        silence_s: the longest time without an answer that reaches into it.
        healed_s: from the fault to the end of the last disturbance; 0: none was seen; None: it lasted to the end.
        first_answer_s, full_s: from the fault to the first answer of a newer epoch, and to the first of those that is
            not degraded and has no degraded one after it.
        degraded: answers by another technique than `none`; `degraded_right` of them were right all the same.
    """

    silence_s: float
    healed_s: float | None
    first_answer_s: float | None
    full_s: float | None
    degraded: Counter[str]
    degraded_right: int


def disturbance(answers: Sequence[Answer], began_s: float, ended_s: float) -> Disturbance:
    """What a client saw between two moments; `answers` in the order in which they came."""
    times = [answer.at_s for answer in answers]
    usual_s = statistics.median(b - a for a, b in itertools.pairwise(times)) if len(times) > 1 else 0.0
    limit_s = max(NOTICED_S, NOTICED_GAPS * usual_s)
    seen = [answer for answer in answers if began_s <= answer.at_s < ended_s]
    last_before_s = max((at_s for at_s in times if at_s < began_s), default=began_s)
    gaps = list(itertools.pairwise([last_before_s, *(answer.at_s for answer in seen), ended_s]))
    disturbed = [b for a, b in gaps if b - a > limit_s] + [answer.at_s for answer in seen if answer.degraded]
    last_s = max(disturbed, default=began_s)
    # The last gap, and a last answer that was degraded, may go on beyond the end.
    lasts = last_s == ended_s or (bool(seen) and seen[-1].degraded)
    # Where no answer came before, nobody knows which epoch is a newer one.
    epoch = max((answer.epoch for answer in answers if answer.at_s < began_s), default=None)
    newer = [] if epoch is None else [answer for answer in seen if answer.epoch > epoch]
    full = list(itertools.takewhile(lambda answer: not answer.degraded, reversed(newer)))
    return Disturbance(
        silence_s=max((b - a for a, b in gaps), default=0.0),
        healed_s=None if lasts else last_s - began_s,
        first_answer_s=next((answer.at_s - began_s for answer in newer), None),
        full_s=full[-1].at_s - began_s if full else None,
        degraded=Counter(answer.technique for answer in seen if answer.degraded),
        degraded_right=sum(answer.right for answer in seen if answer.degraded),
    )


def record_of(episodes: Sequence[Episode], fault: Fault, *, began_at: float, until_s: float) -> Episode | None:
    """The controller's record of this fault: the first failure of that node since then.

    Args:
        began_at: when the stream began, seconds since 1970.
        until_s: the next step.
    """
    for episode in episodes:
        at_s = episode.at - began_at
        if episode.kind == "failure" and fault.who in episode.nodes and fault.at_s - SLACK_S <= at_s < until_s:
            return episode
    return None


def sent_again(episodes: Sequence[Episode]) -> int:
    """Frames that heads sent again between failures and their heals. Of failures that overlap each counts those of the
    others as well: the most of them counts."""
    total, group, ends_at = 0, 0, 0.0
    for episode in sorted((one for one in episodes if one.kind == "failure"), key=lambda one: one.at):
        if episode.at > ends_at:
            total, group = total + group, 0
        group = max(group, episode.sent_again)
        ends_at = max(ends_at, episode.at + (episode.healed_ms or 0.0) / 1e3)
    return total + group
