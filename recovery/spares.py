"""What to load where beforehand, so that every lost node has a bridge, and the best that memory allows.

For a stage i..j that is lost, a *bridge* is a sequence of parts of one technique that one other node holds, from cut i
or before to cut j or after. Only parts between boundaries of stages can be used, since paths meet at cuts; where no
part spans the stage, several in a row may. Placed in turn, while memory lasts:

1. for every stage its most accurate bridge that is not a standby: they are small;
2. standbys, the largest gain in accuracy per byte first, so that a quantised one comes before one in full precision,
   and is replaced by it where memory is left;
3. a second bridge of each stage on another node, for two nodes that are lost at once;
4. the best of the other techniques, once, then on a second node: some user weighs latency more;
5. a second standby.

Where memory is tight the smaller bridges may stand in the way of a standby, or the reverse, and quantised standbys in
that of one in full precision: 1, 2 and 2, 1, and 2 also with the most accurate first, are all tried, and what bridges
the single failures best is kept. Greedy, deterministic, without any claim to be optimal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from planner.chain import Chain
from planner.cluster import NodeSpec
from planner.part import Part, Technique
from planner.plan import Plan, Stage
from recovery.estimates import Estimates
from recovery.objectives import Objectives
from recovery.options import Placed

LESSER: tuple[Technique, ...] = ("stand-in", "skip", "exit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """Parts in a row for one node to hold. `factor`: what they leave of the healthy accuracy."""

    parts: tuple[Part, ...]
    factor: float

    @property
    def memory_bytes(self) -> int:
        return sum(part.memory_bytes for part in self.parts)


def place_spares(
    plan: Plan,
    catalogue: Sequence[Part],
    nodes: Sequence[NodeSpec],
    estimates: Estimates,
    objectives: Objectives,
    *,
    spare_memory_bytes: int | None = None,
) -> list[Placed]:
    """Which parts of the catalogue to load on which nodes, besides the plan's stages.

    Args:
        plan: its stages stay as they are.
        catalogue: parts for any blocks; those that do not fit the plan's boundaries are left out, as are techniques
            that the objectives do not allow, and what on its own would miss their least accuracy.
        nodes: those that are alive. One that hosts no stage has all of its memory for spares.
        spare_memory_bytes: most that a node may spend on spares; None: no limit besides its memory. A spare counts with
            its weights, and the largest working set of a node's spares once.
    """
    table = _Bridges(plan, catalogue, estimates, objectives)
    attempts = []
    for steps in (
        (_place_lesser, _place_standbys),
        (_place_standbys, _place_lesser),
        (_place_lesser, _place_best_standbys),
        (_place_best_standbys, _place_lesser),
    ):
        desk = _Desk(plan, nodes, estimates.chain, spare_memory_bytes)
        for step in steps:
            step(desk, table)
        _place_rest(desk, table)
        attempts.append(desk)
    return max(attempts, key=lambda desk: desk.worth(table)).placed


class _Bridges:
    """For every stage and technique the bridges there are, the most accurate first."""

    def __init__(self, plan: Plan, catalogue: Sequence[Part], estimates: Estimates, objectives: Objectives) -> None:
        self._estimates = estimates
        cuts = {0, *(stage.end_block for stage in plan.stages)}
        least = objectives.min_accuracy or 0.0
        usable: dict[Technique, list[Part]] = defaultdict(list)
        for part in sorted(set(catalogue), key=lambda part: (part.name, part.memory_bytes)):
            meets = part.end_block <= estimates.chain.blocks and objectives.allows(part.technique)
            if part.technique != "none" and meets and estimates.expected((part,)) >= least:
                usable[part.technique].append(part)
        self._of: dict[tuple[Stage, Technique], list[Bridge]] = {}
        for technique, parts in usable.items():
            whole = [part for part in parts if {part.first_block, part.end_block} <= cuts]
            for stage in plan.stages:
                found = [self._bridge((part,)) for part in whole if _spans(part, stage)]
                if not any(_matches(bridge, stage) for bridge in found) and technique in ("stand-in", "skip"):
                    row = self._row(parts, stage)
                    found += [row] if row is not None and estimates.expected(row.parts) >= least else []
                found.sort(key=lambda bridge: (-bridge.factor, bridge.memory_bytes, _names(bridge)))
                self._of[stage, technique] = found

    def of(self, stage: Stage, *techniques: Technique) -> list[Bridge]:
        found = [bridge for technique in techniques for bridge in self._of.get((stage, technique), ())]
        return found if len(techniques) == 1 else sorted(found, key=lambda bridge: -bridge.factor)

    def _bridge(self, parts: tuple[Part, ...]) -> Bridge:
        factor = 1.0
        for part in parts:
            factor *= self._estimates.factor(part)
        return Bridge(parts=parts, factor=factor)

    def _row(self, parts: Sequence[Part], stage: Stage) -> Bridge | None:
        """The most accurate sequence of parts inside the stage, from its first cut to its last."""
        best: dict[int, Bridge] = {stage.first_block: Bridge(parts=(), factor=1.0)}
        inside = [part for part in parts if stage.first_block <= part.first_block and part.end_block <= stage.end_block]
        for part in sorted(inside, key=lambda part: (part.first_block, part.end_block, part.name)):
            before = best.get(part.first_block)
            if before is None:
                continue
            made = self._bridge((*before.parts, part))
            held = best.get(part.end_block)
            if held is None or (made.factor, -made.memory_bytes) > (held.factor, -held.memory_bytes):
                best[part.end_block] = made
        return best.get(stage.end_block)


class _Desk:
    """What is placed so far, and the memory that is left."""

    def __init__(self, plan: Plan, nodes: Sequence[NodeSpec], chain: Chain, most_bytes: int | None) -> None:
        self._chain = chain
        self.stages = plan.stages
        self._budget: dict[str, float] = {}
        hosts = {stage.node: stage for stage in plan.stages}
        for node in nodes:
            stage = hosts.get(node.name)
            need = chain.stage_memory_bytes(stage.first_block, stage.end_block) if stage else 0
            own = float("inf") if node.memory_bytes is None else node.memory_bytes - need
            self._budget[node.name] = own if most_bytes is None else min(own, most_bytes)
        self._held: dict[str, dict[Part, None]] = {node.name: {} for node in nodes}
        self._holders: dict[Part, set[str]] = defaultdict(set)
        self._near = {stage: self._in_order(stage) for stage in plan.stages}

    @property
    def placed(self) -> list[Placed]:
        spots = [Placed(part=part, node=node) for node, parts in self._held.items() for part in parts]
        return sorted(spots, key=lambda spot: (spot.node, spot.part.first_block, spot.part.end_block, spot.part.name))

    def hosts(self, stage: Stage, bridge: Bridge) -> list[str]:
        """The nodes that survive the stage's and hold the whole bridge."""
        common = set.intersection(*(self._holders[part] for part in bridge.parts))
        return [node for node in self._near[stage] if node in common] if common else []

    def place(self, stage: Stage, bridge: Bridge, *, besides: Sequence[str] = (), instead: Part | None = None) -> bool:
        """Load it on the nearest node with memory, but not on one of `besides`; `instead` is unloaded where it is
        there and in the way. False: it fits nowhere."""
        for node in self._near[stage] if bridge.parts[0].technique != "exit" else self._before(stage):
            if node not in besides and self._fits(node, bridge.parts, instead):
                for part in bridge.parts:
                    self._held[node][part] = None
                    self._holders[part].add(node)
                return True
        return False

    def drop(self, node: str, part: Part) -> None:
        del self._held[node][part]
        self._holders[part].discard(node)

    def worth(self, table: _Bridges) -> tuple[int, float, int]:
        """Of the single failures: how many are bridged, how accurately; and how many bridges there are in all."""
        count, accuracy, copies = 0, 0.0, 0
        for stage in self.stages:
            held = [
                (bridge.factor, len(hosts))
                for bridge in table.of(stage, "standby", *LESSER)
                if (hosts := self.hosts(stage, bridge))
            ]
            count += bool(held)
            accuracy += max((factor for factor, _ in held), default=0.0)
            copies += sum(number for _, number in held)
        return count, round(accuracy, 9), copies

    def _fits(self, node: str, parts: Sequence[Part], without: Part | None) -> bool:
        held = {**self._held[node], **dict.fromkeys(parts)}
        if without is not None and without not in parts:
            held.pop(without, None)
        used = sum(part.memory_bytes for part in held) + max(part.peak_bytes for part in held)
        return used <= self._budget[node] or all(part in self._held[node] for part in parts)

    def _in_order(self, stage: Stage) -> list[str]:
        """The other nodes: the neighbours first (no hop is added), of the two the one that needs fewer bytes sent; then
        along the pipeline, then those without a stage, by their memory."""
        at = {other.node: index for index, other in enumerate(self.stages)}
        index = at[stage.node]
        sizes = self._chain.cut_bytes
        after_first = sizes[stage.first_block] <= sizes[stage.end_block]

        def key(node: str) -> tuple[float, bool, float, str]:
            if node not in at:
                return (len(self.stages), False, -self._budget[node], node)
            return (abs(at[node] - index), (at[node] > index) != after_first, 0.0, node)

        return sorted((node for node in self._budget if node != stage.node), key=key)

    def _before(self, stage: Stage) -> list[str]:
        """The same for an exit: the node that has the activation of the stage's first cut comes first."""
        previous = next((one.node for one, other in pairwise(self.stages) if other == stage), None)
        return sorted(self._near[stage], key=lambda node: node != previous)


def _place_lesser(desk: _Desk, table: _Bridges) -> None:
    for stage in desk.stages:
        _hold(desk, stage, table.of(stage, *LESSER))


def _place_standbys(desk: _Desk, table: _Bridges) -> None:
    """Repeatedly the gain per byte that is largest, until no more fits."""
    held: dict[Stage, tuple[Bridge, str]] = {}
    refused: set[tuple[Stage, tuple[Part, ...]]] = set()
    while True:
        moves = []
        for stage in desk.stages:
            now = held[stage][0].factor if stage in held else 0.0
            for bridge in table.of(stage, "standby"):
                gain = bridge.factor - now
                if gain > 0 and (stage, bridge.parts) not in refused:
                    moves.append((-gain / (bridge.memory_bytes + 1), stage.first_block, _names(bridge), stage, bridge))
        if not moves:
            return
        _, _, _, stage, bridge = min(moves, key=lambda move: move[:3])
        before = held.get(stage)
        # A part for more blocks than the stage's may serve another stage, too: it is not taken away.
        old = before[0].parts[0] if before is not None and _matches(before[0], stage) else None
        if not desk.place(stage, bridge, instead=old):
            refused.add((stage, bridge.parts))
            continue
        if before is not None and old is not None:
            desk.drop(before[1], old)
        held[stage] = bridge, desk.hosts(stage, bridge)[0]


def _place_best_standbys(desk: _Desk, table: _Bridges) -> None:
    """For every stage, the largest first, the most accurate that fits."""
    wanted = [(stage, bridges) for stage in desk.stages if (bridges := table.of(stage, "standby"))]
    for stage, bridges in sorted(wanted, key=lambda pair: -pair[1][0].memory_bytes):
        _hold(desk, stage, bridges)


def _place_rest(desk: _Desk, table: _Bridges) -> None:
    for stage in desk.stages:
        _hold(desk, stage, table.of(stage, *LESSER), copies=2)
    for copies in (1, 2):
        for technique in LESSER:
            for stage in desk.stages:
                _hold(desk, stage, table.of(stage, technique), copies=copies)
    for stage in desk.stages:
        _hold(desk, stage, table.of(stage, "standby"), copies=2)


def _hold(desk: _Desk, stage: Stage, bridges: Sequence[Bridge], copies: int = 1) -> None:
    """See to it that so many nodes hold one of these bridges, the most accurate that fits."""
    there: list[str] = []
    for bridge in bridges:
        there += [node for node in desk.hosts(stage, bridge) if node not in there]
        while len(there) < copies and desk.place(stage, bridge, besides=there):
            there += [node for node in desk.hosts(stage, bridge) if node not in there]
        if len(there) >= copies:
            return


def _spans(part: Part, stage: Stage) -> bool:
    return part.first_block <= stage.first_block and stage.end_block <= part.end_block


def _matches(bridge: Bridge, stage: Stage) -> bool:
    """Whether it replaces the stage's blocks and no others."""
    return bridge.parts[0].first_block == stage.first_block and bridge.parts[-1].end_block == stage.end_block


def _names(bridge: Bridge) -> tuple[str, ...]:
    return tuple(part.name for part in bridge.parts)
