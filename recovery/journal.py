"""What happened to a pipeline and what was done about it: the records behind `understudy events`."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from recovery.objectives import Choice

Stage = Literal["detected", "bridged", "answering", "healed"]

KEPT_RECORDS = 200


@dataclass(slots=True, kw_only=True)
class Record:
    """One failure, or one planned change. Times in seconds from `at`, when the controller knew of it; None: not yet.

    Attributes:
        at: seconds since 1970, by the controller's clock.
        kind: `failure`, or `change` for a plan that was made without one.
        cause: `disconnected` (the broker said so), `silent` (no sign of life), `left`, `broken`; of a change what it is
            for: `start`, `node`, `leaving`, `update`.
        nodes: that were lost, or joined.
        silence_s: how long nothing had been heard of the first of them.
        technique, exit: of the bridge; `repartition`: there is none, and frames wait.
        choice: the estimates, and the objectives that are not kept.
        sent_again, degraded: frames, between the failure and the heal.
        latency_s: of answers over the bridge, mean of the last ones.
    """

    number: int
    kind: Literal["failure", "change"]
    cause: str
    nodes: tuple[str, ...]
    at: float
    began_s: float
    silence_s: float | None = None
    technique: str = "repartition"
    exit: str = ""
    choice: Choice | None = None
    bridge_epoch: int = 0
    heal_epoch: int = 0
    decided_s: float | None = None
    routed_s: float | None = None
    first_answer_s: float | None = None
    healed_s: float | None = None
    latency_s: float | None = None
    before: tuple[int, int] = (0, 0)
    sent_again: int = 0
    degraded: int = 0
    stage: Stage = "detected"

    def document(self) -> dict[str, Any]:
        """The record as JSON values; docs/protocol.md lists the fields."""
        option = None if self.choice is None else self.choice.option
        estimates = None
        if option is not None:
            estimates = {
                "accuracy": _rounded(option.accuracy, 4),
                "low": _rounded(option.low, 4),
                "high": _rounded(option.high, 4),
                "latency_ms": _ms(option.latency_s),
                "downtime_ms": _ms(option.downtime_s),
            }
        return {
            "number": self.number,
            "kind": self.kind,
            "cause": self.cause,
            "stage": self.stage,
            "at": round(self.at, 6),
            "nodes": list(self.nodes),
            "technique": self.technique,
            "exit": self.exit or None,
            "violated": [] if self.choice is None else list(self.choice.violated),
            "bridge_epoch": self.bridge_epoch or None,
            "heal_epoch": self.heal_epoch or None,
            "silence_ms": _ms(self.silence_s),
            "decided_ms": _ms(self.decided_s),
            "routed_ms": _ms(self.routed_s),
            "first_answer_ms": _ms(self.first_answer_s),
            "healed_ms": _ms(self.healed_s),
            "estimates": estimates,
            "measured": {"latency_ms": _ms(self.latency_s), "downtime_ms": _ms(self.first_answer_s)},
            "frames": {"sent_again": self.sent_again, "degraded": self.degraded},
        }


@dataclass(slots=True)
class Journal:
    """The newest records; `on_news` hears of each change of one."""

    clock: Callable[[], float]
    on_news: Callable[[Record], None] = lambda _: None
    records: deque[Record] = field(default_factory=lambda: deque(maxlen=KEPT_RECORDS))
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def open(self) -> Record | None:
        """The newest record, while it is not healed."""
        newest = self.records[-1] if self.records else None
        return newest if newest is not None and newest.healed_s is None else None

    def begin(
        self,
        kind: Literal["failure", "change"],
        cause: str,
        nodes: Iterable[str],
        *,
        counted: tuple[int, int],
        began_s: float | None = None,
        silence_s: float | None = None,
    ) -> Record:
        """A failure that was noticed, or a change that began, at `began_s` of the clock (None: now). `counted`: frames
        sent again and degraded so far."""
        record = Record(
            number=next(self._numbers),
            kind=kind,
            cause=cause,
            nodes=tuple(sorted(nodes)),
            at=time.time(),
            began_s=self.clock() if began_s is None else began_s,
            silence_s=silence_s,
            before=counted,
        )
        self.records.append(record)
        self.on_news(record)
        return record

    def bridged(self, record: Record, choice: Choice, *, epoch: int, exit_name: str, decided_s: float) -> None:
        """The way around is announced: decided at `decided_s` of the clock, sent now."""
        record.choice = choice
        record.technique = choice.option.technique
        record.exit = exit_name
        record.bridge_epoch = epoch
        record.decided_s = decided_s - record.began_s
        record.routed_s = self.clock() - record.began_s
        record.stage = "bridged"
        self.on_news(record)

    def head_says(self, *, active_epoch: int, answered_epoch: int, counted: tuple[int, int], latency_s: float) -> None:
        """What the head's beat tells: which epoch it follows, and of which it has put out an answer."""
        for record in self.records:
            if record.stage == "healed" and record.first_answer_s is not None:
                continue
            before = record.stage, record.first_answer_s
            first = record.bridge_epoch or record.heal_epoch
            if first and answered_epoch >= first and record.first_answer_s is None:
                record.first_answer_s = self.clock() - record.began_s
                record.stage = "answering"
            if record.bridge_epoch and record.bridge_epoch == answered_epoch and latency_s:
                record.latency_s = latency_s
            if record.heal_epoch and active_epoch >= record.heal_epoch and record.healed_s is None:
                record.healed_s = self.clock() - record.began_s
                record.sent_again = counted[0] - record.before[0]
                record.degraded = counted[1] - record.before[1]
            if record.healed_s is not None:
                record.stage = "healed"
            if (record.stage, record.first_answer_s) != before:
                self.on_news(record)

    def planned(self, epoch: int) -> None:
        """A plan is announced that heals whatever is open."""
        for record in self.records:
            if record.healed_s is None:
                record.heal_epoch = epoch


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
