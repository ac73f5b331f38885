"""The latency of a session from that of its layers, and its correction by a few runs of what is deployed.

    T = o + sum over the layers of t_i

with o what a session costs whatever is in it. The interval adds the half-widths of different layers in quadrature
(equal layers have equal errors), and `SUM_SPREAD`: layers that are timed by themselves find their inputs and weights in
other caches than within a network.

A calibration is a factor per block: measured over predicted seconds of the stage that holds the block. A stage that was
not deployed has the mean of its blocks' factors, weighted with what the blocks take.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from planner.predictor import Prediction

SUM_SPREAD = 0.07
"""Relative; of the sums for nine networks whose every layer was timed by itself, from -5 to +5 %; and some more."""

CALIBRATION_RUNS = 8


def typical(runs_s: Sequence[float]) -> float:
    """The lower quartile of runs of one thing: what else the machine does only makes a run longer."""
    return runs_s[0] if len(runs_s) == 1 else statistics.quantiles(runs_s, n=4, method="inclusive")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLatency:
    """Of one frame through one session.

    Attributes:
        seconds, low, high: the estimate and its 95 % interval.
        by_kind: seconds of the layers of each type.
        unprofiled: types that were never profiled, which are predicted by operations and bytes alone.
        beyond: types of which a layer is outside the range of the profile.
    """

    seconds: float
    low: float
    high: float
    by_kind: Mapping[str, float]
    unprofiled: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()

    def scaled(self, factor: float, spread: float) -> SessionLatency:
        """By a calibration's factor; its interval is the calibration's own, a relative half-width."""
        seconds = self.seconds * factor
        return SessionLatency(
            seconds=seconds,
            low=seconds * math.exp(-spread),
            high=seconds * math.exp(spread),
            by_kind={kind: value * factor for kind, value in self.by_kind.items()},
            unprofiled=self.unprofiled,
            beyond=self.beyond,
        )


def session_latency(layers: Iterable[tuple[Prediction, int]], overhead_s: float) -> SessionLatency:
    """From different layers, and how often each is run."""
    by_kind: dict[str, float] = {}
    unprofiled, beyond = set(), set()
    below, above = [], []
    for layer, count in layers:
        by_kind[layer.kind] = by_kind.get(layer.kind, 0.0) + count * layer.seconds
        below.append(count * (layer.seconds - layer.low))
        above.append(count * (layer.high - layer.seconds))
        if not layer.profiled:
            unprofiled.add(layer.kind)
        if not layer.within:
            beyond.add(layer.kind)
    seconds = overhead_s + sum(by_kind.values())
    common = SUM_SPREAD * seconds
    return SessionLatency(
        seconds=seconds,
        low=max(0.0, seconds - math.hypot(common, *below)),
        high=seconds + math.hypot(common, *above),
        by_kind=by_kind,
        unprofiled=tuple(sorted(unprofiled)),
        beyond=tuple(sorted(beyond)),
    )


def block_seconds(prefixes: Sequence[float], suffixes: Sequence[float]) -> tuple[float, ...]:
    """B numbers that add up to the whole's seconds, from those of the sessions of the blocks [0, k) and of [k, B), each
    for k = 0 .. B (0 seconds for no block).

    Block k takes what the prefix grows by with it, and what the suffix shrinks by without it: in their mean the cost of
    re-ordering tensors at a border cancels. Where that is below nothing the block takes nothing, and the others less.
    """
    blocks = len(prefixes) - 1
    grown = [max(0.0, (prefixes[k + 1] - prefixes[k] + suffixes[k] - suffixes[k + 1]) / 2) for k in range(blocks)]
    total = sum(grown)
    scale = prefixes[-1] / total if total > 0 else 0.0
    return tuple(value * scale for value in grown)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRuns:
    """Runs of one deployed stage [first_block, end_block), beside what was predicted. Seconds."""

    first_block: int
    end_block: int
    predicted_s: float
    runs_s: Sequence[float]

    @property
    def measured_s(self) -> float:
        return typical(self.runs_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Attributes:
    factors: per block, measured over predicted.
    weights: per block, its seconds as predicted.
    spread: relative half-width of the 95 % interval of what is calibrated.
    """

    factors: tuple[float, ...]
    weights: tuple[float, ...]
    spread: float

    @classmethod
    def of(cls, weights: Sequence[float], stages: Sequence[StageRuns]) -> Calibration:
        """From runs of deployed stages. A block that none of them holds has the factor of them all together.

        Raises:
            ValueError: there are no runs, or a stage is predicted to take no time.
        """
        if not stages or any(not stage.runs_s or stage.predicted_s <= 0 for stage in stages):
            raise ValueError("a calibration needs a run of every stage that it is made from")
        common = sum(stage.measured_s for stage in stages) / sum(stage.predicted_s for stage in stages)
        factors = [common] * len(weights)
        for stage in stages:
            factors[stage.first_block : stage.end_block] = [stage.measured_s / stage.predicted_s] * (
                stage.end_block - stage.first_block
            )
        return cls(factors=tuple(factors), weights=tuple(weights), spread=max(0.015, _uncertainty(stages)))

    def factor(self, first_block: int, end_block: int) -> float:
        """Of a stage of these blocks."""
        span = slice(first_block, end_block)
        weight = sum(self.weights[span])
        if weight <= 0:
            return statistics.mean(self.factors[span])
        return sum(w * f for w, f in zip(self.weights[span], self.factors[span], strict=True)) / weight


def _uncertainty(stages: Sequence[StageRuns]) -> float:
    """Relative half-width of the interval of the quartile of the runs: 1.96 x 1.25 standard errors, from quartiles."""
    widths = []
    for stage in stages:
        if len(stage.runs_s) < 2:
            continue
        low, _, high = statistics.quantiles(stage.runs_s, n=4, method="inclusive")
        widths.append(1.96 * 1.25 * (high - low) / 1.35 / math.sqrt(len(stage.runs_s)) / stage.measured_s)
    return max(widths, default=SUM_SPREAD)
