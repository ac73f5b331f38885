"""Ways of answering: paths of parts from cut 0 to cut B over nodes that are alive.

A placed part is an edge from its first cut to its last. The healthy pipeline is one path; an exit is an edge to B; a
standby, a stand-in or a skip is an edge beside the stage that is lost. There are exponentially many paths; kept is, at
each cut, for each node that a path has come to and each technique that it is named after, the Pareto front of accuracy
and latency. Accuracies multiply and latencies add (`recovery.estimates`), so whatever follows, a path that is beaten in
both stays beaten: the best option by any objectives is among those kept. Fronts are thinned to `WIDTH`; the most
accurate and the quickest always stay.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from planner.chain import Chain
from planner.part import SEVERITY, Part, Technique, stage_part
from planner.plan import Plan
from recovery.estimates import Estimates

Label = Technique | Literal["repartition"]
"""What an option is named after: the most severe technique on its path. `repartition`: frames wait for a new plan."""

LABELS: tuple[Label, ...] = (*SEVERITY, "repartition")

ANY_TECHNIQUE: frozenset[Label] = frozenset(LABELS)

LIMIT = 200
"""Most options returned."""

WIDTH = 8
"""Most paths kept for one cut, node and technique."""

_RANK = {technique: rank for rank, technique in enumerate(SEVERITY)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A part that a node has loaded."""

    part: Part
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way of answering.

    Attributes:
        hops: the parts in order; empty for a repartition.
        head: the node of the head.
        technique: the most severe of its parts.
        accuracy: as estimated from measurements, with its 95 % interval low..high; None: not known.
        expected: the accuracy to compare with: `accuracy`, or an assumption where that is not known.
        latency_s: of one frame, from head to head.
        pause_s: from the failure until frames flow again.
    """

    hops: tuple[Placed, ...]
    head: str
    technique: Label
    accuracy: float | None
    low: float | None
    high: float | None
    expected: float
    latency_s: float
    pause_s: float

    @property
    def downtime_s(self) -> float:
        """From the failure to the first answer."""
        return self.pause_s + self.latency_s

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that it needs, in order, each once; the head's is not among them unless it computes."""
        return tuple(dict.fromkeys(hop.node for hop in self.hops))

    @property
    def order(self) -> tuple[int, int, tuple[tuple[str, str], ...]]:
        """Breaks ties: what changes an answer least, the fewest hops, the names."""
        return LABELS.index(self.technique), len(self.hops), tuple((hop.part.name, hop.node) for hop in self.hops)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repartition:
    """What a new plan for the survivors is expected to be: the most bytes that one node loads, its latency, and whether
    it is made already."""

    load_bytes: int
    latency_s: float
    planned: bool = False


def stages_of(plan: Plan, chain: Chain) -> tuple[Placed, ...]:
    """The plan's stages as placed parts: the healthy path."""
    return tuple(
        Placed(part=stage_part(chain, stage.first_block, stage.end_block), node=stage.node) for stage in plan.stages
    )


def options(
    placed: Sequence[Placed],
    blocks: int,
    alive: Collection[str],
    estimates: Estimates,
    *,
    head: str | None,
    techniques: Collection[Label] = ANY_TECHNIQUE,
) -> list[Option]:
    """The ways of answering over these nodes, at most `LIMIT`, the least severe and most accurate first.

    Args:
        placed: what the nodes have loaded: stages and spares; the order does not matter.
        blocks: B.
        alive: nodes that are alive.
        head: the node of the head; None: that of each option's first hop.
        techniques: those that may be used; stages always may.
    """
    nodes = frozenset(alive)
    usable = sorted(
        {
            spot
            for spot in placed
            if spot.node in nodes and (spot.part.technique == "none" or spot.part.technique in techniques)
        },
        key=lambda spot: (
            spot.part.first_block,
            spot.part.end_block,
            _RANK[spot.part.technique],
            spot.part.name,
            spot.node,
        ),
    )
    heads = [head] if head is not None else sorted({spot.node for spot in usable if spot.part.first_block == 0})
    found: list[Option] = []
    for place in heads:
        search = _Search(usable, blocks, estimates, place, begins_at_head=head is None)
        found += [_option(path.hops, place, path.latency_s, estimates) for path in search.paths()]
    return _trim(found)


def evaluate(hops: Sequence[Placed], head: str, estimates: Estimates) -> Option:
    """The option that takes this path."""
    latency, at = 0.0, head
    for hop in hops:
        latency += estimates.transfer_s(hop.part.first_block, at, hop.node)
        latency += estimates.part_s(hop.part, hop.node)
        at = hop.node
    latency += estimates.transfer_s(estimates.chain.blocks, at, head)
    return _option(tuple(hops), head, latency, estimates)


def repartition(healing: Repartition, head: str, estimates: Estimates) -> Option:
    """The option without a bridge: frames wait until the new plan serves, which answers as the healthy one did."""
    accuracy = estimates.accuracy(())
    return Option(
        hops=(),
        head=head,
        technique="repartition",
        accuracy=accuracy.value if accuracy else None,
        low=accuracy.low if accuracy else None,
        high=accuracy.high if accuracy else None,
        expected=estimates.expected(()),
        latency_s=healing.latency_s,
        pause_s=estimates.timings.heal_s(healing.load_bytes, planned=healing.planned),
    )


def _option(hops: tuple[Placed, ...], head: str, latency_s: float, estimates: Estimates) -> Option:
    parts = [hop.part for hop in hops]
    accuracy = estimates.accuracy(parts)
    return Option(
        hops=hops,
        head=head,
        technique=SEVERITY[max(_RANK[part.technique] for part in parts)],
        accuracy=accuracy.value if accuracy else None,
        low=accuracy.low if accuracy else None,
        high=accuracy.high if accuracy else None,
        expected=estimates.expected(parts),
        latency_s=latency_s,
        pause_s=estimates.timings.bridge_s,
    )


class _Path(NamedTuple):
    """A path from cut 0 to some cut; compares by latency, then accuracy, then its hops. `loss`: -1 x the factors."""

    latency_s: float
    loss: float
    indices: tuple[int, ...]
    hops: tuple[Placed, ...]


class _Search:
    """The Pareto fronts of one head, cut by cut."""

    def __init__(
        self, usable: Sequence[Placed], blocks: int, estimates: Estimates, head: str, *, begins_at_head: bool
    ) -> None:
        self._blocks = blocks
        self._estimates = estimates
        self._head = head
        self._transfers: dict[tuple[int, str, str], float] = {}
        self._edges: dict[int, list[tuple[int, Placed, float, float]]] = defaultdict(list)
        for index, spot in enumerate(usable):
            first = spot.part.first_block
            if spot.part.end_block <= blocks and (first > 0 or not begins_at_head or spot.node == head):
                seconds, factor = estimates.part_s(spot.part, spot.node), estimates.factor(spot.part)
                self._edges[first].append((index, spot, seconds, factor))

    def paths(self) -> list[_Path]:
        """The fronts at cut B, one technique after the other; the latency includes the way back to the head."""
        at: dict[int, dict[tuple[str, int], list[_Path]]] = defaultdict(lambda: defaultdict(list))
        at[0][self._head, 0].append(_Path(0.0, -1.0, (), ()))
        for cut in range(self._blocks):
            edges = self._edges.get(cut)
            if not edges or cut not in at:
                continue
            for node, rank, front in self._prune(cut, at.pop(cut)):
                for index, spot, seconds, factor in edges:
                    hop_s = self._transfer(cut, node, spot.node)
                    if hop_s == math.inf:
                        continue
                    reached = at[spot.part.end_block][spot.node, max(rank, _RANK[spot.part.technique])]
                    for latency, loss, indices, hops in front:
                        reached.append(
                            _Path(latency + hop_s + seconds, loss * factor, (*indices, index), (*hops, spot))
                        )
        ended: dict[int, list[_Path]] = defaultdict(list)
        for (node, rank), paths in at[self._blocks].items():
            back_s = self._transfer(self._blocks, node, self._head)
            if back_s < math.inf:
                ended[rank] += [path._replace(latency_s=path.latency_s + back_s) for path in paths]
        return [path for rank in sorted(ended) for path in _front(ended[rank])]

    def _prune(self, cut: int, states: dict[tuple[str, int], list[_Path]]) -> list[tuple[str, int, list[_Path]]]:
        """The front of each state, without what another node's path beats even after the slowest hop from there."""
        targets = {spot.node for _, spot, _, _ in self._edges[cut]}
        fronts = {state: _thin(_front(paths), WIDTH) for state, paths in sorted(states.items())}
        offers: dict[int, list[tuple[float, float, str]]] = defaultdict(list)
        for (node, rank), front in fronts.items():
            slowest = max(self._transfer(cut, node, target) for target in targets)
            offers[rank] += [(path.latency_s + slowest, path.loss, node) for path in front]
        kept = []
        for (node, rank), front in fronts.items():
            left = [
                path
                for path in front
                if not any(
                    other != node and latency <= path.latency_s and loss <= path.loss
                    for latency, loss, other in offers[rank]
                    if (latency, loss, other) < (path.latency_s, path.loss, node)
                )
            ]
            if left:
                kept.append((node, rank, left))
        return kept

    def _transfer(self, cut: int, source: str, target: str) -> float:
        key = (cut, source, target)
        seconds = self._transfers.get(key)
        if seconds is None:
            seconds = self._transfers[key] = self._estimates.transfer_s(cut, source, target)
        return seconds


def _front(paths: list[_Path]) -> list[_Path]:
    """Those that no other beats in latency and accuracy, the quickest first; of equal ones the first in order."""
    front: list[_Path] = []
    for path in sorted(paths, key=lambda path: (path.latency_s, path.loss, len(path.hops), path.indices)):
        if not front or path.loss < front[-1].loss:
            front.append(path)
    return front


def _thin(front: list[_Path], width: int) -> list[_Path]:
    """At most `width` of a front, evenly; its ends stay."""
    if len(front) <= width:
        return front
    return [front[round(place * (len(front) - 1) / (width - 1))] for place in range(width)]


def _trim(found: list[Option]) -> list[Option]:
    """In order, and at most `LIMIT`: of each technique an equal share, the most accurate and the quickest included."""
    shares: dict[Label, list[Option]] = defaultdict(list)
    for option in sorted(found, key=lambda option: (-option.expected, option.latency_s, option.order)):
        shares[option.technique].append(option)
    share = LIMIT // len(SEVERITY)
    result: list[Option] = []
    for technique in SEVERITY:
        listed = shares[technique]
        if len(listed) > share:
            quickest = min(listed, key=lambda option: (option.latency_s, option.order))
            listed = [listed[round(place * (len(listed) - 1) / (share - 1))] for place in range(share)]
            if quickest not in listed:
                listed[-1] = quickest
        result += listed
    return result
