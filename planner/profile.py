"""What is known of a machine: how long layers took on it, one sample for each point of their hyper-parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.farweights import FarWeights


class ProfileError(ValueError):
    """A profile's numbers do not fit together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One layer that was timed.

    Attributes:
        kind: the type of layer: `convolution`.
        features: as `Profile.feature_names` names them.
        seconds: for one frame.
        spread: relative difference of two estimates of `seconds`, from each half of the runs.
        index: of the model that the layer comes from.
    """

    kind: str
    features: tuple[float, ...]
    seconds: float
    spread: float = 0.0
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A machine's samples.

    Attributes:
        machine: what it is: processor, cores, threads of one inference, versions; for people and comparisons.
        feature_names: what each number of a sample's features is.
        overhead_s: of running a session, whatever is in it.
        samples: in the order of measurement.
        settings: of the boosted trees, per kind, where they were searched.
        ratios: seconds here over those that the samples tell, per kind: the samples are another machine's. Empty: they
            are this machine's own.
        ratio_spreads: relative half-width of the 95 % interval of a ratio's single layers, per kind.
        far: what weights cost more on this machine that are in no cache; None: nothing, or it is not known.
    """

    machine: Mapping[str, Any]
    feature_names: tuple[str, ...]
    overhead_s: float
    samples: tuple[Sample, ...]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    ratio_spreads: Mapping[str, float] = field(default_factory=dict)
    far: FarWeights | None = None

    def __post_init__(self) -> None:
        for sample in self.samples:
            if len(sample.features) != len(self.feature_names):
                raise ProfileError(
                    f"a sample of '{sample.kind}' has {len(sample.features)} features, "
                    f"{len(self.feature_names)} are named"
                )
            if not (0 < sample.seconds < math.inf) or not all(0 <= value < math.inf for value in sample.features):
                raise ProfileError(f"a sample of '{sample.kind}' has a number that is negative or not finite")

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(sorted({sample.kind for sample in self.samples}))

    def of(self, kind: str) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.kind == kind)
