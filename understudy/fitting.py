"""Which stages a bundle's parts are fitted for, and what of them goes into the bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.activation import HEADER_RESERVE_BYTES
from planner.cluster import Cluster, NodeSpec
from planner.plan import NoPlanError
from planner.solve import solve
from understudy.config import UpConfig
from understudy.planning import EQUAL_SPEED_FLOPS_PER_S, TIME_LIMIT_S

if TYPE_CHECKING:
    from stages.calibration import CalibrationData
    from stages.graph import ModelGraph
    from stages.manifest import Manifest

MEASURED_IMAGES = 4000
CODEC_IMAGES = 2000

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What fitting adds to a bundle.

    Attributes:
        draft: the manifest with parts and `held_out`.
        files: path in the bundle to content.
    """

    draft: Manifest
    files: dict[str, bytes]


def planned_stages(graph: ModelGraph, nodes: Sequence[int], *, single: bool = True) -> list[tuple[int, int]]:
    """The stages [first, end) that a pipeline can lose: every block alone, and the stages of the plans for so many
    equal nodes, as a controller plans where it knows nothing of speeds and links. `single=False`: only the latter."""
    found = {(block.index, block.index + 1) for block in graph.blocks if single}
    limit = UpConfig.model_fields["max_payload"].default - HEADER_RESERVE_BYTES
    for count in nodes:
        equal = tuple(NodeSpec(name=f"n{index}", flops_per_s=EQUAL_SPEED_FLOPS_PER_S) for index in range(count))
        cluster = Cluster(nodes=equal, max_payload_bytes=limit, chunked=False)
        try:
            plan = solve(graph.chain(), cluster, time_limit_s=TIME_LIMIT_S)
        except NoPlanError:
            continue
        found.update((stage.first_block, stage.end_block) for stage in plan.stages)
    return sorted(found)


def limited(data: CalibrationData, most: int) -> CalibrationData:
    """At most so many of the images, drawn at random, always the same: the first ones may be all of one class."""
    import numpy as np

    if data.count <= most:
        return data
    return data.subset(np.sort(np.random.default_rng(1).permutation(data.count)[:most]))


def fit_for_bundle(
    graph: ModelGraph,
    draft: Manifest,
    calibration: CalibrationData,
    held_out: CalibrationData | None,
    *,
    stages: Sequence[tuple[int, int]],
    exits: Sequence[int],
    on_progress: Tell | None = None,
    on_note: Tell | None = None,
) -> Prepared:
    """Parts for the stages, and exits at the cuts, fitted on `calibration` and measured on `held_out`, else on a fifth
    of the former; and the images themselves.

    Raises:
        CalibrationError: an image cannot be used, or there are too few to divide.
        ModelError: the model cannot be used.
    """
    from stages.calibration_pack import MAX_IMAGES, pack_calibration
    from stages.fitting import fit_parts, measure
    from stages.fitting.exits import is_classifier
    from stages.manifest import CALIBRATION_FILE

    fit_data, measured_data = calibration.divided() if held_out is None else (calibration, held_out)
    fit_data, measured_data = limited(fit_data, MAX_IMAGES), limited(measured_data, MEASURED_IMAGES)
    parts = fit_parts(graph, fit_data, stages=stages, exits=exits, on_progress=on_progress, on_note=on_note)
    changes: dict[str, Any] = {}
    if is_classifier(graph):
        parts, changes["held_out"] = measure(graph, parts, measured_data, on_progress=on_progress)
    changes["parts"] = tuple(part.record for part in parts)
    files = {part.record.file: part.model for part in parts if part.record.file is not None}
    return Prepared(
        draft=draft.model_copy(update=changes), files={**files, CALIBRATION_FILE: pack_calibration(fit_data)}
    )
