"""Makes a machine's profile: times sampled layers until the time is over, in a journal that can be gone on with."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from planner.farweights import FarWeights
from planner.predictor import Predictor
from planner.profile import Profile, Sample
from stages.errors import ModelError
from stages.farweights import KINDS, measure_far_weights, suitable
from stages.features import FEATURES, features, kind_of
from stages.layers import Layer, fused_layers
from stages.layersamples import sample
from stages.sketch import QUICK, Box
from stages.timing import QUICK as QUICK_ROUNDS
from stages.timing import LayerTimer, Rounds
from understudy.machine import cores, processor
from understudy.profilefile import Conditions, Entry, Journal, journal_of, read_journal
from understudy.quantities import ConfigError

BATCH = 12
"""Models whose layers are timed side by side; what is under way when the measurement is stopped is at most this."""

PER_KIND = 6
"""Layers of each type that are timed to transfer a profile."""

FAR_PER_KIND = 8
"""Layers of each type that are timed with their weights in no cache."""

MOST_LOOKED_AT = 1500
"""Sampled models, to find those."""

Progress = Callable[[float, int], None]
"""Told the share of the time that is used, and how many layers there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Attributes:
    minutes: of measuring, together with what a journal has already.
    threads: of one inference.
    quick: small layers and few rounds.
    """

    minutes: float
    threads: int = 1
    seed: int = 0
    quick: bool = False

    @property
    def box(self) -> Box:
        return QUICK if self.quick else Box()

    @property
    def rounds(self) -> Rounds:
        return QUICK_ROUNDS if self.quick else Rounds()

    @property
    def conditions(self) -> Conditions:
        return Conditions(machine=machine_facts(self.threads), feature_names=FEATURES, seed=self.seed, quick=self.quick)


def machine_facts(threads: int) -> dict[str, Any]:
    """What the times depend on."""
    return {
        "processor": processor(),
        "machine": platform.machine(),
        "cores": cores(),
        "threads": threads,
        "onnxruntime": version("onnxruntime"),
        "system": platform.system(),
    }


def profile_machine(
    out: Path,
    options: Options,
    *,
    resume: bool = False,
    on_progress: Progress = lambda _share, _layers: None,
    clock: Callable[[], float] = time.monotonic,
) -> Profile:
    """Time layers until the minutes are used, and at least one batch. The journal beside `out` has them all when this
    ends, however it ends; it is left there.

    Raises:
        ConfigError: a journal is there and is not to be gone on with, or is of other conditions.
        EngineError: onnxruntime does not run here.
    """
    path, conditions = journal_of(out), options.conditions
    entries = _start(path, conditions, resume=resume)
    journal = Journal(path, conditions)
    reference_s = min((entry.reference_s for entry in entries), default=None)
    timer = LayerTimer(threads=options.threads, rounds=options.rounds, reference_s=reference_s)
    seen: set[tuple[Any, ...]] = {(layer.kind, *layer.features) for entry in entries for layer in entry.layers}
    before_s = max((entry.elapsed_s for entry in entries), default=0.0)
    started_s, budget_s = clock() - before_s, options.minutes * 60
    following = max((entry.index for entry in entries), default=-1) + 1
    while True:
        used_s = clock() - started_s
        on_progress(min(1.0, used_s / budget_s), len(seen))
        if entries and used_s >= budget_s:
            break
        batch = range(following, following + BATCH)
        timed = _time(timer, [(index, layer) for index in batch for layer in _layers(index, options, seen)])
        used_s = clock() - started_s
        fresh = [
            Entry(
                index=index,
                layers=tuple(layer for layer in timed if layer.index == index),
                reference_s=timer.reference_s,
                elapsed_s=used_s,
            )
            for index in batch
        ]
        journal.append(fresh)
        entries += fresh
        following += BATCH
    return Profile(
        machine={**conditions.machine, "seed": options.seed, "quick": options.quick},
        feature_names=FEATURES,
        overhead_s=timer.stage_s,
        samples=tuple(layer for entry in entries for layer in entry.layers),
        far=None if options.quick else _far_weights(timer, options),
    )


def _far_weights(timer: LayerTimer, options: Options) -> FarWeights | None:
    """By the first suitable layers of each type, of the sampled models."""
    seen: set[tuple[Any, ...]] = set()
    chosen: dict[str, list[Layer]] = {kind: [] for kind in KINDS}
    for index in range(MOST_LOOKED_AT):
        for layer in filter(suitable, _layers(index, options, seen)):
            chosen[kind_of(layer)].append(layer)
        if all(len(layers) >= FAR_PER_KIND for layers in chosen.values()):
            break
    return measure_far_weights(timer, [layer for layers in chosen.values() for layer in layers[:FAR_PER_KIND]])


def _start(path: Path, conditions: Conditions, *, resume: bool) -> list[Entry]:
    """The entries to go on with."""
    if not path.exists():
        return []
    if not resume:
        raise ConfigError(f"{path} is there from a measurement before: go on with --resume, or remove it")
    then, entries = read_journal(path)
    if then != conditions:
        raise ConfigError(
            f"{path} was measured under other conditions ({_difference(then, conditions)}): "
            f"resume it with the same options on the same machine, or remove it"
        )
    return entries


def _difference(then: Conditions, now: Conditions) -> str:
    changed = [f"{key} {then.machine.get(key)!r}, now {now.machine[key]!r}" for key in now.machine]
    changed = [
        text for key, text in zip(now.machine, changed, strict=True) if then.machine.get(key) != now.machine[key]
    ]
    for name in ("seed", "quick", "feature_names"):
        if getattr(then, name) != getattr(now, name):
            changed.append(f"{name} differs")
    return ", ".join(changed)


def _layers(index: int, options: Options, seen: set[tuple[Any, ...]]) -> list[Layer]:
    """The layers of a sampled model that were not timed yet."""
    _, model = sample(index, seed=options.seed, box=options.box)
    try:
        layers = fused_layers(model, threads=options.threads)
    except ModelError:  # an operator that this onnxruntime does not have: its type stays without samples
        return []
    fresh = []
    for layer in layers:
        key = _key(layer)
        if key not in seen:
            seen.add(key)
            fresh.append(layer)
    return fresh


def _key(layer: Layer) -> tuple[Any, ...]:
    found = features(layer)
    return (kind_of(layer), *(float(f"{found[name]:.6g}") for name in FEATURES))


def _time(timer: LayerTimer, layers: Sequence[tuple[int, Layer]]) -> list[Sample]:
    timings = timer.time([layer for _, layer in layers])
    return [
        Sample(kind=kind, features=tuple(rest), seconds=timing.seconds, spread=timing.spread, index=index)
        for (index, layer), timing in zip(layers, timings, strict=True)
        if timing is not None
        for kind, *rest in [_key(layer)]
    ]


def transfer(
    profile: Profile,
    *,
    per_kind: int = PER_KIND,
    on_progress: Progress = lambda _share, _layers: None,
    timer: Callable[[Sequence[Layer]], Sequence[float | None]] | None = None,
) -> Profile:
    """The profile for this machine, by a few of its layers of each type.

    The ratio of a type is the median over its layers of the seconds here over those there. Where onnxruntime makes
    another layer of the same model here, such as without the blocked layout, it is compared with what the profile
    predicts for it.

    Args:
        timer: seconds of each layer; None: they are timed here.

    Raises:
        ConfigError: the profile does not say which layers it has.
        EngineError: onnxruntime does not run here.
        MissingPackageError: a prediction is needed, and LightGBM is not installed.
    """
    facts = profile.machine
    if "seed" not in facts or "quick" not in facts:
        raise ConfigError("the profile does not say how its layers were sampled: profile the machine again")
    threads = int(facts.get("threads", 1))
    options = Options(minutes=1, threads=threads, seed=int(facts["seed"]), quick=bool(facts["quick"]))
    there = {(sample.kind, *sample.features): sample.seconds for sample in profile.samples}
    indices = _chosen(profile, per_kind)
    clocked = LayerTimer(threads=threads, rounds=options.rounds) if timer is None else None
    found: dict[str, list[tuple[Layer, float]]] = {}
    for done in range(0, len(indices), BATCH):
        on_progress(done / len(indices), sum(map(len, found.values())))
        seen: set[tuple[Any, ...]] = set()
        layers = [layer for index in indices[done : done + BATCH] for layer in _layers(index, options, seen)]
        seconds = _seconds(clocked, layers) if timer is None else timer(layers)
        for layer, value in zip(layers, seconds, strict=True):
            if value is not None:
                found.setdefault(kind_of(layer), []).append((layer, value))
    predictor = Predictor(replace(profile, ratios={}, ratio_spreads={}))
    ratios: dict[str, float] = {}
    spreads: dict[str, float] = {}
    for kind, timed in found.items():
        logs = [np.log(value / _expected(predictor, there, layer)) for layer, value in timed]
        ratios[kind] = float(np.exp(statistics.median(logs)))
        spreads[kind] = float(np.quantile(np.abs(np.asarray(logs) - statistics.median(logs)), 0.95))
    machine = {**machine_facts(threads), "seed": options.seed, "quick": options.quick, "like": dict(profile.machine)}
    overhead_s, far = profile.overhead_s, None
    if clocked is not None:
        overhead_s, far = clocked.stage_s, None if options.quick else _far_weights(clocked, options)
    return replace(profile, machine=machine, ratios=ratios, ratio_spreads=spreads, overhead_s=overhead_s, far=far)


def _seconds(timer: LayerTimer | None, layers: Sequence[Layer]) -> list[float | None]:
    assert timer is not None  # noqa: S101 - the caller made it
    return [None if timing is None else timing.seconds for timing in timer.time(layers)]


def _expected(predictor: Predictor, there: dict[tuple[Any, ...], float], layer: Layer) -> float:
    measured = there.get(_key(layer))
    if measured is not None:
        return measured
    return predictor.predict(kind_of(layer), [features(layer)])[0].seconds


def _chosen(profile: Profile, per_kind: int) -> list[int]:
    """Models that have so many layers of each type, from its fastest to its slowest."""
    chosen: set[int] = set()
    for kind in profile.kinds:
        ordered = sorted(profile.of(kind), key=lambda sample: (sample.seconds, sample.index))
        places = np.linspace(0, len(ordered) - 1, min(per_kind, len(ordered))).round().astype(int)
        chosen.update(ordered[place].index for place in places.tolist())
    return sorted(chosen)
