"""A network on K equal nodes, with all that its controller knows and does about a failure (`planner`, `recovery`); only
the nodes are one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from bench.continuer.scheduler_measure import Times, heal
from broker.activation import HEADER_RESERVE_BYTES
from planner.chain import Chain
from planner.cluster import NodeSpec
from planner.part import Part, stage_part
from planner.plan import Plan
from recovery.contingency import Setup, choose_for
from recovery.estimates import Accuracy, Estimates, Timings
from recovery.experience import Experience
from recovery.objectives import Objectives
from recovery.options import Label, Option, stages_of
from recovery.spares import place_spares
from stages.bundle import Bundle
from stages.fitting import can_skip, part_of
from stages.graph import ModelGraph
from understudy.config import UpConfig
from understudy.planning import PipelinePlanner

Source = Literal["speed", "calibrated", "profile"]

Options = Mapping[str, Mapping[Label, Option]]
"""By lost node and technique."""

TECHNIQUES: tuple[Label, ...] = ("standby", "stand-in", "skip", "exit", "repartition")


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

    @property
    def survivors(self) -> Mapping[str, tuple[NodeSpec, ...]]:
        """By the node that is lost."""
        return {lost.name: tuple(node for node in self.nodes if node != lost) for lost in self.nodes}

    def setup(self, source: Source, times: Times, timings: Timings) -> Setup:
        """What the controller knows before the failure.

        Args:
            times: of parts by name, as it was told: of the stages at least.
            timings: what it has learnt of plans until then.
        """
        stages = stages_of(self.plan, self.chain)
        speeds = {spot.node: spot.part.flops / times[spot.part.name] for spot in stages}
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
            plans={frozenset({lost}): self.planner(left, 1) for lost, left in self.survivors.items()},
        )


def forced_options(setup: Setup) -> Options:
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


def learnt(emulated: Emulated) -> Timings:
    """As `recovery.experience` learns from the first plan, and then from the heal of every failure, once each."""
    experience = Experience()
    for nodes in (emulated.nodes, *emulated.survivors.values()):
        found = heal(emulated.graph, emulated.planner, nodes)
        experience.planned(found.plan_s)
        experience.loaded(found.load_s, found.load_bytes)
    return experience.timings


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
