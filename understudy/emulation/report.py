"""What a run has found out: counts and rates, and what came of each fault; for machines and for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.emulation.disturbance import TOGETHER_S, Answer, Fault, disturbance, record_of, sent_again
from understudy.events import Episode


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Everything that a run has found out.

    Attributes:
        began_at: when the stream began, seconds since 1970.
        streamed_s, elapsed_s: when the last frame was published, and when all were answered, since then.
        lossy: codecs that cost accuracy may be used on links: an answer may then be another than the whole network's
            without being wrong.
        episodes: the controller's journal of it.
    """

    began_at: float = 0.0
    published: int = 0
    answers: list[Answer] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    twice: int = 0
    faults: list[Fault] = field(default_factory=list)
    episodes: Sequence[Episode] = ()
    streamed_s: float = 0.0
    elapsed_s: float = 0.0
    cpu_busy: float | None = None
    cores: int = 0
    ready_s: float = 0.0
    planned_per_s: float | None = None
    window: int = 0
    lossy: bool = False
    stages: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def others(self) -> int:
        """Answers that are not the whole network's, with no word of it."""
        return sum(not answer.right and not answer.degraded for answer in self.answers)

    @property
    def wrong(self) -> int:
        return 0 if self.lossy else self.others

    @property
    def changed(self) -> int:
        """By codecs, as it was allowed."""
        return self.others if self.lossy else 0

    @property
    def lost(self) -> int:
        return self.published - len(self.answers) - self.errors.total()

    @property
    def degraded(self) -> Counter[str]:
        return Counter(answer.technique for answer in self.answers if answer.degraded)

    @property
    def accuracy(self) -> float | None:
        """The share of answers that are what the frame shows; None where nobody knows."""
        known = [answer.correct for answer in self.answers if answer.correct is not None]
        return sum(known) / len(known) if known else None

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
        latencies = sorted(answer.latency_s for answer in self.answers)
        return {
            "kept": self.kept,
            "published": self.published,
            "answered": len(self.answers),
            "lost": self.lost,
            "answered_twice": self.twice,
            "wrong": self.wrong,
            "changed_by_codecs": self.changed,
            "errors": dict(self.errors),
            "degraded": dict(self.degraded),
            "degraded_right": sum(answer.right for answer in self.answers if answer.degraded),
            "accuracy": self.accuracy and round(self.accuracy, 4),
            "sent_again": sent_again(self.episodes),
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
        begins = [fault.at_s for fault in self.faults]
        listed = []
        for number, fault in enumerate(self.faults):
            until = next((at_s for at_s in begins[number + 1 :] if at_s > fault.at_s + TOGETHER_S), self.elapsed_s)
            listed.append(self._fault(fault, until))
        return listed

    def _fault(self, fault: Fault, until_s: float) -> dict[str, Any]:
        seen = disturbance(self.answers, fault.at_s, until_s)
        record = record_of(self.episodes, fault, began_at=self.began_at, until_s=until_s)
        noticed_s = None if record is None else max(0.0, record.at - self.began_at - fault.at_s)
        return {
            "action": fault.action,
            "who": fault.who,
            "at_s": round(fault.at_s, 3),
            "noticed_ms": _to_ms(noticed_s),
            "first_answer_ms": _to_ms(seen.first_answer_s),
            "full_ms": _to_ms(seen.full_s),
            "silence_ms": _to_ms(seen.silence_s),
            "healed_ms": _to_ms(seen.healed_s),
            "degraded": dict(seen.degraded),
            "degraded_right": seen.degraded_right,
            "journal": None if record is None else _journal(record),
            "note": fault.note,
        }


def _journal(record: Episode) -> dict[str, Any]:
    """What the controller says of a failure; its times count from when it noticed."""
    names = ("cause", "technique", "silence_ms", "decided_ms", "routed_ms", "first_answer_ms", "healed_ms")
    own = {name: getattr(record, name) for name in names}
    return {"nodes": list(record.nodes), **own, "sent_again": record.sent_again, "degraded": record.degraded}


def _to_ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 1)


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
        *([("codecs", f"{document['changed_by_codecs']} answers changed")] if document["changed_by_codecs"] else []),
        *(
            [("accuracy", f"{document['accuracy']:.2%} of the answers are what the frames show")]
            if document["accuracy"] is not None
            else []
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
    journal = fault["journal"]
    times = [("noticed", "noticed_ms"), ("first answer", "first_answer_ms"), ("full plan", "full_ms")]
    # Of a repair the new plan alone is of interest, and of what changed no plan nothing.
    said = [f"{name} after {fault[key]:g} ms" for name, key in times[0 if journal else 2 :] if fault[key] is not None]
    healed = {0.0: "nothing unusual", None: "not well again before the next step"}.get(fault["healed_ms"])
    degraded = ", ".join(f"{count} by {name}" for name, count in fault["degraded"].items())
    parts = [*said, f"longest silence {fault['silence_ms']:g} ms"]
    parts += [healed or f"well again after {fault['healed_ms']:g} ms", degraded]
    parts += [f"{journal['sent_again']} sent again" if journal and journal["sent_again"] else "", fault["note"]]
    return f"{fault['action']} {fault['who']} at {fault['at_s']:.1f} s: {'; '.join(part for part in parts if part)}"
