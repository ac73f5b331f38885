"""A stream over time: throughput, accuracy and latency in slots of equal width. Pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from understudy.emulation.disturbance import Answer

SLOT_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The answers that came from `at_s` until the next slot begins.

    Attributes:
        answers: how many, by technique.
        labelled, correct: answers to frames with a label, and those that are what it says.
        median_ms, largest_ms: latency; None: no answer came.
    """

    at_s: float
    answers: Mapping[str, int]
    labelled: int
    correct: int
    median_ms: float | None
    largest_ms: float | None


def series(answers: Sequence[Answer], end_s: float, *, slot_s: float = SLOT_S) -> list[Slot]:
    """From the beginning of the stream to `end_s`, which is within the last slot; later answers are in no slot."""
    slots: list[list[Answer]] = [[] for _ in range(max(1, math.ceil(end_s / slot_s)))]
    for answer in answers:
        if 0 <= (at := int(answer.at_s / slot_s)) < len(slots):
            slots[at].append(answer)
    return [_slot(round(number * slot_s, 6), held) for number, held in enumerate(slots)]


def _slot(at_s: float, held: Sequence[Answer]) -> Slot:
    latencies = [answer.latency_s * 1e3 for answer in held]
    known = [answer.correct for answer in held if answer.correct is not None]
    return Slot(
        at_s=at_s,
        answers=dict(Counter(answer.technique for answer in held)),
        labelled=len(known),
        correct=sum(known),
        median_ms=round(statistics.median(latencies), 2) if latencies else None,
        largest_ms=round(max(latencies), 2) if latencies else None,
    )


def accuracy(slots: Sequence[Slot], width: int) -> list[float | None]:
    """The share of right answers over `width` slots around each; None where no frame with a label was answered."""
    shares: list[float | None] = []
    for number in range(len(slots)):
        near = slots[max(0, number - width // 2) : number + (width + 1) // 2]
        labelled = sum(slot.labelled for slot in near)
        shares.append(sum(slot.correct for slot in near) / labelled if labelled else None)
    return shares
