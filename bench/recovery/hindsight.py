"""Whether the technique that the estimates choose is the one that measurements would choose.

For each failure every technique was forced, several times (the rows of `faults`). From the journal come the estimates
that the controller decided by; measured are the accuracy of the path that answers really took, on images that no fit
has seen, the median latency of answers over the bridge, and the median time to the first answer. Both are ranked by the
same objectives (`recovery.objectives.rank`), over all weights of `figures.weights`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.recovery.faults import Fault, Row
from bench.recovery.figures import weights
from bench.recovery.paths import Judge, parts_on
from recovery.objectives import LEAST_SPAN, Objectives, Weights, choose, rank
from recovery.options import LABELS, Label, Option

ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced:
    """One technique for one failure: as it was estimated and as it was measured. Times in milliseconds. The noise is
    one standard error of what was measured."""

    role: str
    technique: Label
    times: int
    estimated_accuracy: float
    accuracy: float
    accuracy_noise: float
    estimated_latency_ms: float
    latency_ms: float
    latency_noise_ms: float
    estimated_downtime_ms: float
    downtime_ms: float
    downtime_noise_ms: float

    @property
    def estimated(self) -> Option:
        return _option(self.technique, self.estimated_accuracy, self.estimated_latency_ms, self.estimated_downtime_ms)

    @property
    def measured(self) -> Option:
        return _option(self.technique, self.accuracy, self.latency_ms, self.downtime_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindsight:
    """Of all failures and weights.

    Attributes:
        decisions: how many.
        same: how often the estimates choose what scores best as measured.
        as_good: how often they choose what scores so much worse at most as two standard errors of the measurement.
        regret: how much worse the score of what was chosen is, at most; scores are 0 (best in all) to 1.
        wrong: which were not as good: weights, role, chosen, better, regret.
    """

    forced: Sequence[Forced]
    decisions: int
    same: int
    as_good: int
    regret: float
    wrong: Sequence[str]


def look_back(rows: Sequence[Row], judge: Judge) -> Hindsight:
    """From the rows of forced techniques."""
    forced = [found for row in rows for found in _of_row(row, judge)]
    return compare(forced)


def compare(forced: Sequence[Forced]) -> Hindsight:
    """Over all failures of which at least two techniques were forced, and all weights."""
    decisions = same = as_good = 0
    regret, wrong = 0.0, []
    for role in sorted({one.role for one in forced}):
        options = {one.technique: one for one in forced if one.role == role}
        if len(options) < 2:
            continue
        for triple in weights():
            accuracy, latency, downtime = triple
            wish = Objectives(weights=Weights(accuracy=accuracy, latency=latency, downtime=downtime))
            chosen = choose([one.estimated for one in options.values()], wish)
            ranked = rank([one.measured for one in options.values()], wish)
            assert chosen is not None
            decisions += 1
            label = chosen.option.technique
            best = ranked[0].option.technique
            lost = next(choice.score for choice in ranked if choice.option.technique == label) - ranked[0].score
            regret = max(regret, lost)
            same += lost <= ROUNDING
            if lost <= max(ROUNDING, 2 * noise_of(options[label], options[best], wish.weights)):
                as_good += 1
            else:
                wrong.append(f"{triple} {role}: {label}, better {best} by {lost:.3f}")
    return Hindsight(forced=forced, decisions=decisions, same=same, as_good=as_good, regret=regret, wrong=wrong)


def noise_of(one: Forced, other: Forced, wanted: Weights) -> float:
    """The standard error of the difference of two scores, on the narrowest scale that `rank` uses; 0 where it is not
    known."""
    found = math.hypot(
        wanted.accuracy * max(one.accuracy_noise, other.accuracy_noise) / LEAST_SPAN.accuracy,
        wanted.latency * math.hypot(one.latency_noise_ms, other.latency_noise_ms) / 1e3 / LEAST_SPAN.latency,
        wanted.downtime * math.hypot(one.downtime_noise_ms, other.downtime_noise_ms) / 1e3 / LEAST_SPAN.downtime,
    )
    return found if math.isfinite(found) else 0.0


def _of_row(row: Row, judge: Judge) -> list[Forced]:
    """One entry for each failure at which the forced technique was there."""
    if len(row.techniques) != 1 or row.ready is None:
        return []
    technique = row.techniques[0]
    known = judge.known(row.ready)
    stages = [known[f"stage:{first}-{end}"] for first, end in row.ready.stages.values()]
    found = []
    for role, faults in _by_role(row.faults).items():
        # A repartition has no bridge: its answers are the healthy ones.
        kept = [fault for fault in faults if fault.record.get("technique") == technique]
        latencies = [fault.bridge_ms for fault in kept if fault.bridge_ms is not None]
        # Of the last one: a controller's estimates learn from each failure.
        estimates = next((e for fault in reversed(kept) if (e := fault.record.get("estimates"))), None)
        if not kept or not latencies or estimates is None:
            continue
        parts = parts_on(kept[-1].hops, row.ready, known, judge.blocks) if kept[-1].hops else stages
        firsts = [fault.first_ms for fault in kept]
        found.append(
            Forced(
                role=role,
                technique=_label(technique),
                times=len(kept),
                estimated_accuracy=estimates["accuracy"],
                accuracy=judge.accuracy(parts),
                accuracy_noise=judge.noise(parts),
                estimated_latency_ms=estimates["latency_ms"],
                latency_ms=statistics.median(latencies),
                latency_noise_ms=error_of_median(latencies),
                estimated_downtime_ms=estimates["downtime_ms"],
                downtime_ms=statistics.median(firsts),
                downtime_noise_ms=error_of_median(firsts),
            )
        )
    return found


def error_of_median(values: Sequence[float]) -> float:
    """One standard error of the median, from the quartiles (1.25 sigma / sqrt(n), sigma = IQR / 1.35); of fewer than
    four values infinite."""
    if len(values) < 4:
        return math.inf
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return 1.25 * (high - low) / 1.35 / math.sqrt(len(values))


def _by_role(faults: Sequence[Fault]) -> Mapping[str, list[Fault]]:
    found: dict[str, list[Fault]] = {}
    for fault in faults:
        # The head may have moved: the failure is the loss of these blocks.
        found.setdefault(fault.roles[0].split(" ")[0], []).append(fault)
    return found


def _option(technique: Label, accuracy: float, latency_ms: float, downtime_ms: float) -> Option:
    return Option(
        hops=(),
        head="",
        technique=technique,
        accuracy=accuracy,
        low=None,
        high=None,
        expected=accuracy,
        latency_s=latency_ms / 1e3,
        pause_s=max(0.0, downtime_ms - latency_ms) / 1e3,
    )


def _label(name: str) -> Label:
    return next(label for label in LABELS if label == name)
