"""What a model's stages and parts take on a machine: predicted from its profile, and measured where asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from broker.errors import UnderstudyError
from planner.chain import SecondsSource
from planner.codec import CodecCost
from planner.latency import Calibration, SessionLatency, StageRuns, typical
from planner.part import Part
from planner.predictor import Predictor
from planner.profile import Profile
from stages.bundle import Bundle
from stages.fitting import part_of
from stages.graph import ModelGraph
from stages.latency import LatencyModel, Session, measure_sessions, part_session, stage_session
from stages.manifest import NodeProfile

Source = SecondsSource
"""Where seconds come from: a profile alone; runs of just this; or a profile corrected by runs of what is deployed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLatency:
    """Of a stage, or of another part.

    Attributes:
        part: its name, as `planner.part` makes it.
        predicted: by the profile.
        runs_s: seconds of single runs; empty: not measured.
    """

    part: str
    first_block: int
    end_block: int
    predicted: SessionLatency
    runs_s: tuple[float, ...] = ()

    @property
    def measured_s(self) -> float | None:
        return typical(self.runs_s) if self.runs_s else None

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured."""
        measured = self.measured_s
        return None if measured is None else self.predicted.seconds / measured - 1

    @property
    def seconds(self) -> float:
        """The best that is known."""
        measured = self.measured_s
        return self.predicted.seconds if measured is None else measured

    @property
    def source(self) -> Source:
        return "predicted" if self.measured_s is None else "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLatency:
    """Of a model on one machine.

    Attributes:
        stages: as the cuts make them; without cuts one.
        parts: of the bundle: exits and stand-ins.
        block_seconds: B numbers for the planner, which add up to the whole network's.
        source: of `block_seconds`.
    """

    graph: ModelGraph
    stages: tuple[PartLatency, ...]
    parts: tuple[PartLatency, ...]
    block_seconds: tuple[float, ...]
    source: Source

    @property
    def latency_s(self) -> float:
        """Of the stages one after the other, without links."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def unprofiled(self) -> tuple[str, ...]:
        return tuple(sorted({kind for row in (*self.stages, *self.parts) for kind in row.predicted.unprofiled}))

    @property
    def beyond(self) -> tuple[str, ...]:
        return tuple(sorted({kind for row in (*self.stages, *self.parts) for kind in row.predicted.beyond}))


def predict_model(
    bundle: Bundle,
    graph: ModelGraph,
    profile: Profile,
    *,
    cuts: Sequence[int] = (),
    runs: int = 0,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> ModelLatency:
    """Predict the stages between the cuts, and the bundle's parts; with `runs`, run each of them so often as well, and
    correct `block_seconds` by what the stages took.

    Args:
        cuts: inner cuts, ascending.
        threads: of one inference; None: those of the profile.

    Raises:
        UnderstudyError: a cut is not one of the model's, the profile is of another number of threads, or onnxruntime
            cannot load something.
        MissingPackageError: LightGBM is not installed.
    """
    count = int(profile.machine.get("threads", 1))
    if threads is not None and threads != count:
        raise UnderstudyError(
            f"the profile is of {count} thread(s), not of {threads}: profile the machine with that many"
        )
    blocks = len(graph.blocks)
    if list(cuts) != sorted(set(cuts)) or any(not 0 < cut < blocks for cut in cuts):
        raise UnderstudyError(
            f"the cuts {list(cuts)} must ascend between 1 and {blocks - 1}: 'understudy inspect' shows them"
        )
    sessions = _sessions(bundle, graph, cuts)
    model = LatencyModel(Predictor(profile), threads=count)
    predicted = {part: model.session(session.model) for part, session in sessions.items()}
    seconds = model.blocks(graph)
    by_name = {part.name: session for part, session in sessions.items()}
    measured = measure_sessions(by_name, runs=runs, threads=count, on_progress=on_progress) if runs else {}
    rows = [
        PartLatency(
            part=part.name,
            first_block=part.first_block,
            end_block=part.end_block,
            predicted=predicted[part],
            runs_s=tuple(measured.get(part.name, ())),
        )
        for part in sessions
    ]
    stages = tuple(row for row in rows if row.part.startswith("stage:"))
    if runs:
        calibration = calibrate(seconds, stages)
        seconds = tuple(s * factor for s, factor in zip(seconds, calibration.factors, strict=True))
    return ModelLatency(
        graph=graph,
        stages=stages,
        parts=tuple(row for row in rows if row not in stages),
        block_seconds=seconds,
        source="calibrated" if runs else "predicted",
    )


def calibrate(block_seconds: Sequence[float], stages: Sequence[PartLatency]) -> Calibration:
    """From the runs of deployed stages."""
    runs = [
        StageRuns(
            first_block=row.first_block, end_block=row.end_block, predicted_s=row.predicted.seconds, runs_s=row.runs_s
        )
        for row in stages
    ]
    return Calibration.of(block_seconds, runs)


def _sessions(bundle: Bundle, graph: ModelGraph, cuts: Sequence[int]) -> dict[Part, Session]:
    """What would be deployed: a session per stage, and one per part that has a file."""
    found = {
        Part(technique="none", first_block=first, end_block=end): stage_session(graph, first, end)
        for first, end in pairwise((0, *cuts, len(graph.blocks)))
    }
    for record in bundle.manifest.parts:
        if record.file is not None:
            model = bundle.path(record.file).read_bytes()
            found[part_of(record)] = part_session(graph, record.first_block, record.end_block, model)
    return found


def chain_document(
    latency: ModelLatency, node: str, *, codecs: Sequence[CodecCost] = (), frame_bytes: int | None = None
) -> dict[str, Any]:
    """A chain file (docs/planner.md) with the blocks' seconds on the node, where they come from, and what else a bundle
    tells the planner."""
    chain = latency.graph.chain()
    return {
        "name": chain.name,
        "cut_bytes": list(chain.cut_bytes),
        "block_memory_bytes": list(chain.block_memory_bytes),
        "block_peak_bytes": list(chain.block_peak_bytes),
        "block_flops": list(chain.block_flops),
        "block_seconds": {node: list(latency.block_seconds)},
        "block_seconds_source": {node: latency.source},
        "codecs": [asdict(codec) for codec in codecs],
        "frame_bytes": frame_bytes,
    }


def node_profile(latency: ModelLatency) -> NodeProfile:
    """As a bundle keeps it for one node."""
    rows = (*latency.stages, *latency.parts)
    return NodeProfile(
        source=latency.source,
        block_seconds=latency.block_seconds,
        part_seconds={row.part: row.seconds for row in rows},
    )


def document(latency: ModelLatency, profile: Profile, node: str) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        "model": latency.graph.name,
        "machine": dict(profile.machine),
        "transferred": bool(profile.ratios),
        "latency_s": latency.latency_s,
        "stages": [_row(row) for row in latency.stages],
        "parts": [_row(row) for row in latency.parts],
        "part_seconds": {row.part: {node: row.seconds} for row in (*latency.stages, *latency.parts)},
        "block_seconds": {node: list(latency.block_seconds)},
        "block_seconds_source": {node: latency.source},
        "unprofiled": list(latency.unprofiled),
        "beyond": list(latency.beyond),
    }


def _row(row: PartLatency) -> dict[str, Any]:
    return {
        "part": row.part,
        "first_block": row.first_block,
        "end_block": row.end_block,
        "seconds": row.seconds,
        "source": row.source,
        "predicted_s": row.predicted.seconds,
        "low_s": row.predicted.low,
        "high_s": row.predicted.high,
        "measured_s": row.measured_s,
        "runs_s": list(row.runs_s),
        "error": row.error,
        "by_kind_s": dict(row.predicted.by_kind),
        "unprofiled": list(row.predicted.unprofiled),
        "beyond": list(row.predicted.beyond),
    }
