"""A pipeline whose links are slow: the plan chooses a codec and says so, and the answers are what they should be."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import understudy
from broker.activation import Activation, decode
from broker.codecs import CODECS, LOSSLESS, Codec
from broker.connect import connect
from broker.port import Message
from broker.wire import Encoded
from stages import codec as codecs
from stages.bundle import write_bundle
from stages.calibration import load_calibration
from stages.codec_cost import Blocks, measure_codecs
from stages.decode import decode_frame
from stages.graph import ModelGraph
from stages.manifest import CodecRecord
from tests.integration.conftest import Digits
from tests.integration.harness import Shell, eventually
from tests.integration.test_roles import Cluster
from understudy.data import digits_bundle

NODES = ("a", "b", "c")
SLOW_BYTES_PER_S = 1e5
FRAMES = 100


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    bundle = digits_bundle()
    return ModelGraph.load(bundle.model_path, shapes=bundle.manifest.shapes)


@pytest.fixture(scope="module")
def measured(graph: ModelGraph) -> dict[str, CodecRecord]:
    """As `understudy prepare` does it for the digits network."""
    bundle = digits_bundle()
    data = load_calibration(bundle.path("frames.npz"), bundle.manifest.input, graph.inputs, class_count=10)
    return {record.codec: record for record in measure_codecs(graph, data, classifies=True)}


def bundle_with(folder: Path, *records: CodecRecord) -> Path:
    """The digits network with these codecs."""
    bundle = digits_bundle()
    draft = bundle.manifest.model_copy(update={"codecs": records, "parts": (), "held_out": None})
    return write_bundle(folder / "bundle", draft, model_path=bundle.model_path).folder or folder


def links(folder: Path, bytes_per_s: float = SLOW_BYTES_PER_S) -> Path:
    """A cluster file of three nodes, each linked to each."""
    document = {
        "nodes": [{"name": name, "flops_per_s": 1e9} for name in NODES],
        "bandwidth_bytes_per_s": [[bytes_per_s] * len(NODES)] * len(NODES),
    }
    path = folder / "cluster.json"
    path.write_text(json.dumps(document))
    return path


@asynccontextmanager
async def overheard(url: str) -> AsyncIterator[list[Activation]]:
    """All activations that travel between nodes meanwhile."""
    heard: list[Activation] = []

    async def keep(message: Message) -> None:
        activation = decode(message.data)
        assert isinstance(activation, Activation)
        heard.append(activation)

    broker = await connect(url, name="listener")
    try:
        await broker.subscribe("understudy.digits.cut.>", keep)
        await broker.flush(timeout_s=10)
        yield heard
        await broker.flush(timeout_s=10)
    finally:
        await broker.close()


def expected(graph: ModelGraph, frame: bytes, codec: Codec, cuts: list[int]) -> Any:
    """The class's scores of a frame whose activations go through the codec at these cuts."""
    blocks = Blocks.of(graph)
    values = dict(decode_frame(frame, digits_bundle().manifest.input, graph.inputs, dynamic_batch=graph.dynamic_batch))
    for cut, engine in enumerate(blocks.engines):
        if cut in cuts:
            values = {name: codecs.decode(codecs.encode(array, codec)) for name, array in values.items()}
        values = engine.run(values)
    (logits,) = values.values()
    scores = np.exp(logits.ravel().astype(np.float64) - logits.max())
    return scores / scores.sum()


@pytest.mark.parametrize("codec", CODECS[1:])
async def test_a_plan_with_slow_links_uses_a_codec_and_answers_as_the_network_does(
    cluster: Cluster,
    digits: Digits,
    graph: ModelGraph,
    measured: dict[str, CodecRecord],
    tmp_path: Path,
    codec: Codec,
) -> None:
    cluster.add_controller(
        bundle_with(tmp_path, measured[codec]),
        "--cluster", str(links(tmp_path)), "--stages", "3", "--recovery", '{"max_codec_loss": 0.05, "spare_memory": 0}',
        expect=3,
    )  # fmt: skip
    for name in NODES:
        cluster.add_node(name)
    document = await cluster.running_on(*NODES)
    cuts = [first for node in document["nodes"] for first, _ in node["stages"] if first]
    assert {(hop["cut"], hop["codec"]) for hop in document["codecs"]} == {(cut, codec) for cut in cuts}
    async with overheard(cluster.url) as heard, understudy.connect(cluster.url, "digits") as client:
        results = [result async for result in client.stream(digits.frames[:FRAMES])]
        await eventually(
            lambda: _count(heard, cuts), lambda count: count >= FRAMES, within_s=10, what="all that was overheard"
        )
    assert [result.error for result in results] == [None] * FRAMES
    assert [result.technique for result in results] == ["none"] * FRAMES
    used = {
        tensor.codec if isinstance(tensor, Encoded) else "none"
        for activation in heard
        if activation.cut in cuts
        for tensor in activation.tensors.values()
    }
    assert codec in used
    assert used <= {codec, codec.partition("+")[0], "none"}
    whole = [int(expected(graph, frame, "none", []).argmax()) for frame in digits.frames[:FRAMES]]
    same = sum(result.class_index == index for result, index in zip(results, whole, strict=True))
    assert same == FRAMES if codec in LOSSLESS else same >= FRAMES - 3
    for result, frame in list(zip(results, digits.frames, strict=False))[:10]:
        scores = expected(graph, frame, codec, cuts)
        for listed in result.scores:
            assert listed.score == pytest.approx(scores[listed.class_index], abs=2e-4)


async def _count(heard: list[Activation], cuts: list[int]) -> int:
    return sum(len(activation.frames) for activation in heard if activation.cut == max(cuts))


async def test_without_a_word_of_the_user_no_codec_is_used_that_changes_anything(
    cluster: Cluster, digits: Digits, measured: dict[str, CodecRecord], tmp_path: Path
) -> None:
    cluster.add_controller(
        bundle_with(tmp_path, *measured.values()), "--cluster", str(links(tmp_path)), "--stages", "3", expect=3
    )
    for name in NODES:
        cluster.add_node(name)
    document = await cluster.running_on(*NODES)
    assert {hop["codec"] for hop in document["codecs"]} == {"zstd"}


async def test_on_quick_links_nothing_is_encoded(
    cluster: Cluster, digits: Digits, measured: dict[str, CodecRecord], tmp_path: Path
) -> None:
    quick = links(tmp_path, 1e12)
    cluster.add_controller(
        bundle_with(tmp_path, *measured.values()),
        "--cluster", str(quick), "--stages", "3", "--recovery", '{"max_codec_loss": 1}',
        expect=3,
    )  # fmt: skip
    for name in NODES:
        cluster.add_node(name)
    document = await cluster.running_on(*NODES)
    assert document["codecs"] == []


def test_plan_names_the_codec_of_each_link(shell: Shell, measured: dict[str, CodecRecord], tmp_path: Path) -> None:
    arguments = ["plan", str(bundle_with(tmp_path, *measured.values())), "--cluster", str(links(tmp_path))]
    arguments += ["--stages", "3"]
    lossless = json.loads(shell.run(*arguments, "--json").out)
    assert [stage.get("codec") for stage in lossless["stages"]] == [None, "zstd", "zstd"]
    lossy = shell.run(*arguments, "--max-codec-loss", "0.05", "--json")
    # What zstd can do nothing for has `int8` alone.
    assert {stage.get("codec") for stage in json.loads(lossy.out)["stages"][1:]} <= {"int8", "int8+zstd"}
    assert json.loads(lossy.out)["latency_s"] < lossless["latency_s"]
    assert ", int8" in shell.run(*arguments, "--max-codec-loss", "0.05").out
