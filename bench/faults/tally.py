"""What the checker counts: frames, their answers, the silences between, and the verdict on all of it."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.faults.promise import Promise

Debt = Literal["nothing", "word", "answer"]
"""What is owed to who has published a frame. A word: its answer, or that it was superseded."""

SUPERSEDED = "superseded"
TRANSIENT = ("overloaded", "timeout")
"""Errors after which a frame may be published again: no answers, as the protocol has it."""


@dataclass(slots=True, kw_only=True)
class Frame:
    """One frame and what came of it. Moments are of `time.monotonic`.

    Attributes:
        image: which of the labelled images it is.
        named: it has an id. One without may be answered as often as it was published.
        sent_s: when it was published, each time.
        out: answers on the output subject, without transient errors.
        replies: how many answers came to its reply subject, without transient errors.
        reply: the first of these.
        refused: codes of transient errors on the output subject.
        done_s: when the first answer came, on either subject.
    """

    number: int
    image: int
    named: bool = True
    owed: Debt = "answer"
    sent_s: list[float] = field(default_factory=list)
    out: list[Mapping[str, Any]] = field(default_factory=list)
    out_s: list[float] = field(default_factory=list)
    replies: int = 0
    reply: Mapping[str, Any] | None = None
    refused: list[str] = field(default_factory=list)
    done_s: float | None = None

    @property
    def answer(self) -> Mapping[str, Any] | None:
        return self.out[0] if self.out else self.reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A time in which the checker itself had no connection."""

    began_s: float
    ended_s: float


@dataclass(slots=True)
class Settled:
    """What is kept of frames that were answered as promised, and long ago: an hour's frames do not fit in memory.

    Attributes:
        sent_s: when each was published first.
        done_s: when each was answered.
        degraded, refused, published_again: as in the `Tally`.
        late: numbers of those that were answered on the output subject once more after that.
    """

    sent_s: array[float] = field(default_factory=lambda: array("d"))
    done_s: array[float] = field(default_factory=lambda: array("d"))
    degraded: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    published_again: int = 0
    late: list[int] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Tally:
    """The counts of a run.

    Attributes:
        healthy: by image, the class that the healthy pipeline says.
        published: how many frames there are.
        superseded, given_up: how many were replaced by newer ones, and how many nothing was heard of, where that is all
            that was promised.
        frames: those that are not settled, by number.
    """

    promise: Promise
    healthy: Sequence[int]
    published: int = 0
    superseded: int = 0
    given_up: int = 0
    frames: dict[int, Frame] = field(default_factory=dict)
    settled: Settled = field(default_factory=Settled)
    outages: list[Outage] = field(default_factory=list)
    outstanding: dict[int, Frame] = field(default_factory=dict)
    answered: int = 0
    strange: int = 0
    """Messages on the output subject that are no answers to frames of ours."""

    def add(self, image: int, owed: Debt | None = None) -> Frame:
        """The next frame. `owed`: by what is promised, if nothing else is said."""
        frame = Frame(
            number=self.published, image=image, owed=owed or ("answer" if self.promise.answered else "nothing")
        )
        self.published += 1
        self.frames[frame.number] = self.outstanding[frame.number] = frame
        return frame

    def heard(self, number: int, document: Mapping[str, Any], at_s: float, *, on_out: bool) -> None:
        """An answer to one of our frames."""
        code, frame = (document.get("error") or {}).get("code"), self.frames.get(number)
        if frame is None:
            if on_out and code not in TRANSIENT:
                self.settled.late.append(number)
            return
        if code in TRANSIENT:
            if on_out:
                frame.refused.append(code)
            return
        if code == SUPERSEDED and not on_out and not self.promise.answered:
            if frame.owed != "answer" and number in self.outstanding:
                del self.outstanding[number]
                self.superseded += 1
            return
        if on_out:
            frame.out.append(document)
            frame.out_s.append(at_s)
        else:
            frame.replies += 1
            frame.reply = frame.reply or document
        if frame.done_s is None:
            frame.done_s = at_s
            self.answered += 1
            self.outstanding.pop(frame.number, None)

    def give_up(self, frame: Frame) -> None:
        """Nothing came of a frame that nothing is owed for."""
        del self.outstanding[frame.number]
        self.given_up += 1

    def knows(self, number: int, document: Mapping[str, Any]) -> bool:
        """Whether this very answer was heard on the output subject."""
        return number not in self.frames or document in self.frames[number].out

    def settle(self, before_s: float) -> None:
        """Keep no more than the counts of frames that were published before that moment and answered as promised."""
        for frame in list(itertools.takewhile(lambda frame: frame.sent_s[0] < before_s, self.frames.values())):
            if self._is_good(frame):
                self.settled.sent_s.append(frame.sent_s[0])
                if frame.done_s is not None:
                    self.settled.done_s.append(frame.done_s)
                self.settled.degraded += _degraded([frame])
                self.settled.refused.update(frame.refused)
                self.settled.published_again += len(frame.sent_s) - 1
                del self.frames[frame.number]

    def _is_good(self, frame: Frame) -> bool:
        if frame.done_s is None:
            return frame.number not in self.outstanding
        heard = 0 < len(frame.out) <= self._most(frame)
        return heard and not self._is_wrong(frame)

    def _most(self, frame: Frame) -> int:
        """Answers on the output subject."""
        most = self.promise.answers_on_out
        return most if frame.named else max(most, len(frame.sent_s))

    # ---- the verdict -------------------------------------------------------------------------------------------

    @property
    def lost(self) -> list[int]:
        return sorted(frame.number for frame in self.outstanding.values() if frame.owed != "nothing")

    @property
    def twice(self) -> list[int]:
        over = [frame.number for frame in self.frames.values() if len(frame.out) > self._most(frame)]
        return over + self.settled.late

    @property
    def wrong(self) -> list[int]:
        """Another class than the healthy one, and no word of it; or an error, for a frame that is good."""
        return [frame.number for frame in self.frames.values() if self._is_wrong(frame)]

    def _is_wrong(self, frame: Frame) -> bool:
        for answer in [*frame.out, *([frame.reply] if frame.reply else [])]:
            if answer.get("error"):
                return True
            if answer.get("technique") == "none" and answer.get("class_index") != self.healthy[frame.image]:
                return True
        return False

    @property
    def unheard(self) -> tuple[list[int], list[int]]:
        """Frames whose answer was on the reply subject alone: those that the checker had no connection for a while of,
        and those that it should have heard."""
        alone = [frame for frame in self.frames.values() if frame.done_s is not None and not frame.out]
        away = {frame.number for frame in alone if self._was_away(frame)}
        return sorted(away), [frame.number for frame in alone if frame.number not in away]

    def _was_away(self, frame: Frame) -> bool:
        assert frame.done_s is not None
        return any(o.began_s <= frame.done_s and o.ended_s >= frame.sent_s[0] for o in self.outages)

    @property
    def degraded(self) -> Counter[str]:
        """Answers by another technique than `none`."""
        return self.settled.degraded + _degraded(self.frames.values())

    @property
    def refused(self) -> Counter[str]:
        """Errors by their code, those that are transient too."""
        codes = self.settled.refused + Counter(code for frame in self.frames.values() for code in frame.refused)
        for frame in self.frames.values():
            codes.update(answer["error"]["code"] for answer in frame.out if answer.get("error"))
        return codes

    @property
    def published_again(self) -> int:
        return self.settled.published_again + sum(len(frame.sent_s) - 1 for frame in self.frames.values())

    def silence_s(self, began_s: float, ended_s: float) -> float:
        """The longest time without an answer between two moments."""
        recent = (frame.done_s for frame in self.frames.values() if frame.done_s is not None)
        answers = itertools.chain(self.settled.done_s, recent)
        times = sorted(done_s for done_s in answers if began_s < done_s < ended_s)
        return max((b - a for a, b in itertools.pairwise([began_s, *times, ended_s])), default=0.0)

    @property
    def longest_silence_s(self) -> float:
        sent = [*self.settled.sent_s, *(frame.sent_s[0] for frame in self.frames.values())]
        return self.silence_s(min(sent), max(sent)) if sent else 0.0

    @property
    def kept(self) -> bool:
        """Whether the promise was kept."""
        return not (self.lost or self.twice or self.wrong or self.unheard[1])

    def document(self) -> dict[str, Any]:
        """For JSON. What failed is listed in full."""
        away, missed = self.unheard
        failed = sorted({*self.lost, *self.twice, *self.wrong, *missed})
        return {
            "published": self.published,
            "answered": self.answered,
            "superseded": self.superseded,
            "given_up": self.given_up,
            "lost": self.lost,
            "twice": self.twice,
            "wrong": self.wrong,
            "unheard_while_away": len(away),
            "unheard": missed,
            "degraded": dict(self.degraded),
            "errors": dict(self.refused),
            "published_again": self.published_again,
            "longest_silence_s": round(self.longest_silence_s, 3),
            "strange_messages": self.strange,
            "outages": len(self.outages),
            "kept": self.kept,
            "failed_frames": [self._story(self.frames[number]) for number in failed[:50] if number in self.frames],
        }

    def _story(self, frame: Frame) -> dict[str, Any]:
        return {
            "number": frame.number,
            "named": frame.named,
            "sent_s": frame.sent_s,
            "out_s": frame.out_s,
            "out": [
                {
                    key: answer.get(key)
                    for key in ("id", "epoch", "technique", "class_index", "path", "latency_ms", "error")
                }
                for answer in frame.out
            ],
            "replies": frame.replies,
            "healthy": self.healthy[frame.image],
        }


def _degraded(frames: Iterable[Frame]) -> Counter[str]:
    said = (frame.answer for frame in frames)
    return Counter(a["technique"] for a in said if a and not a.get("error") and a["technique"] != "none")
