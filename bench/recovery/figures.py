"""What is computed from answers: percentiles, silences, lateness, lost and doubled frames. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from bench.harness import percentile

AROUND_S = 1.0
"""A change is looked at from so long before to so long after it."""

HEALTHY_S = 1.0
"""It is compared with so long before that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One frame and its result. Times in seconds of one clock.

    Attributes:
        number: of the frame, in the order of publishing.
        image: which of the subject's frames it is.
        error: code of the result, or why there is none; empty: it was answered.
        hops: (node, cut) that it went through.
    """

    number: int
    image: int
    sent_s: float
    done_s: float
    epoch: int = 0
    technique: str = ""
    class_index: int | None = None
    expected_accuracy: float | None = None
    error: str = ""
    hops: tuple[tuple[str, int], ...] = ()

    @property
    def latency_s(self) -> float:
        return self.done_s - self.sent_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of one quantity, in milliseconds. All NaN where nothing was measured."""

    count: int
    median: float
    p95: float
    p99: float
    largest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        ordered = sorted(values)
        median, p95, p99, largest = (percentile(ordered, share) for share in (0.5, 0.95, 0.99, 1.0))
        return cls(count=len(ordered), median=median, p95=p95, p99=p99, largest=largest)


def longest_silence_s(done_s: Sequence[float], begin_s: float, end_s: float) -> float:
    """The longest time without an answer that reaches into [begin_s, end_s]; `done_s` are all moments of answers.
    The time since the last answer counts up to `end_s` where none follows."""
    moments = sorted(done_s)
    gaps = [(one, other) for one, other in pairwise(moments) if other > begin_s and one < end_s]
    if moments and moments[-1] < end_s:
        gaps.append((max(moments[-1], begin_s), end_s))
    return max((other - one for one, other in gaps), default=0.0)


def lateness_s(answers: Sequence[Answer], change_s: float) -> float:
    """The latency of the slowest frame sent within `AROUND_S` of a change, less the 99th percentile of those sent in
    the `HEALTHY_S` before. NaN where either has no frame."""
    begin_s = change_s - AROUND_S
    around = [a.latency_s for a in answers if begin_s <= a.sent_s < change_s + AROUND_S]
    before = [a.latency_s for a in answers if begin_s - HEALTHY_S <= a.sent_s < begin_s]
    return max(around) - percentile(before, 0.99) if around and before else math.nan


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of frames.

    Attributes:
        sent, answered: frames.
        lost: never answered, or answered with an error.
        doubled: a stranger on the output subject saw more than one result of the frame.
        wrong: another class than the healthy network's, though the answer says that nothing was replaced.
        degraded: answers that say that something was.
        unseen: answered to their sender, but not seen by the stranger.
        notes: the first few of what was not right.
    """

    sent: int = 0
    answered: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    degraded: int = 0
    unseen: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        return self.lost + self.doubled + self.wrong

    def add(self, other: Tally) -> None:
        for name in ("sent", "answered", "lost", "doubled", "wrong", "degraded", "unseen"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.notes += other.notes[: max(0, 20 - len(self.notes))]


def tally(
    answers: Sequence[Answer], seen: Mapping[int, int], *, exact: Sequence[bool], agreed: Sequence[bool]
) -> Tally:
    """Count.

    Args:
        seen: frame number to how many results of it the stranger saw.
        exact: of each answer, whether it claims to be the healthy network's.
        agreed: of each answer, whether it is.
    """
    found = Tally(sent=len(answers))
    for answer, claims, right in zip(answers, exact, agreed, strict=True):
        if answer.error:
            found.lost += 1
            found.notes.append(f"frame {answer.number}: {answer.error}")
            continue
        found.answered += 1
        found.degraded += answer.technique != "none"
        if claims and not right:
            found.wrong += 1
            found.notes.append(f"frame {answer.number}: class {answer.class_index} of epoch {answer.epoch}, wrong")
        times = seen.get(answer.number, 0)
        found.unseen += times == 0
        if times > 1:
            found.doubled += 1
            found.notes.append(f"frame {answer.number}: {times} results")
    found.notes = found.notes[:20]
    return found


def weights(step: int = 10) -> list[tuple[float, float, float]]:
    """All triples of tenths from 0.1 to 0.9 that add up to 1: CONTINUER's sweep (its table VII)."""
    return [
        (one / step, other / step, (step - one - other) / step)
        for one in range(1, step - 1)
        for other in range(1, step - one)
    ]


def verdict(value: float, wanted: float, *, least: bool = False) -> str:
    """`yes`, `no`, or `-` where nothing was measured. `least`: the value must be at least, not at most, so much."""
    if math.isnan(value):
        return "-"
    return "yes" if (value >= wanted if least else value <= wanted) else "no"
