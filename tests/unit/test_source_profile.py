"""What a bundle's profile says of nodes reaches the controller's chain and its estimates of parts."""

from __future__ import annotations

import pytest

from broker.connect import connect
from planner.part import Part
from recovery.estimates import Estimates
from stages.blobs import BlobExchange, BlobStore
from stages.bundle import Bundle
from stages.errors import BundleError
from stages.manifest import NodeProfile
from stages.source import SubmodelSource
from understudy.bundles import load_model
from understudy.data import digits_bundle


async def opened(profile: dict[str, NodeProfile]) -> SubmodelSource:
    digits = digits_bundle()
    manifest = digits.manifest.model_copy(update={"profile": profile})
    bundle = Bundle(folder=digits.folder, manifest=manifest, model_path=digits.model_path)
    broker = await connect("memory://profile", name="controller")
    try:
        store = BlobStore(None)
        return await SubmodelSource.open(bundle, await load_model(bundle), BlobExchange(broker, store), store)
    finally:
        await broker.close()


async def test_profiled_seconds_are_what_stages_and_parts_are_estimated_with() -> None:
    blocks = len((await opened({})).chain.block_flops)
    seconds = tuple(float(index) for index in range(blocks))
    entry = NodeProfile(source="predicted", block_seconds=seconds, part_seconds={"exit:2-9": 0.25})
    source = await opened({"kitchen": entry})
    estimates = Estimates(chain=source.chain, part_seconds=source.part_seconds)
    assert source.chain.block_seconds_source == {"kitchen": "predicted"}
    assert estimates.part_s(Part(technique="none", first_block=1, end_block=4), "kitchen") == 1 + 2 + 3
    assert estimates.part_s(Part(technique="exit", first_block=2, end_block=9), "kitchen") == 0.25


async def test_a_profile_of_another_model_is_refused() -> None:
    with pytest.raises(BundleError, match="does not fit its model"):
        await opened({"kitchen": NodeProfile(source="predicted", block_seconds=(1.0,))})
