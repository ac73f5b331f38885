"""What the scheduler's choices are judged by: deployed parts timed in onnxruntime, the accuracy of whole paths on fresh
images, and new plans that are really made and loaded."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness import summarise
from bench.prepared import Unseen
from bench.recovery.hindsight import error_of_median
from planner.cluster import NodeSpec
from planner.part import Part, stage_part
from planner.plan import Plan
from recovery.contingency import Setup
from recovery.options import Option, stages_of
from stages.engine import Engine
from stages.fitting.activations import Runner
from stages.graph import ModelGraph

CALIBRATION_RUNS = 8
RUNS = 5
"""Of each part in a round of the measurement; the median counts."""

CHUNK = 250
"""Images that go through the paths at once: all activations on the way are held."""

Times = Mapping[str, float]
"""Seconds of one frame, by the part's name."""

Model = Callable[[Part], bytes]
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heal:
    """One new plan: solving for it, and making, loading and running once the stage that takes longest."""

    plan_s: float
    load_s: float
    load_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An option as measured. The noise is one standard error. `pause_s`: None: that of a bridge, which is the same for
    all of them, and not measured here."""

    accuracy: float
    accuracy_noise: float
    latency_s: float
    latency_noise_s: float
    pause_s: float | None
    pause_noise_s: float
    times: int


class Bench:
    """The parts of one network, loaded, with an activation of a real image for each cut."""

    def __init__(self, graph: ModelGraph, model: Model, image: NDArray[Any]) -> None:
        self._graph, self._model = graph, model
        self._feeds: dict[int, dict[str, Any]] = {0: {graph.inputs[0].name: image}}
        self._engines: dict[str, tuple[Engine, int]] = {}
        self.parts: list[Part] = []

    def load(self, parts: Iterable[Part]) -> None:
        for part in parts:
            if part.name not in self._engines:
                outputs = self._graph.cuts[part.end_block].tensors
                self.parts.append(part)
                self._engines[part.name] = (Engine.load(self._model(part), outputs=outputs), part.first_block)

    def time(self, runs: int) -> dict[str, float]:
        """Median seconds of so many runs of each part, one part after the other."""
        found = {}
        for name, (engine, first) in self._engines.items():
            feeds = self._feed(first)
            engine.run(feeds)
            spent = []
            for _ in range(runs):
                started_s = time.perf_counter()
                engine.run(feeds)
                spent.append(time.perf_counter() - started_s)
            found[name] = statistics.median(spent)
        return found

    def rounds(self, count: int) -> dict[str, list[float]]:
        """By part: so many medians, taken in turn."""
        found: dict[str, list[float]] = {name: [] for name in self._engines}
        for _ in range(count):
            for name, seconds in self.time(RUNS).items():
                found[name].append(seconds)
        return found

    def _feed(self, cut: int) -> dict[str, Any]:
        if cut not in self._feeds:
            outputs = self._graph.cuts[cut].tensors
            self._feeds[cut] = Engine.load(self._graph.submodel(0, cut), outputs=outputs).run(self._feeds[0])
        return self._feeds[cut]


def heal(graph: ModelGraph, planner: Callable[[Sequence[NodeSpec], int], Plan], nodes: Sequence[NodeSpec]) -> Heal:
    """Make a plan for these nodes, and load its stages. Nodes load at the same time, so the slowest counts."""
    started_s = time.perf_counter()
    plan = planner(nodes, 1)
    plan_s = time.perf_counter() - started_s
    loads = []
    for stage in plan.stages:
        started_s = time.perf_counter()
        model = graph.submodel(stage.first_block, stage.end_block)
        engine = Engine.load(model, outputs=graph.cuts[stage.end_block].tensors)
        engine.warm_up(graph.cuts[stage.first_block].tensors)
        loads.append(time.perf_counter() - started_s)
    load_bytes = max(part.memory_bytes for part in new_stages(graph, [plan]))
    return Heal(plan_s=plan_s, load_s=max(loads), load_bytes=load_bytes)


def answers(
    graph: ModelGraph, model: Model, paths: Sequence[Sequence[Part]], inputs: NDArray[Any]
) -> dict[Path, NDArray[np.int64]]:
    """The class that each path gives each image; what paths have in common at their beginning is run once."""
    found: dict[Path, list[NDArray[np.int64]]] = {}
    runners: dict[str, Runner] = {}

    def run(part: Part, value: NDArray[Any]) -> NDArray[Any]:
        if part.name not in runners:
            source, target = (graph.cuts[cut].tensors[0] for cut in (part.first_block, part.end_block))
            runners[part.name] = Runner(model(part), source, target, batched=graph.dynamic_batch)
        return runners[part.name](value)

    def walk(left: Sequence[Sequence[Part]], done: Path, value: NDArray[Any]) -> None:
        nexts: dict[str, list[Sequence[Part]]] = {}
        for path in left:
            nexts.setdefault(path[0].name, []).append(path)
        for name, those in nexts.items():
            made = run(those[0][0], value)
            rest = [path[1:] for path in those if len(path) > 1]
            if len(rest) < len(those):
                found.setdefault((*done, name), []).append(made.reshape(len(made), -1).argmax(axis=1))
            if rest:
                walk(rest, (*done, name), made)

    for start in range(0, len(inputs), CHUNK):
        walk(paths, (), inputs[start : start + CHUNK])
    return {path: np.concatenate(chunks) for path, chunks in found.items()}


@dataclass(slots=True, kw_only=True)
class Measured:
    """All that was measured for one setup.

    Attributes:
        rounds: by part the seconds of each round.
        right: by path, for each fresh image, whether its answer is right.
        healthy: the path without a failure.
        heals: by lost node, repeated.
        plans: by lost node the stages of the new plan.
    """

    rounds: Mapping[str, Sequence[float]]
    right: Mapping[Path, NDArray[np.bool_]]
    healthy: Path
    heals: Mapping[str, Sequence[Heal]]
    plans: Mapping[str, Plan] = field(default_factory=dict)

    def repeatability(self) -> float:
        """The interquartile range of a part's rounds relative to their median, in the median of all parts."""
        return statistics.median(summarise(values).spread for values in self.rounds.values())

    def of(self, node: str, option: Option, setup: Setup) -> Seen:
        healthy = self.right[self.healthy]
        if option.technique == "repartition":
            right = healthy
            hops = [(spot.node, spot.part) for spot in stages_of(self.plans[node], setup.estimates.chain)]
        else:
            right = self.right[tuple(hop.part.name for hop in option.hops)]
            hops = [(hop.node, hop.part) for hop in option.hops]
        spent = np.sum([self.rounds[part.name] for _, part in hops], axis=0)
        foreseen = frozenset({node}) in setup.plans
        pauses = [
            one.load_s + (0.0 if foreseen else one.plan_s)
            for one in (self.heals[node] if option.technique == "repartition" else ())
        ]
        steps = setup.estimates.timings.bridge_s
        return Seen(
            accuracy=float(right.mean()),
            accuracy_noise=float(np.sqrt(np.count_nonzero(right != healthy)) / len(right)),
            latency_s=float(np.median(spent)) + transfers_s(setup, option.head, hops),
            latency_noise_s=error_of_median(spent.tolist()),
            pause_s=statistics.median(pauses) + steps if pauses else None,
            pause_noise_s=error_of_median(pauses) if pauses else 0.0,
            times=len(spent),
        )


def transfers_s(setup: Setup, head: str, hops: Sequence[tuple[str, Part]]) -> float:
    """Of a frame from head to head: as estimated, there are no links here."""
    found, at = 0.0, head
    for node, part in hops:
        found += setup.estimates.transfer_s(part.first_block, at, node)
        at = node
    return found + setup.estimates.transfer_s(setup.estimates.chain.blocks, at, head)


def right_answers(
    graph: ModelGraph, model: Model, paths: Sequence[Sequence[Part]], unseen: Unseen
) -> dict[Path, NDArray[np.bool_]]:
    labels = np.asarray(unseen.labels)
    return {path: found == labels for path, found in answers(graph, model, paths, unseen.inputs).items()}


def new_stages(graph: ModelGraph, plans: Iterable[Plan]) -> list[Part]:
    chain = graph.chain()
    return [stage_part(chain, stage.first_block, stage.end_block) for plan in plans for stage in plan.stages]
