"""What a client sees of a stream over time: its answers, and around each failure how long it had none.

All times are seconds since the stream began, by the client's clock, unless a name says otherwise.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.result import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One frame's answer. `right`: whether it is what the frame shows; `expected`: the accuracy that it came with."""

    at_s: float
    technique: str
    epoch: int
    right: bool
    expected: float | None
    latency_ms: float


@dataclass(slots=True, kw_only=True)
class Outage:
    """A node's loss, and what came of it, as answers come in.

    Attributes:
        node: that was killed.
        killed_s: when.
        epoch_before: the newest that had been seen by then; answers of a newer one are due to the recovery.
        technique, exit: of the first answer after the switch; `repartition` where frames waited for the new plan.
        first_answer_s: from the kill to the first answer that the recovery made possible; None: not yet.
        healed_s: from the kill to the first answer of a full plan.
        pause_s: longest time without any answer, from the kill until it was healed.
        bridged, bridged_right: answers that came about by the technique, and those of them that were right.
        expected: the mean accuracy that they were sent with; None: not known.
        controller: the controller's own record of it, as in its journal; None: not known.
    """

    node: str
    killed_s: float
    epoch_before: int
    technique: str = ""
    exit: str | None = None
    first_answer_s: float | None = None
    healed_s: float | None = None
    pause_s: float = 0.0
    bridged: int = 0
    bridged_right: int = 0
    controller: dict[str, Any] | None = None
    _expected_sum: float = 0.0
    _expected_known: int = 0

    @property
    def expected(self) -> float | None:
        return self._expected_sum / self._expected_known if self._expected_known else None

    @property
    def measured(self) -> float | None:
        """The share of the bridged answers that were right."""
        return self.bridged_right / self.bridged if self.bridged else None

    def see(self, answer: Answer, exit_name: str | None, before_s: float) -> None:
        """An answer that came after the kill; the one before it came at `before_s`."""
        if self.healed_s is None:
            self.pause_s = max(self.pause_s, answer.at_s - max(before_s, self.killed_s))
        if answer.epoch <= self.epoch_before:
            return
        since_s = answer.at_s - self.killed_s
        degraded = answer.technique != "none"
        if self.first_answer_s is None:
            self.first_answer_s = since_s
            self.technique = answer.technique if degraded else "repartition"
            self.exit = exit_name
        if degraded:
            self._bridge(answer)
        elif self.healed_s is None:
            self.healed_s = since_s

    def _bridge(self, answer: Answer) -> None:
        self.bridged += 1
        self.bridged_right += answer.right
        if answer.expected is not None:
            self._expected_sum += answer.expected
            self._expected_known += 1

    def document(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "node": self.node,
            "killed_s": round(self.killed_s, 6),
            "technique": self.technique or None,
            "exit": self.exit,
            "first_answer_ms": _ms(self.first_answer_s),
            "healed_ms": _ms(self.healed_s),
            "pause_ms": _ms(self.pause_s),
            "bridged": {"frames": self.bridged, "accuracy": self.measured, "expected_accuracy": self.expected},
            "controller": self.controller,
        }


@dataclass(slots=True)
class Timeline:
    """The answers in order of their arrival, the outages, and whatever else is worth a mark: (time, what it was)."""

    answers: list[Answer] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    epoch: int = 0
    right: int = 0

    def answered(self, at_s: float, result: Result, label: int) -> None:
        """A frame's answer came; `label`: what the frame shows."""
        answer = Answer(
            at_s=at_s,
            technique=result.technique,
            epoch=result.epoch,
            right=result.class_index == label,
            expected=result.expected_accuracy,
            latency_ms=result.latency_ms,
        )
        before_s = self.answers[-1].at_s if self.answers else 0.0
        self.answers.append(answer)
        self.right += answer.right
        self.epoch = max(self.epoch, answer.epoch)
        if self.outages:
            self.outages[-1].see(answer, result.exit, before_s)

    def killed(self, at_s: float, node: str) -> Outage:
        """A node was killed; answers from now on are judged by it."""
        outage = Outage(node=node, killed_s=at_s, epoch_before=self.epoch)
        self.outages.append(outage)
        return outage


@dataclass(frozen=True, slots=True)
class Bin:
    """How many answers came within `width_s` from `start_s` on, by technique."""

    start_s: float
    width_s: float
    counts: Mapping[str, int]

    @property
    def frames(self) -> int:
        return sum(self.counts.values())


def bins(answers: Sequence[Answer], width_s: float, start_s: float, end_s: float) -> list[Bin]:
    """The answers from `start_s` to `end_s`, in bins of equal width."""
    counts: list[Counter[str]] = [Counter() for _ in range(max(1, round((end_s - start_s) / width_s)))]
    for answer in answers:
        at = math.floor((answer.at_s - start_s) / width_s)
        if 0 <= at < len(counts):
            counts[at][answer.technique] += 1
    return [Bin(start_s + at * width_s, width_s, dict(found)) for at, found in enumerate(counts)]


@dataclass(frozen=True, slots=True)
class Point:
    """The share that is right of the answers around one, all of the same technique. `bridge`: the epoch of the way
    around a failure by which it came; 0: of a full plan."""

    at_s: float
    share: float
    technique: str
    bridge: int


def rolling_accuracy(answers: Sequence[Answer], window: int, least: int) -> list[Point]:
    """Of each answer the share that is right of the last `window` answers that came about the same way; the first
    `least` of them have the share of all those.

    A full plan's windows go on where they were before a failure; each way around one has windows of its own. An average
    over both would be the accuracy of neither.
    """
    ways: dict[tuple[str, int], list[Answer]] = {}
    for answer in answers:
        ways.setdefault((answer.technique, _bridge(answer)), []).append(answer)
    points = [
        Point(answer.at_s, share, technique, bridge)
        for (technique, bridge), run in ways.items()
        for answer, share in zip(run, _rolling([answer.right for answer in run], window, least), strict=True)
    ]
    return sorted(points, key=lambda point: point.at_s)


def _bridge(answer: Answer) -> int:
    return 0 if answer.technique == "none" else answer.epoch


def _rolling(right: Sequence[bool], window: int, least: int) -> list[float]:
    first = min(least, len(right))
    total = sum(right[:first])
    shares = [total / first] * first
    for at in range(first, len(right)):
        total += right[at] - (right[at - window] if at >= window else 0)
        shares.append(total / min(at + 1, window))
    return shares


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
