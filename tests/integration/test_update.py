"""Another version of a model is served while frames flow, or refused while the one before goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stages.bundle import Bundle, write_bundle
from tests.integration.conftest import Digits
from tests.integration.flow import nodes_of, once, right, streaming
from tests.integration.harness import Outcome, Shell, Up, eventually
from tests.integration.test_recovery import DEGRADED, Stream

ROLLED_S = 40.0
SHIFT = 3
"""The second version says class c + SHIFT where the first says c: whose answer it is can be seen."""


def shifted(model: onnx.ModelProto) -> onnx.ModelProto:
    for initializer in model.graph.initializer:
        values = numpy_helper.to_array(initializer)
        if initializer.name in ("fc/weight", "fc/bias"):
            values = np.roll(values, SHIFT, axis=0)
        initializer.CopyFrom(numpy_helper.from_array(values * np.float32(1.0001), initializer.name))
    return model


def without_kernel(model: onnx.ModelProto) -> onnx.ModelProto:
    """An operator that ONNX has and onnxruntime's CPU provider has not, in the first stage of several. The batch is
    fixed, so that the controller has no reason to run the model itself."""
    for node in model.graph.node:
        if node.name == "stem/conv":
            node.output[0] = "stem/wide"
    names = [node.name for node in model.graph.node]
    at = names.index("stem/conv") + 1
    for offset, node in enumerate(
        (
            helper.make_node("Cast", ["stem/wide"], ["stem/narrow"], name="narrow", to=TensorProto.BFLOAT16),
            helper.make_node("Relu", ["stem/narrow"], ["stem/narrow/out"], name="relu"),
            helper.make_node("Cast", ["stem/narrow/out"], ["stem/conv"], name="widen", to=TensorProto.FLOAT),
        )
    ):
        model.graph.node.insert(at + offset, node)
    return fixed_batch(model)


def fixed_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return model


def too_large(model: onnx.ModelProto) -> onnx.ModelProto:
    """One node alone cannot hold the last stage: 24 MB of weights that change nothing."""
    width = 2_000_000
    last = model.graph.node[-1]
    last.output[0] = "plain"
    zeros = np.zeros((10, width // 10), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(np.tile(zeros, (3, 1)).reshape(10, -1), "wide"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((zeros.shape[1] * 3, 10), np.float32), "back"))
    model.graph.node.extend(
        [
            helper.make_node("MatMul", ["plain", "wide"], ["wide/out"], name="wide"),
            helper.make_node("MatMul", ["wide/out", "back"], ["nothing"], name="back"),
            helper.make_node("Add", ["plain", "nothing"], ["logits"], name="sum"),
        ]
    )
    return model


def version_of(digits: Digits, folder: Path, change: Any) -> Path:
    """The digits with another network, and no parts."""
    bundle = Bundle.load(digits.bundle, verify=False)
    draft = bundle.manifest.model_copy(update={"parts": (), "accuracy": None, "held_out": None})
    path = folder.with_suffix(".onnx")
    onnx.save(change(onnx.load(bundle.model_path)), path)
    write_bundle(folder, draft, model_path=path)
    return folder


@pytest.fixture(scope="module")
def second(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return version_of(digits, tmp_path_factory.mktemp("second") / "digits-v2", shifted)


@asynccontextmanager
async def serving(shell: Shell, digits: Digits, *options: str) -> AsyncIterator[tuple[Up, Stream]]:
    with shell.up(*(options or ("--nodes", "3"))) as up:
        async with streaming(up.url, digits) as stream:
            yield up, stream


async def update(shell: Shell, *arguments: str) -> Outcome:
    return await asyncio.to_thread(shell.run, "update", *arguments, timeout_s=ROLLED_S)


def check_versions(stream: Stream, epoch: int) -> None:
    """Answers before the epoch are the first version's, those from then on the second's."""
    old = [result for result in stream.own.results if result["epoch"] < epoch]
    new = [result for result in stream.own.results if result["epoch"] >= epoch]
    assert old
    assert new
    assert right(stream, old) >= 0.97
    assert right(stream, new, shift=SHIFT) >= 0.97


async def still_the_first(stream: Stream) -> None:
    later = (await stream.answers(100))[-100:]
    assert right(stream, later) >= 0.97
    assert {result["technique"] for result in later} == {"none"}


async def test_a_new_version_follows_the_old_one_in_mid_stream_and_recovers_from_a_failure(
    shell: Shell, digits: Digits, second: Path
) -> None:
    async with serving(shell, digits) as (up, stream):
        done = await update(shell, "digits", str(second), "--json")
        assert (done.code, done.err) == (0, "")
        document = json.loads(done.out)
        assert document["pipeline"] == "digits"
        epoch = document["epoch"]
        assert epoch > stream.own.results[0]["epoch"]
        # From the answer on, what is published is the new version's.
        first = len(stream.labels)
        await stream.answers(150)
        late = [r for r in stream.own.results if int(r["id"].removeprefix("frame-")) >= first]
        assert late
        assert min(result["epoch"] for result in late) >= epoch
        once_so_far = {result["id"] for result in stream.own.results}
        assert len(once_so_far) == len(stream.own.results)

        last = stream.own.results[-1]["path"][-1]["node"]
        pids = {node["name"]: node["pid"] for node in up.document["nodes"]}
        before = stream.own.results[-1]["epoch"]
        os.kill(pids[last], signal.SIGKILL)
        healthy = await stream.healthy_after(before)
        assert last not in nodes_of(healthy)
        await stream.answers(50)
        assert {r["technique"] for r in stream.own.results} <= DEGRADED | {"none"}
    once(stream)
    stream.own.results = [result for result in stream.own.results if result["id"] != "the end"]
    check_versions(stream, epoch)


async def test_back_to_the_version_before_is_an_update_as_well(shell: Shell, digits: Digits, second: Path) -> None:
    async with serving(shell, digits, "--nodes", "2") as (_, stream):
        for bundle, shift in ((second, SHIFT), (digits.bundle, 0)):
            done = await update(shell, "digits", str(bundle), "--json")
            assert (done.code, done.err) == (0, "")
            epoch = json.loads(done.out)["epoch"]
            await stream.answers(100)
            new = [result for result in stream.own.results if result["epoch"] >= epoch]
            assert right(stream, new, shift=shift) >= 0.97


async def test_a_version_that_no_node_can_load_is_refused_and_the_one_before_goes_on(
    shell: Shell, digits: Digits, second: Path, tmp_path: Path
) -> None:
    broken = version_of(digits, tmp_path / "broken", without_kernel)
    async with serving(shell, digits) as (_, stream):
        done = await update(shell, "digits", str(broken))
        assert done.code == 2, done.err
        assert "the one before goes on" in done.err
        assert "Traceback" not in done.err
        await still_the_first(stream)
        # It stands in the way of nothing: the next one is served.
        done = await update(shell, "digits", str(second), "--json")
        assert (done.code, done.err) == (0, "")
        epoch = json.loads(done.out)["epoch"]
        await stream.answers(100)
    stream.own.results = [result for result in stream.own.results if result["id"] != "the end"]
    check_versions(stream, epoch)


async def test_a_version_that_no_node_has_the_memory_for_is_refused_and_the_one_before_goes_on(
    shell: Shell, digits: Digits, tmp_path: Path
) -> None:
    large = version_of(digits, tmp_path / "large", too_large)
    config = shell.folder / "cluster.yaml"
    config.write_text("nodes:\n  - {name: a, memory: 16 MB}\n  - {name: b, memory: 16 MB}\n")
    async with serving(shell, digits, "--config", str(config)) as (_, stream):
        done = await update(shell, "digits", str(large))
        assert done.code == 2, done.err
        assert "the one before goes on" in done.err
        assert "16000000" in done.err
        await still_the_first(stream)


async def test_a_node_that_is_killed_while_a_version_is_rolled_out_loses_no_frame(
    shell: Shell, digits: Digits, second: Path
) -> None:
    async with serving(shell, digits) as (up, stream):
        placed = [(node["stages"][0], node["pid"]) for node in up.document["nodes"] if node["stages"]]
        rolling = asyncio.create_task(update(shell, "digits", str(second), "--json"))
        log = next(shell.folder.rglob("controller.log"))

        async def look() -> str:
            return log.read_text()

        await eventually(look, lambda text: "update-begins" in text, within_s=ROLLED_S, what="the roll-out")
        os.kill(min(placed)[1], signal.SIGKILL)
        done = await rolling
        assert done.code in (0, 2), done.err
        await stream.answers(200)
        later = stream.own.results[-50:]
        assert right(stream, later, shift=SHIFT if done.code == 0 else 0) >= 0.97
        if done.code == 2:
            assert "the one before goes on" in done.err
            assert right(stream, stream.own.results) >= 0.97
    if done.code == 0:
        stream.own.results = [result for result in stream.own.results if result["id"] != "the end"]
        check_versions(stream, json.loads(done.out)["epoch"])


async def test_mistakes_are_named_and_disturb_nothing(shell: Shell, digits: Digits, second: Path) -> None:
    async with serving(shell, digits, "--nodes", "2") as (up, stream):
        wrong_name = await update(shell, "letters", str(second))
        assert (wrong_name.code, wrong_name.out) == (2, "")
        assert "letters" in wrong_name.err
        assert "Traceback" not in wrong_name.err
        elsewhere = await update(shell, "letters", str(second), "--broker", up.url)
        assert elsewhere.code == 2
        assert "no controller serves pipeline 'letters'" in elsewhere.err
        for path in ("no-such-bundle", "no-such-model.onnx"):
            missing = await update(shell, "digits", path)
            assert (missing.code, missing.out) == (2, "")
            assert path in missing.err
            assert "Traceback" not in missing.err
        await still_the_first(stream)
