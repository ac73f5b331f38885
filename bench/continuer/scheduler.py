"""Whether the technique that the estimates choose is the one that measurements would choose (CONTINUER, table VII).

A network is cut for K equal nodes, each of which is lost in turn. All that happens is what a controller does
(`planner`, `recovery`), with all spares that it would load; only the nodes are one machine. For each failure every
technique is forced, and the path that recovery takes then is measured: see `scheduler_measure`. Scoring and words are
those of `bench.recovery.hindsight`.

What a controller knows of latency when a node is lost can come from

- `speed`: each node's operations per second on its own stage, as heartbeats tell, and the operations of the parts;
- `calibrated`: 8 runs of each part where it is deployed;
- `profile`: the machine's profile (`understudy profile machine`), without any run of the network; where one is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.continuer.emulated import TECHNIQUES, Emulated, Options, Source, forced_options, learnt
from bench.continuer.scheduler_measure import (
    CALIBRATION_RUNS,
    Bench,
    Measured,
    Model,
    Times,
    heal,
    new_stages,
    right_answers,
)
from bench.prepared import Network, Unseen, prepared, unseen
from bench.recovery.decision import timed
from bench.recovery.figures import Spread, weights
from bench.recovery.hindsight import Forced, Hindsight, compare, noise_of
from bench.recovery.paths import model_of
from planner.part import Part
from recovery.contingency import Setup, choose_for, prepare
from recovery.objectives import Objectives, Weights, rank
from recovery.options import Label, stages_of
from stages.fitting import part_of
from stages.graph import ModelGraph
from stages.latency import LatencyModel

SETS: Mapping[str, frozenset[Label]] = {
    "all": frozenset(TECHNIQUES),
    "without standbys": frozenset(TECHNIQUES) - {"standby"},
    "the paper's": frozenset({"skip", "exit", "repartition"}),
}
"""Techniques to choose from. A standby in full precision is hardly ever beaten: with it the choice is easy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How often: rounds in which every part is timed, new plans for each failure, decisions, fresh images."""

    rounds: int = 21
    heals: int = 9
    decisions: int = 100
    images: int = 4000


QUICK = Effort(rounds=7, heals=5, decisions=20, images=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Of one network on so many nodes.

    Attributes:
        forced: by what the estimates come from, see `Source`.
        repeatability: of the measurement: the interquartile range of a part's time relative to it, median of the parts.
        decisions: milliseconds, by where from.
    """

    network: str
    nodes: int
    forced: Mapping[Source, Sequence[Forced]]
    repeatability: float
    decisions: Mapping[str, Spread]


def judged(setup: Setup, options: Options, measured: Measured, name: str) -> list[Forced]:
    """The options as they were estimated and as they are measured."""
    found = []
    for node, ways in options.items():
        for technique, option in ways.items():
            seen = measured.of(node, option, setup)
            pause = seen.pause_s if seen.pause_s is not None else setup.estimates.timings.bridge_s
            assert option.accuracy is not None, "all parts were measured"
            found.append(
                Forced(
                    role=f"{name} {node}",
                    technique=technique,
                    times=seen.times,
                    estimated_accuracy=option.accuracy,
                    accuracy=seen.accuracy,
                    accuracy_noise=seen.accuracy_noise,
                    estimated_latency_ms=option.latency_s * 1e3,
                    latency_ms=seen.latency_s * 1e3,
                    latency_noise_ms=seen.latency_noise_s * 1e3,
                    estimated_downtime_ms=option.downtime_s * 1e3,
                    downtime_ms=(pause + seen.latency_s) * 1e3,
                    downtime_noise_ms=seen.pause_noise_s * 1e3,
                )
            )
    return found


def measure(network: Network, count: int, effort: Effort, profile: LatencyModel | None = None) -> Quality:
    """One network on so many nodes.

    Args:
        profile: what predicts this machine; None: latencies are not predicted.

    Raises:
        MissingSubjectError: the network, or the images, are not on this machine.
        MissingPackageError: there is a profile, and LightGBM is not installed.
    """
    bundle = prepared(network, (count,))
    graph = ModelGraph.load(bundle.model_path, shapes=bundle.manifest.shapes or None)
    records = {part_of(record).name: record for record in bundle.manifest.parts}

    def model(part: Part) -> bytes:
        return model_of(bundle, graph, part, records.get(part.name))

    emulated = Emulated.of(bundle, graph, count)
    fresh = unseen(bundle, graph).first(effort.images)
    bench = Bench(graph, model, fresh.inputs[:1])
    bench.load(emulated.catalogue)
    bench.load(new_stages(graph, [emulated.plan]))
    timed_s = bench.time(CALIBRATION_RUNS)
    told: dict[Source, Times] = {"speed": timed_s, "calibrated": timed_s}
    if profile is not None:
        told["profile"] = {part.name: profile.session(model(part)).seconds for part in bench.parts}
    timings = learnt(emulated)
    setups = {source: emulated.setup(source, times, timings) for source, times in told.items()}
    options = {source: forced_options(setup) for source, setup in setups.items()}
    measured = _hindsight(emulated, bench, model, options.values(), fresh, effort)
    name = f"{count} nodes"
    return Quality(
        network=network.name,
        nodes=count,
        forced={source: judged(setups[source], options[source], measured, name) for source in setups},
        repeatability=measured.repeatability(),
        decisions=decision_times(setups["calibrated"], effort.decisions),
    )


def _hindsight(
    emulated: Emulated, bench: Bench, model: Model, found: Iterable[Options], fresh: Unseen, effort: Effort
) -> Measured:
    """New plans for every failure, every part timed anew, and the accuracy of every path that is to be compared."""
    graph, planner = emulated.graph, emulated.planner
    heals = {
        lost: [heal(graph, planner, nodes) for _ in range(effort.heals)] for lost, nodes in emulated.survivors.items()
    }
    plans = {lost: planner(nodes, 1) for lost, nodes in emulated.survivors.items()}
    bench.load(new_stages(graph, plans.values()))
    healthy = [spot.part for spot in stages_of(emulated.plan, emulated.chain)]
    paths = [
        [hop.part for hop in option.hops]
        for options in found
        for ways in options.values()
        for option in ways.values()
        if option.hops
    ]
    return Measured(
        rounds=bench.rounds(effort.rounds),
        right=right_answers(graph, model, [healthy, *paths], fresh),
        healthy=tuple(part.name for part in healthy),
        heals=heals,
        plans=plans,
    )


def telling(forced: Sequence[Forced]) -> float:
    """The share of instances in which some technique is worse than the best by more than the noise: where none is, any
    choice counts as right within the noise. NaN where there is no instance."""
    seen = total = 0
    for role in {one.role for one in forced}:
        options = {one.technique: one for one in forced if one.role == role}
        for accuracy, latency, downtime in weights() if len(options) > 1 else ():
            wish = Weights(accuracy=accuracy, latency=latency, downtime=downtime)
            ranked = rank([one.measured for one in options.values()], Objectives(weights=wish))
            best, worst = ranked[0], ranked[-1]
            noise = noise_of(options[worst.option.technique], options[best.option.technique], wish)
            total += 1
            seen += worst.score - best.score > 2 * noise
    return seen / total if total else math.nan


def decision_times(setup: Setup, repeats: int) -> Mapping[str, Spread]:
    """Milliseconds of the decision for each failure, from the table that is prepared, and without it."""
    contingency = prepare(setup)
    failures = [frozenset({node}) for node in sorted(setup.needed)]
    return {
        "from the table": timed(contingency.answer, failures, 10 * repeats),
        "on the spot": timed(lambda failed: choose_for(setup, failed), failures, repeats),
    }


def score(forced: Sequence[Forced]) -> dict[str, Hindsight]:
    """By the name of the set of techniques."""
    return {name: compare([one for one in forced if one.technique in techniques]) for name, techniques in SETS.items()}
