"""Which bundle a command means, and its model."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.errors import UnderstudyError
from stages.bundle import Bundle, bundle_from_model
from stages.errors import ModelError
from stages.graph import ModelGraph
from understudy.data import digits_bundle


def open_bundle(bundle: Path | None, model: Path | None) -> Bundle:
    """The bundle, verified; or one made up for a bare model; or the digits bundle.

    Raises:
        BundleError, ModelError: it cannot be used; says why.
        UnderstudyError: both are given.
    """
    if bundle is not None and model is not None:
        raise UnderstudyError("--bundle and --model are both given: one of them")
    if model is not None:
        return bundle_from_model(model)
    return digits_bundle() if bundle is None else Bundle.load(bundle)


async def load_model(bundle: Bundle) -> ModelGraph:
    """Read and cut the bundle's model, off the event loop."""
    return await asyncio.to_thread(ModelGraph.load, bundle.model_path, shapes=bundle.manifest.shapes)


def check_stages(graph: ModelGraph, stages: int | None) -> None:
    """Raises ModelError where the model has fewer blocks than stages are asked for."""
    blocks = len(graph.blocks)
    if stages is None or stages <= blocks:
        return
    if blocks == 1:
        raise ModelError(f"model '{graph.name}' has no cut: it can only run in one stage, not in {stages}")
    raise ModelError(f"model '{graph.name}' can be cut into at most {blocks} stages, {stages} were asked for")
