"""Parts for a stage that the bundle has none for are fitted in a process of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from stages import refit as refitting
from stages.bundle import Bundle, write_bundle
from stages.engine import Engine
from stages.graph import ModelGraph
from stages.refit import RefitError, refit
from tests.integration.harness import eventually, survivors
from understudy.data import digits_bundle

FITTED_S = 300
"""When the test gives up. It takes 5 to 20 s, and has the least priority: it waits for everything else here."""

SPAN = (9, 14)


def children() -> list[psutil.Process]:
    return psutil.Process().children()


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return digits_bundle()


@pytest.fixture(scope="module")
def graph(bundle: Bundle) -> ModelGraph:
    return ModelGraph.load(bundle.model_path, shapes=bundle.manifest.shapes)


@pytest.mark.timeout(FITTED_S)
async def test_a_stage_without_parts_gets_an_exit_that_runs_and_is_measured(bundle: Bundle, graph: ModelGraph) -> None:
    known = {(record.first_block, record.end_block) for record in bundle.manifest.parts}
    span = (5, 10)
    assert span not in known
    parts = await refit(bundle, [span])
    assert {part.record.technique for part in parts} >= {"stand-in", "exit"}
    for part in parts:
        record = part.record
        assert (record.first_block, record.end_block) in {span, (span[0], len(graph.blocks))}
        assert record.accuracy is not None
        assert 0 <= record.accuracy.low <= record.accuracy.value <= record.accuracy.high <= 1
        outputs = graph.cuts[record.end_block].tensors
        Engine.load(part.model, outputs=outputs).warm_up(graph.cuts[record.first_block].tensors)
    best = max(part.record.accuracy.value for part in parts if part.record.accuracy is not None)
    assert best > 0.9
    assert [process for process in children() if "stages.refit" in " ".join(process.cmdline())] == []


async def test_a_bundle_without_calibration_data_is_refused_with_the_reason(tmp_path: Path, bundle: Bundle) -> None:
    draft = bundle.manifest.model_copy(update={"parts": (), "held_out": None})
    bare = write_bundle(tmp_path / "bare", draft, model_path=bundle.model_path)
    with pytest.raises(RefitError, match="holds no calibration data"):
        await refit(bare, [SPAN])


async def test_a_fit_that_takes_too_long_is_ended(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refitting, "TIMEOUT_S", 0.3)
    before = set(children())
    with pytest.raises(RefitError, match=r"took more than 0.3 s"):
        await refit(bundle, [SPAN])
    assert survivors(sorted(set(children()) - before, key=lambda process: process.pid), 20.0) == []


async def test_a_fit_that_nobody_wants_any_more_is_ended(bundle: Bundle) -> None:
    before = set(children())
    task = asyncio.create_task(refit(bundle, [SPAN]))

    async def started() -> set[psutil.Process]:
        return set(children()) - before

    found = await eventually(started, bool, within_s=20.0, what="the process that fits")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert survivors(sorted(found, key=lambda process: process.pid), 20.0) == []
