"""Measures codecs on the activations of trained networks: bytes, time, accuracy, and what the planner makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.subjects import MissingSubjectError, data_file, load
from broker.codecs import LOSSLESS, Codec
from planner.chain import Chain
from planner.cluster import Cluster, NodeSpec
from planner.codec import CodecCost, within
from planner.plan import Plan
from planner.solve import solve
from stages.bundle import Bundle
from stages.calibration import CalibrationData, load_calibration
from stages.codec_cost import BATCH, LOSSY, Blocks, CutCost, Tensors, loss_of, measure_cut, measure_losses, timed_frames
from stages.graph import ModelGraph
from stages.manifest import CodecLoss
from understudy.fitting import limited

CODECS: tuple[Codec, ...] = ("fp16", "int8", "zstd", "fp16+zstd", "int8+zstd")
STAGES = 4
MBIT_PER_S = (10, 50, 100, 1000)
MAX_LOSS = 0.005
"""What a user allows in the table of plans, besides nothing."""

DATA: Mapping[str, str] = {"resnet32": "cifar10_test_public.npz", "digits": "frames.npz"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CutResult:
    """One codec at one cut.

    Attributes:
        size_bytes: of one frame's activation.
        cost: bytes and seconds, of those.
        loss: of accuracy, with the codec at this cut alone; None: it is lossless.
    """

    codec: Codec
    cut: int
    size_bytes: int
    cost: CutCost
    loss: CodecLoss | None

    @property
    def encode_s(self) -> float:
        return self.cost.encode_s_per_byte * self.size_bytes

    @property
    def decode_s(self) -> float:
        return self.cost.decode_s_per_byte * self.size_bytes

    @property
    def break_even_bytes_per_s(self) -> float:
        """On a slower link a frame arrives earlier with the codec than without."""
        saved = 1 - self.cost.ratio
        return max(0.0, saved / (self.cost.encode_s_per_byte + self.cost.decode_s_per_byte))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    """A plan for `STAGES` equal nodes on equal links, where codecs may cost so much accuracy; None: none is used."""

    mbit_per_s: float
    max_loss: float | None
    codecs: tuple[str, ...]
    bottleneck_s: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of one network.

    Attributes:
        images: on which the accuracy was measured, and that of the network itself on them.
        plan_cuts: of the plan for `STAGES` equal nodes.
        at_plan, at_all: the loss with a codec at all cuts of that plan, and at every cut, at once; lossy ones alone.
    """

    name: str
    images: int
    accuracy: float
    cuts: tuple[CutResult, ...]
    plan_cuts: tuple[int, ...]
    at_plan: Mapping[str, CodecLoss]
    at_all: Mapping[str, CodecLoss]
    plans: tuple[PlanResult, ...]


def measure(name: str, scratch: Path, images: int, tell: Callable[[str], None]) -> Measured:
    """One network.

    Args:
        images: at most, for the accuracy.

    Raises:
        MissingSubjectError: its model or data is not here.
    """
    bundle = load(name, scratch).bundle
    graph = ModelGraph.load(bundle.model_path, shapes=bundle.manifest.shapes or None)
    data = limited(open_data(name, bundle, graph), images)
    blocks = Blocks.of(graph)
    tell(f"{name}: bytes and times")
    frames = [blocks.activations(inputs) for inputs in timed_frames(graph, data)]
    flops_per_s = sum(block.flops for block in graph.blocks) / blocks.seconds(frames)
    tell(f"{name}: accuracy at each cut, {data.count} images")
    losses, accuracy = losses_by_cut(blocks, data)
    cuts = tuple(
        CutResult(
            codec=codec,
            cut=cut,
            size_bytes=graph.cuts[cut].size_bytes,
            cost=measure_cut([frame[cut] for frame in frames], codec),
            loss=losses.get((lossy_half(codec), cut)),
        )
        for codec in CODECS
        for cut in range(1, len(graph.blocks))
    )
    tell(f"{name}: accuracy at several cuts")
    plan_cuts = equal_cuts(graph.chain())
    at_plan, at_all = losses_together(blocks, data, plan_cuts), losses_together(blocks, data, None)
    chain = replace(graph.chain(), codecs=costs(graph, cuts, at_all, flops_per_s))
    return Measured(
        name=name,
        images=data.count,
        accuracy=accuracy,
        cuts=cuts,
        plan_cuts=plan_cuts,
        at_plan=at_plan,
        at_all=at_all,
        plans=tuple(planned(chain, flops_per_s)),
    )


def open_data(name: str, bundle: Bundle, graph: ModelGraph) -> CalibrationData:
    """Labelled images that the network was not trained on. Raises MissingSubjectError."""
    if name not in DATA:
        raise MissingSubjectError(f"there are no labelled images for {name}")
    path = bundle.path(DATA[name]) if DATA[name] in bundle.manifest.files else data_file(DATA[name])
    return load_calibration(path, bundle.manifest.input, graph.inputs, class_count=10)


def lossy_half(codec: Codec) -> str:
    return codec.partition("+")[0]


def losses_by_cut(blocks: Blocks, data: CalibrationData) -> tuple[dict[tuple[str, int], CodecLoss], float]:
    """The loss of each lossy codec at each cut alone; and the network's own accuracy. The activations of a cut are
    computed once for both."""
    name, inner = blocks.graph.inputs[0].name, range(1, len(blocks.engines))
    counts = {(codec, cut): [0, 0] for codec in LOSSY for cut in inner}
    correct = 0
    for inputs, labels in data.batches(BATCH if blocks.graph.dynamic_batch else 1):
        assert labels is not None
        activations = blocks.activations({name: inputs})
        right = classes(activations[-1], len(inputs)) == labels
        correct += int(np.count_nonzero(right))
        for (codec, cut), count in counts.items():
            still = blocks.answers(activations[cut], codec, [cut], first=cut) == labels
            count[0] += int(np.count_nonzero(right & ~still))
            count[1] += int(np.count_nonzero(~right & still))
    return {key: loss_of(worse, better, data.count) for key, (worse, better) in counts.items()}, correct / data.count


def losses_together(blocks: Blocks, data: CalibrationData, at: Sequence[int] | None) -> dict[str, CodecLoss]:
    """Of each lossy codec at all of these cuts (None: at every one) at once."""
    return {str(codec): loss for codec, loss in zip(LOSSY, measure_losses(blocks, data, LOSSY, at), strict=True)}


def classes(outputs: Tensors, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    (scores,) = outputs.values()
    return np.asarray(scores.reshape(count, -1).argmax(axis=1))


def costs(
    graph: ModelGraph, cuts: Sequence[CutResult], at_all: Mapping[str, CodecLoss], flops_per_s: float
) -> tuple[CodecCost, ...]:
    """What the planner is told, as of a bundle that `understudy prepare` made."""
    found = []
    for codec in CODECS:
        rows = [None, *(result for result in cuts if result.codec == codec), None]
        loss = at_all.get(lossy_half(codec))
        found.append(
            CodecCost(
                name=codec,
                ratio=tuple(1.0 if row is None else row.cost.ratio for row in rows),
                encode_s_per_byte=tuple(0.0 if row is None else row.cost.encode_s_per_byte for row in rows),
                decode_s_per_byte=tuple(0.0 if row is None else row.cost.decode_s_per_byte for row in rows),
                accuracy_loss=0.0 if codec in LOSSLESS or loss is None else max(0.0, loss.high),
                flops_per_s=flops_per_s,
            )
        )
    assert all(len(cost.ratio) == len(graph.cuts) for cost in found)
    return tuple(found)


def equal_cuts(chain: Chain) -> tuple[int, ...]:
    """The cuts of the plan for so many equal nodes whose links do not count."""
    nodes = tuple(NodeSpec(name=f"node{index}", flops_per_s=1e9) for index in range(STAGES))
    return tuple(stage.first_block for stage in solve(chain, Cluster(nodes=nodes), stages=STAGES).stages[1:])


def planned(chain: Chain, flops_per_s: float) -> list[PlanResult]:
    """For nodes as fast as this machine, and every bandwidth and bound."""
    found = []
    for mbit_per_s in MBIT_PER_S:
        row = (mbit_per_s * 1e6 / 8,) * STAGES
        nodes = tuple(NodeSpec(name=f"node{index}", flops_per_s=flops_per_s) for index in range(STAGES))
        cluster = Cluster(nodes=nodes, bandwidth_bytes_per_s=(row,) * STAGES)
        for max_loss in (None, 0.0, MAX_LOSS):
            allowed = () if max_loss is None else within(chain.codecs, max_loss)
            plan = solve(replace(chain, codecs=allowed), cluster, stages=STAGES)
            found.append(_result(plan, mbit_per_s, max_loss))
    return found


def _result(plan: Plan, mbit_per_s: float, max_loss: float | None) -> PlanResult:
    return PlanResult(
        mbit_per_s=mbit_per_s,
        max_loss=max_loss,
        codecs=tuple(stage.codec for stage in plan.stages[1:]),
        bottleneck_s=plan.bottleneck_s,
        latency_s=plan.latency_s,
    )
