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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bench.continuer.scheduler_measure import (
    CALIBRATION_RUNS,
    Bench,
    Heal,
    Measured,
    Times,
    heal,
    new_stages,
    right_answers,
)
from bench.prepared import Network, prepared, unseen
from bench.recovery.decision import timed
from bench.recovery.figures import Spread
from bench.recovery.hindsight import Forced, Hindsight, compare
from bench.recovery.paths import model_of
from broker.activation import HEADER_RESERVE_BYTES
from planner.chain import Chain
from planner.cluster import NodeSpec
from planner.part import Part, stage_part
from planner.plan import Plan
from recovery.contingency import Setup, choose_for, prepare
from recovery.estimates import Accuracy, Estimates, Timings
from recovery.objectives import Objectives
from recovery.options import Label, Option, stages_of
from recovery.spares import place_spares
from stages.bundle import Bundle
from stages.fitting import can_skip, part_of
from stages.graph import ModelGraph
from stages.latency import LatencyModel
from understudy.config import UpConfig
from understudy.planning import PipelinePlanner

Source = Literal["speed", "calibrated", "profile"]

TECHNIQUES: tuple[Label, ...] = ("standby", "stand-in", "skip", "exit", "repartition")
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
    decisions: int = 20
    images: int = 4000


QUICK = Effort(rounds=7, heals=5, decisions=3, images=1000)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulated:
    """A network on K nodes, and all parts that may stand by."""

    graph: ModelGraph
    chain: Chain
    plan: Plan
    planner: PipelinePlanner
    nodes: tuple[NodeSpec, ...]
    catalogue: tuple[Part, ...]
    healthy: Accuracy

    @classmethod
    def of(cls, bundle: Bundle, graph: ModelGraph, count: int) -> Emulated:
        chain = graph.chain()
        limit = UpConfig.model_fields["max_payload"].default - HEADER_RESERVE_BYTES
        planner = PipelinePlanner(chain, stages=count, max_payload_bytes=limit)
        nodes = tuple(NodeSpec(name=f"node{number:02}") for number in range(1, count + 1))
        plan = planner(nodes, 0)
        held_out = bundle.manifest.held_out
        assert held_out is not None, "a bundle with parts was measured"
        return cls(
            graph=graph,
            chain=chain,
            plan=plan,
            planner=planner,
            nodes=nodes,
            catalogue=tuple(_catalogue(bundle, graph, chain, plan)),
            healthy=Accuracy(value=held_out.value, low=held_out.low, high=held_out.high),
        )

    def setup(self, source: Source, times: Times, heal: Heal) -> Setup:
        """What the controller knows before the failure.

        Args:
            times: of parts by name, as it was told: of the stages at least.
            heal: what the first plan took to make and to load.
        """
        stages = stages_of(self.plan, self.chain)
        speeds = {spot.node: spot.part.flops / times[spot.part.name] for spot in stages}
        timings = replace(Timings(), plan_s=heal.plan_s, load_fixed_s=heal.load_fixed_s(Timings().load_bytes_per_s))
        estimates = Estimates(chain=self.chain, healthy=self.healthy, speeds=speeds, timings=timings)
        if source != "speed":
            names = [node.name for node in self.nodes]
            known = {name: dict.fromkeys(names, seconds) for name, seconds in times.items()}
            estimates = replace(estimates, part_seconds=known)
        wanted = Objectives()
        return Setup(
            route=stages,
            spares=tuple(place_spares(self.plan, self.catalogue, self.nodes, estimates, wanted)),
            nodes=self.nodes,
            head=stages[0].node,
            standby_head=stages[1].node,
            estimates=estimates,
            objectives=wanted,
        )


def forced_options(setup: Setup) -> dict[str, dict[Label, Option]]:
    """For each lost node, by technique, the way that recovery takes where only this technique is allowed; techniques
    that have none are not there."""
    found: dict[str, dict[Label, Option]] = {}
    for node in sorted(setup.needed):
        ways: dict[Label, Option] = {}
        for technique in TECHNIQUES:
            only = replace(setup, objectives=replace(setup.objectives, techniques=frozenset({technique})))
            choice = choose_for(only, frozenset({node}))
            if choice is not None and choice.option.technique == technique:
                ways[technique] = choice.option
        found[node] = ways
    return found


def judged(setup: Setup, options: Mapping[str, Mapping[Label, Option]], measured: Measured, name: str) -> list[Forced]:
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
    fresh = unseen(bundle, graph).first(effort.images)
    emulated = Emulated.of(bundle, graph, count)

    def model(part: Part) -> bytes:
        return model_of(bundle, graph, part, records.get(part.name))

    first_heal = heal(graph, emulated.planner, emulated.nodes)
    bench = Bench(graph, model, fresh.inputs[:1])
    bench.load(emulated.catalogue)
    bench.load(new_stages(graph, [emulated.plan]))
    timed_s = bench.time(CALIBRATION_RUNS)
    told: dict[Source, Times] = {"speed": timed_s, "calibrated": timed_s}
    if profile is not None:
        told["profile"] = {part.name: profile.session(model(part)).seconds for part in bench.parts}
    setups = {source: emulated.setup(source, times, first_heal) for source, times in told.items()}
    options = {source: forced_options(setup) for source, setup in setups.items()}
    survivors = {
        lost: [node for node in emulated.nodes if node.name != lost] for lost in sorted(setups["speed"].needed)
    }
    heals = {
        lost: [heal(graph, emulated.planner, left) for _ in range(effort.heals)] for lost, left in survivors.items()
    }
    plans = {lost: emulated.planner(left, 1) for lost, left in survivors.items()}
    bench.load(new_stages(graph, plans.values()))
    healthy = [spot.part for spot in setups["speed"].route]
    paths = [
        [hop.part for hop in option.hops]
        for found in options.values()
        for ways in found.values()
        for option in ways.values()
        if option.hops
    ]
    measured = Measured(
        rounds=bench.rounds(effort.rounds),
        right=right_answers(graph, model, [healthy, *paths], fresh),
        healthy=tuple(part.name for part in healthy),
        heals=heals,
        plans=plans,
    )
    name = f"{count} nodes"
    return Quality(
        network=network.name,
        nodes=count,
        forced={source: judged(setups[source], options[source], measured, name) for source in setups},
        repeatability=measured.repeatability(),
        decisions=decision_times(setups["calibrated"], effort.decisions),
    )


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


def _catalogue(bundle: Bundle, graph: ModelGraph, chain: Chain, plan: Plan) -> list[Part]:
    """As the controller has it (`stages.source`): the bundle's parts, and copies and skips of the plan's stages."""
    found: dict[str, Part] = {}
    for stage in plan.stages:
        first, end = stage.first_block, stage.end_block
        copy = stage_part(chain, first, end, "standby")
        found[copy.name] = copy
        if can_skip(graph, first, end):
            skip = Part(technique="skip", first_block=first, end_block=end, peak_bytes=2 * chain.cut_bytes[first])
            found[skip.name] = skip
    return list({**found, **{(part := part_of(record)).name: part for record in bundle.manifest.parts}}.values())
