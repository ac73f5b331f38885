"""What a way of answering brings: its accuracy, its latency and its downtime, estimated before the failure.

Symbols: h the healthy accuracy; a_p the accuracy of the whole network with part p in the place of its blocks.

- Accuracy of a path that puts the parts p_1 ... p_k in the place of their blocks: h * (a_1 / h) * ... * (a_k / h). It
  takes the parts' losses for independent: one part's errors neither repeat nor repair another's. Its interval adds the
  relative half-widths of the parts' intervals in quadrature, which rests on the same.
- Latency: the seconds that the parts compute, and the transfers between consecutive nodes, from head to head.
- Downtime, from a failure to the first answer: the pause until frames flow again, and the latency of one frame. The
  pause is detect + switch where everything is loaded, detect + plan + load + switch for a new plan.

What is not measured is assumed (`ASSUMED`), so that options stay comparable; an assumption is never given out as an
accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from planner.chain import Chain
from planner.cluster import Cluster
from planner.codec import NONE, quickest
from planner.part import Part, Technique

ASSUMED: Mapping[Technique, float] = {"none": 1.0, "standby": 1.0, "stand-in": 0.9, "skip": 0.7, "exit": 0.7}
"""What is left of the healthy accuracy with a part of which nothing is measured; a little less for every block that it
replaces, and for an exit only the share of the blocks that were run."""

MOST = 0.999
"""Of the healthy accuracy, that any part but the stage itself is counted with."""

ASSUMED_VARIANT = 0.99
"""The same for a variant of a standby, such as a quantised one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """A measured accuracy, 0..1, and its 95 % interval; None where it is not known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """What the steps of a recovery take. The defaults are guesses: what is measured replaces them.

    Attributes:
        detect_s: from the failure to the knowledge of it; the default is that of a crash.
        switch_s: from the decision until every worker follows the new route.
        plan_s: solving for the survivors.
        load_fixed_s, load_bytes_per_s: a sub-model is fetched, loaded and warmed in
            load_fixed_s + bytes / load_bytes_per_s.
        message_s: a message between two nodes, where no cluster says more.
    """

    detect_s: float = 0.005
    switch_s: float = 0.003
    plan_s: float = 0.05
    load_fixed_s: float = 0.15
    load_bytes_per_s: float = 200e6
    message_s: float = 0.0003

    def __post_init__(self) -> None:
        for name in ("detect_s", "switch_s", "plan_s", "load_fixed_s", "load_bytes_per_s", "message_s"):
            value = getattr(self, name)
            if not (0 <= value < math.inf) or (name == "load_bytes_per_s" and value == 0):
                raise ValueError(f"{name} is {value!r}: it must be a finite number >= 0, a rate more than 0")

    @property
    def bridge_s(self) -> float:
        """From the failure until frames flow again over a path whose parts are all loaded."""
        return self.detect_s + self.switch_s

    def heal_s(self, load_bytes: int, *, planned: bool = False) -> float:
        """The same for a new plan, whose stages load at the same time: `load_bytes` is the most that one node loads.
        `planned`: it is made already."""
        load_s = self.load_fixed_s + load_bytes / self.load_bytes_per_s
        return self.detect_s + (0.0 if planned else self.plan_s) + load_s + self.switch_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What is known about the model, the nodes and the links.

    Attributes:
        chain: the model.
        healthy: h, the accuracy of the whole network; None: not known.
        speeds: FLOP/s of each node, as measured; else the cluster's `flops_per_s`; on a node without either, computing
            is not counted.
        part_seconds: part name to node to measured seconds; they take precedence.
        cluster: the links; None: every hop takes `timings.message_s`.
        timings: of the steps of a recovery.
    """

    chain: Chain
    healthy: Accuracy | None = None
    speeds: Mapping[str, float] = field(default_factory=dict)
    part_seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cluster: Cluster | None = None
    timings: Timings = field(default_factory=Timings)

    def factor(self, part: Part) -> float:
        """a_p / h, or an assumption: what a part leaves of the healthy accuracy."""
        if _exact(part):
            return 1.0
        if part.accuracy is not None:
            # However well a replacement does on some images, the stage itself is the safer one.
            return min(part.accuracy / self._base, MOST)
        if part.technique == "standby":
            return ASSUMED_VARIANT
        blocks = self.chain.blocks
        if part.technique == "exit":
            left = part.first_block / blocks
        else:
            left = 1 - 0.1 * (part.end_block - part.first_block) / blocks
        replaced = sum(self.chain.block_flops[part.first_block : part.end_block])
        size = min(1.0, part.flops / replaced) if replaced else 0.0
        return min(1.0, ASSUMED[part.technique] * left + 0.01 * size)

    def expected(self, parts: Sequence[Part]) -> float:
        """The accuracy to compare with: the estimate, and assumptions for what is not known; h = 1 if unknown."""
        return self.expected_of(math.prod(self.factor(part) for part in parts))

    def expected_of(self, factor: float) -> float:
        """The same for a path whose factors have this product."""
        return min(1.0, self._base * factor)

    def accuracy(self, parts: Sequence[Part]) -> Accuracy | None:
        """The estimate and its interval; None where h or one of the parts is not measured."""
        if self.healthy is None or self.healthy.value <= 0:
            return None
        changed = [part for part in parts if not _exact(part)]
        if not changed:
            return self.healthy
        if any(part.accuracy is None for part in changed):
            return None
        value = self.expected(parts)
        widths = [_relative_widths(part) for part in changed]
        below = [width[0] for width in widths if width is not None]
        above = [width[1] for width in widths if width is not None]
        if len(below) < len(widths):
            return Accuracy(value=value)
        low, high = value * (1 - math.hypot(*below)), value * (1 + math.hypot(*above))
        return Accuracy(value=value, low=max(0.0, low), high=min(1.0, high))

    def part_s(self, part: Part, node: str) -> float:
        """Seconds that a part computes for one frame."""
        measured = self.part_seconds.get(part.name, {}).get(node)
        if measured is not None:
            return measured
        speed = self._speed(node)
        if _exact(part):
            return sum(self.chain.seconds_on(node, speed)[part.first_block : part.end_block])
        return part.flops / speed if speed else 0.0

    def transfer_s(self, cut: int, source: str, target: str) -> float:
        """Seconds from node to node for the activation of a cut; infinite where it cannot be sent."""
        return self._transfer(cut, source, target)[1]

    def codec(self, cut: int, source: str, target: str) -> str:
        """What the activation goes through on that way, such that it takes the least time."""
        return self._transfer(cut, source, target)[0]

    def _transfer(self, cut: int, source: str, target: str) -> tuple[str, float]:
        if source == target:
            return NONE, 0.0
        cluster = self.cluster
        if cluster is None or source not in cluster.names or target not in cluster.names:
            return NONE, self.timings.message_s
        size = self.chain.cut_bytes[cut]
        messages = 1 if cluster.max_payload_bytes is None else max(1, math.ceil(size / cluster.max_payload_bytes))
        rates = _rates(cluster, cluster.names.index(source), cluster.names.index(target))
        if 0 in rates or (messages > 1 and not cluster.chunked):
            return NONE, math.inf
        inside = 0 < cut < self.chain.blocks  # what the head sends and takes travels as it is
        codec, _, seconds = quickest(
            self.chain.codecs if inside else (),
            cut,
            size,
            sum(1 / rate for rate in rates),
            (self._speed(source), self._speed(target)),
        )
        return codec, seconds + messages * cluster.message_overhead_s

    @property
    def _base(self) -> float:
        return self.healthy.value if self.healthy is not None and self.healthy.value > 0 else 1.0

    def _speed(self, node: str) -> float | None:
        speed = self.speeds.get(node)
        if speed is None and self.cluster is not None:
            speed = next((spec.flops_per_s for spec in self.cluster.nodes if spec.name == node), None)
        if speed is None:
            measured = sum(self.chain.block_seconds.get(node, ()))
            speed = sum(self.chain.block_flops) / measured if measured else None
        return speed


def _rates(cluster: Cluster, one: int, other: int) -> list[float]:
    """Bytes per second of the links between two nodes, one after the other."""
    if cluster.topology == "star":
        assert cluster.up_bytes_per_s is not None  # noqa: S101 - Cluster checks it
        assert cluster.down_bytes_per_s is not None  # noqa: S101
        return [cluster.up_bytes_per_s[one], cluster.down_bytes_per_s[other]]
    links = cluster.bandwidth_bytes_per_s
    return [] if links is None else [links[one][other]]


def _exact(part: Part) -> bool:
    """Whether a part gives what its stage gives: the stage, or a copy of it in full precision."""
    return part.technique == "none" or (part.technique == "standby" and not part.variant)


def _relative_widths(part: Part) -> tuple[float, float] | None:
    """How far the interval reaches below and above the accuracy, relative to it."""
    if part.accuracy is None or part.low is None or part.high is None:
        return None
    if part.accuracy == 0:
        return (0.0, 0.0)
    return (max(0.0, 1 - part.low / part.accuracy), max(0.0, part.high / part.accuracy - 1))
