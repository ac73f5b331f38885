"""Which way of answering is the best for the user.

Equation 2 of CONTINUER (Majeed, Kilpatrick, Spence & Varghese 2022) scores the options for a failure by

    w_1 * A + w_2 * L + w_3 * D

with accuracy, latency and downtime each scaled to 0..1 by the least and the largest value among the options (min-max),
and takes the option with the least score. As printed it minimises the accuracy with the rest. Here A is what is *lost*
of the accuracy: (max - accuracy) / (max - min). Thresholds are hard: only options that keep all of them compete.

Min-max scaling alone has faults, which are mended:
- An option that another beats in everything would still stretch the scale, and could so decide between two others. The
  scale is taken from the options that no other beats.
- Where all options are nearly alike it would blow a millisecond up to the whole scale, and make it worth as much as
  half of the accuracy. A scale spans at least `LEAST_SPAN`.
- The downtime, until the first answer, holds the latency of a frame, which would count twice, and make all options
  differ. D is the pause alone, until frames flow again: the same for all that is loaded. (The threshold is for the
  downtime.)

A quantity that is the same for all counts 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from recovery.options import ANY_TECHNIQUE, LABELS, Label, Option


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """One number for each of accuracy, latency and downtime."""

    accuracy: float = 0.0
    latency: float = 0.0
    downtime: float = 0.0


LEAST_SPAN = Terms(accuracy=0.02, latency=0.02, downtime=0.05)
"""Accuracies as shares, times in seconds: differences that matter little to anyone are not made to look large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What counts how much: each 0 or more, one of them more than 0; only their proportion counts.

    The defaults: a bridge lasts only until the heal, so an answer now that is less exact is worth more than none, even
    where it takes longer (0.55 over 0.4 + 0.05); among bridges it is the accuracy that counts (0.4 over 0.05).
    """

    accuracy: float = 0.4
    latency: float = 0.05
    downtime: float = 0.55

    def __post_init__(self) -> None:
        for name in ("accuracy", "latency", "downtime"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"the weight of {name} is {getattr(self, name)!r}: it must be a finite number >= 0")
        if not 0 < self.total < math.inf:
            raise ValueError("all weights are 0: at least one must be more")

    @property
    def total(self) -> float:
        return self.accuracy + self.latency + self.downtime


_MARGIN = 1e-9
"""Rounding does not violate a threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What the user wants.

    Attributes:
        min_accuracy: 0..1; None: any. An accuracy that is not known is compared as it is assumed.
        max_latency_s, max_downtime_s: None: any.
        weights: see `Weights`.
        techniques: those that may be used; `none`, stages that are alive, always may.
        max_codec_loss: most accuracy that codecs between stages may cost, 0..1; 0: lossless ones alone are used.
    """

    min_accuracy: float | None = None
    max_latency_s: float | None = None
    max_downtime_s: float | None = None
    weights: Weights = field(default_factory=Weights)
    techniques: frozenset[Label] = ANY_TECHNIQUE
    max_codec_loss: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_codec_loss <= 1:
            raise ValueError(f"max_codec_loss is {self.max_codec_loss!r}: it must be between 0 and 1")
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise ValueError(f"min_accuracy is {self.min_accuracy!r}: it must be between 0 and 1")
        for name in ("max_latency_s", "max_downtime_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value!r}: it must be a finite number more than 0")
        unknown = sorted(set(self.techniques) - set(LABELS))
        if unknown:
            raise ValueError(f"technique {unknown[0]!r} is not one of {', '.join(LABELS)}")

    def allows(self, technique: Label) -> bool:
        return technique == "none" or technique in self.techniques


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An option and what speaks for it.

    Attributes:
        option: what to do.
        terms: accuracy lost, latency and pause, each on the common scale, 0 the best; before weighting.
        score: their weighted mean; less is better.
        violated: names of the objectives that it does not keep: `min_accuracy`, `max_latency_s`, `max_downtime_s`,
            `techniques`.
        violation: the sum of how far, each relative to its threshold.
    """

    option: Option
    terms: Terms
    score: float
    violated: tuple[str, ...] = ()
    violation: float = 0.0


def choose(options: Sequence[Option], objectives: Objectives, least_span: Terms = LEAST_SPAN) -> Choice | None:
    """The best option: of those that keep every threshold the one with the least score; where none does, the one with
    the least violation. None where there is no option. The order of `options` does not matter."""
    return next(iter(rank(options, objectives, least_span)), None)


def rank(options: Sequence[Option], objectives: Objectives, least_span: Terms = LEAST_SPAN) -> list[Choice]:
    """All options that may be used, the best first.

    Where the techniques that are allowed yield none, a repartition remains, since the heal comes anyway.
    """
    allowed = [option for option in options if objectives.allows(option.technique)]
    forbidden = not allowed
    if forbidden:
        allowed = [option for option in options if option.technique == "repartition"]
    violations = [_violations(option, objectives) for option in allowed]
    passed = [option for option, found in zip(allowed, violations, strict=True) if not found]
    scale = _scale(_unbeaten(passed or allowed), least_span)
    choices = []
    for option, found in zip(allowed, violations, strict=True):
        terms = scale(option)
        choices.append(
            Choice(
                option=option,
                terms=terms,
                score=_weighted(terms, objectives.weights),
                violated=(*(("techniques",) if forbidden else ()), *found),
                violation=sum(found.values()),
            )
        )
    # Beyond 12 digits it is rounding that differs, and the order of the tie must hold.
    return sorted(
        choices,
        key=lambda choice: (
            round(choice.violation, 12),
            round(choice.score, 12),
            -choice.option.expected,
            choice.option.order,
            choice.option.latency_s,
            choice.option.head,
        ),
    )


def _violations(option: Option, objectives: Objectives) -> dict[str, float]:
    """How far each threshold that the option does not keep is missed, relative to it."""
    found: dict[str, float] = {}
    least = objectives.min_accuracy
    if least is not None and option.expected < least * (1 - _MARGIN):
        found["min_accuracy"] = (least - option.expected) / least
    for name, value in (("max_latency_s", option.latency_s), ("max_downtime_s", option.downtime_s)):
        limit: float | None = getattr(objectives, name)
        if limit is not None and value > limit * (1 + _MARGIN):
            found[name] = (value - limit) / limit
    return found


def _unbeaten(options: Sequence[Option]) -> list[Option]:
    """Those that no other is better than in one of the three without being worse in another."""
    values = [(-option.expected, option.latency_s, option.pause_s) for option in options]
    return [
        option
        for option, mine in zip(options, values, strict=True)
        if not any(
            other != mine and other[0] <= mine[0] and other[1] <= mine[1] and other[2] <= mine[2] for other in values
        )
    ]


def _scale(options: Sequence[Option], least_span: Terms) -> Callable[[Option], Terms]:
    """What maps an option to its terms, on the scale of these."""
    if not options:
        return lambda _: Terms()
    best = max(option.expected for option in options)
    quickest = min(option.latency_s for option in options)
    soonest = min(option.pause_s for option in options)
    accuracy_span = max(best - min(option.expected for option in options), least_span.accuracy)
    latency_span = max(max(option.latency_s for option in options) - quickest, least_span.latency)
    downtime_span = max(max(option.pause_s for option in options) - soonest, least_span.downtime)

    def terms(option: Option) -> Terms:
        return Terms(
            accuracy=_share(best - option.expected, accuracy_span),
            latency=_share(option.latency_s - quickest, latency_span),
            downtime=_share(option.pause_s - soonest, downtime_span),
        )

    return terms


def _share(distance: float, span: float) -> float:
    return max(0.0, distance) / span if span else 0.0


def _weighted(terms: Terms, weights: Weights) -> float:
    weighted = weights.accuracy * terms.accuracy + weights.latency * terms.latency + weights.downtime * terms.downtime
    return weighted / weights.total
