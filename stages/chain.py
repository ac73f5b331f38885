"""A bundle's model as the planner sees it: its graph, what it takes on nodes that were profiled, and its codecs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from broker.codecs import LOSSLESS
from planner.chain import Chain, ChainError
from planner.codec import CodecCost
from stages.errors import BundleError
from stages.manifest import CodecRecord, ImageInput, Manifest

if TYPE_CHECKING:
    from stages.graph import ModelGraph

log = structlog.get_logger("understudy.bundle")


def chain_of(graph: ModelGraph, manifest: Manifest) -> Chain:
    """The chain of a bundle's model, with all that was measured or predicted for it.

    Raises:
        BundleError: the profile is of another number of blocks.
    """
    profile = manifest.profile
    try:
        return replace(
            graph.chain(),
            name=manifest.name,
            block_seconds={node: entry.block_seconds for node, entry in profile.items()},
            block_seconds_source={node: entry.source for node, entry in profile.items()},
            codecs=codecs_of(manifest, len(graph.blocks)),
            frame_bytes=frame_bytes_of(manifest),
        )
    except ChainError as error:
        raise BundleError(
            f"the profile in bundle '{manifest.name}' does not fit its model: {error}. "
            f"Predict it again: 'understudy profile model --store'"
        ) from error


def frame_bytes_of(manifest: Manifest) -> int | None:
    """Of a picture a byte for each pixel and channel: a PNG or a JPEG of this size takes that or less. None: frames are
    tensors."""
    own = manifest.input
    return own.height * own.width * own.channels if isinstance(own, ImageInput) else None


def codecs_of(manifest: Manifest, blocks: int) -> tuple[CodecCost, ...]:
    """Those that were measured for the cuts that a model of so many blocks has."""
    fitting = tuple(record for record in manifest.codecs if len(record.ratio) == blocks + 1)
    if len(fitting) < len(manifest.codecs):
        log.warning("codecs-not-used", reason="they were measured for other cuts", hint="prepare the bundle again")
    return tuple(_cost(record) for record in fitting)


def _cost(record: CodecRecord) -> CodecCost:
    lossless, loss = record.codec in LOSSLESS, record.loss
    return CodecCost(
        name=record.codec,
        ratio=record.ratio,
        encode_s_per_byte=record.encode_s_per_byte,
        decode_s_per_byte=record.decode_s_per_byte,
        accuracy_loss=0.0 if lossless else None if loss is None else max(0.0, loss.high),
        flops_per_s=record.flops_per_s,
    )
