"""What a client saw: counts, rates, and around each fault how long it had no answer, and when all was well again."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

NOTICED_S = 0.2
NOTICED_GAPS = 5.0
"""A time without an answer that is longer than this, and than so many usual ones, is a disturbance."""


TOGETHER_S = 1.0
"""Steps that follow one another so soon are judged by the same answers: nobody can tell which did what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Moments are seconds since the stream began.

    Attributes:
        right: it is what the whole network says, run in one piece.
    """

    sent_s: float
    at_s: float
    technique: str
    right: bool

    @property
    def degraded(self) -> bool:
        return self.technique != "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A step of a scenario that was carried out. `note`: what could not be done as asked."""

    action: str
    who: str
    at_s: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """What came of a fault until the next step.

    Attributes:
        silence_s: the longest time without an answer.
        healed_s: from the fault to the end of the last disturbance; 0: none was seen; None: it lasted to the end.
        degraded: answers by another technique than `none`.
    """

    silence_s: float
    healed_s: float | None
    degraded: Counter[str]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Everything that a run has found out. `streamed_s`: when the last frame was published; `elapsed_s`: when all were
    answered."""

    published: int = 0
    answers: list[Answer] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    twice: int = 0
    faults: list[Fault] = field(default_factory=list)
    streamed_s: float = 0.0
    elapsed_s: float = 0.0
    cpu_busy: float | None = None
    cores: int = 0
    ready_s: float = 0.0
    planned_per_s: float | None = None
    window: int = 0
    stages: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """Another answer than the whole network's, and no word of it."""
        return sum(not answer.right and not answer.degraded for answer in self.answers)

    @property
    def lost(self) -> int:
        return self.published - len(self.answers) - self.errors.total()

    @property
    def degraded(self) -> Counter[str]:
        return Counter(answer.technique for answer in self.answers if answer.degraded)

    @property
    def kept(self) -> bool:
        """Every frame was answered once, rightly or labelled as degraded."""
        return bool(self.published) and not (self.lost or self.twice or self.wrong or self.errors.total())

    @property
    def frames_per_s(self) -> float | None:
        """From the first answer to the last: not the time in which the first frame fills the pipeline."""
        times = [answer.at_s for answer in self.answers]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else None

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        latencies = sorted(answer.at_s - answer.sent_s for answer in self.answers)
        return {
            "kept": self.kept,
            "published": self.published,
            "answered": len(self.answers),
            "lost": self.lost,
            "answered_twice": self.twice,
            "wrong": self.wrong,
            "errors": dict(self.errors),
            "degraded": dict(self.degraded),
            "degraded_right": sum(answer.right for answer in self.answers if answer.degraded),
            "seconds": round(self.elapsed_s, 3),
            "frames_per_s": self.frames_per_s and round(self.frames_per_s, 3),
            "planned_frames_per_s": self.planned_per_s and round(self.planned_per_s, 3),
            "window": self.window,
            "latency_ms": {
                name: _ms(share, latencies) for name, share in (("median", 0.5), ("p95", 0.95), ("p99", 0.99))
            },
            "cpu_busy": self.cpu_busy and round(self.cpu_busy, 3),
            "cores": self.cores,
            "ready_s": round(self.ready_s, 1),
            "stages": self.stages,
            "faults": self._faults(),
            "notes": self.notes,
        }

    def _faults(self) -> list[dict[str, Any]]:
        listed = []
        begins = [fault.at_s for fault in self.faults]
        for number, fault in enumerate(self.faults):
            until = next((at_s for at_s in begins[number + 1 :] if at_s > fault.at_s + TOGETHER_S), self.elapsed_s)
            seen = disturbance(self.answers, fault.at_s, until)
            listed.append(
                {
                    "action": fault.action,
                    "who": fault.who,
                    "at_s": round(fault.at_s, 3),
                    "silence_ms": round(seen.silence_s * 1e3, 1),
                    "healed_ms": None if seen.healed_s is None else round(seen.healed_s * 1e3, 1),
                    "degraded": dict(seen.degraded),
                    "note": fault.note,
                }
            )
        return listed


def disturbance(answers: Sequence[Answer], began_s: float, ended_s: float) -> Disturbance:
    """What a client saw between two moments; `answers` in the order in which they came."""
    times = [answer.at_s for answer in answers]
    usual_s = statistics.median(b - a for a, b in itertools.pairwise(times)) if len(times) > 1 else 0.0
    limit_s = max(NOTICED_S, NOTICED_GAPS * usual_s)
    seen = [answer for answer in answers if began_s <= answer.at_s < ended_s]
    gaps = list(itertools.pairwise([began_s, *(answer.at_s for answer in seen), ended_s]))
    disturbed = [b for a, b in gaps if b - a > limit_s] + [answer.at_s for answer in seen if answer.degraded]
    last_s = max(disturbed, default=began_s)
    # The last gap, and a last answer that was degraded, may go on beyond the end.
    lasts = last_s == ended_s or (bool(seen) and seen[-1].degraded)
    return Disturbance(
        silence_s=max((b - a for a, b in gaps), default=0.0),
        healed_s=None if lasts else last_s - began_s,
        degraded=Counter(answer.technique for answer in seen if answer.degraded),
    )


def _ms(share: float, ordered: Sequence[float]) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3, 2)


def text(document: dict[str, Any]) -> str:
    """The report for people."""
    faults = [_fault(each) for each in document["faults"]]
    degraded = ", ".join(f"{count} by {name}" for name, count in document["degraded"].items()) or "none"
    planned = document["planned_frames_per_s"]
    busy = document["cpu_busy"]
    latency = document["latency_ms"]
    rows = [
        ("stages", "; ".join(document["stages"])),
        ("ready", f"after {document['ready_s']:g} s"),
        (
            "frames",
            f"{document['published']} published, {document['answered']} answered, {document['lost']} lost, "
            f"{document['answered_twice']} twice, {document['wrong']} wrong, {sum(document['errors'].values())} errors",
        ),
        (
            "degraded",
            f"{degraded}" + (f" ({document['degraded_right']} of them right)" if document["degraded"] else ""),
        ),
        ("throughput", f"{document['frames_per_s']} frames/s" + (f"; planned: {planned}" if planned else "")),
        ("latency", f"{latency['median']} ms median, {latency['p95']} ms p95, {latency['p99']} ms p99"),
        (
            "this machine",
            "unknown" if busy is None else f"{busy:.0%} of {document['cores']} cores busy{_warning(busy)}",
        ),
        *(("fault", each) for each in faults),
        *(("note", each) for each in document["notes"]),
        ("verdict", "kept: every frame was answered once" if document["kept"] else "NOT kept"),
    ]
    return "\n".join(f"{name:<13}{value}" for name, value in rows)


def _warning(busy: float) -> str:
    return ": the cores, not the links, may be what limits" if busy > 0.85 else ""


def _fault(fault: dict[str, Any]) -> str:
    healed = (
        "not well again before the next step"
        if fault["healed_ms"] is None
        else f"well again after {fault['healed_ms']:g} ms"
    )
    if fault["healed_ms"] == 0:
        healed = "nothing unusual"
    degraded = ", ".join(f"{count} by {name}" for name, count in fault["degraded"].items())
    parts = [f"longest silence {fault['silence_ms']:g} ms", healed, degraded, fault["note"]]
    return f"{fault['action']} {fault['who']} at {fault['at_s']:.1f} s: {'; '.join(part for part in parts if part)}"
