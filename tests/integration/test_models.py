"""Networks of other kinds, served as bare ONNX files: answers must be those of plain onnxruntime on the whole model."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

import understudy
from tests.data import light_models
from tests.integration.harness import Shell, Up
from tests.integration.stranger import npy, stranger, tensor_message
from tests.onnx_models import Net, transformer, unet, vary_weights

Arrays = Mapping[str, NDArray[Any]]
RESULT_FIELDS = {"id", "outputs", "technique", "exit", "expected_accuracy", "epoch", "latency_ms", "path", "error"}


def two_inputs_two_outputs() -> Any:
    """Both inputs meet in the middle, and the first output is made before the last block."""
    net = Net(seed=3)
    left, right = "left", "right"
    for _ in range(2):
        left = net.relu(net.op("Add", net.op("MatMul", left, net.weight(6, 6)), net.weight(6)))
        right = net.relu(net.op("Add", net.op("MatMul", right, net.weight(6, 6)), net.weight(6)))
    x = net.op("Add", left, right)
    for _ in range(2):
        x = net.relu(net.op("Add", net.op("MatMul", x, net.weight(6, 6)), net.weight(6)))
    net.named("features", "Tanh", x)
    for _ in range(2):
        x = net.op("Add", net.op("MatMul", x, net.weight(6, 6)), net.weight(6))
    net.named("answer", "MatMul", x, net.weight(6, 2))
    rows: list[int | str | None] = ["rows", 6]
    return net.model({"left": rows, "right": rows}, {"features": rows, "answer": ["rows", 2]})


def whole_model(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def whole(model: Path, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """What plain onnxruntime makes of the inputs."""
    session = whole_model(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def assert_same(outputs: Arrays, expected: Arrays) -> None:
    assert outputs.keys() == expected.keys()
    for name, array in expected.items():
        assert (outputs[name].dtype, outputs[name].shape) == (array.dtype, array.shape)
        np.testing.assert_allclose(outputs[name], array, rtol=1e-4, atol=1e-5)


def serve(shell: Shell, model: Any, name: str, stages: int) -> tuple[Path, Up]:
    path = shell.folder / f"{name}.onnx"
    onnx.save(model, path)
    return path, shell.up("--model", str(path), "--stages", str(stages), "--nodes", str(stages))


def random(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


async def test_a_network_with_two_inputs_and_two_outputs_gives_the_arrays_of_both(shell: Shell) -> None:
    path, running = serve(shell, two_inputs_two_outputs(), "pair", 3)
    frames = [{"left": random((1, 6), i), "right": random((1, 6), 100 + i)} for i in range(20)]
    with running:
        async with understudy.connect(running.url, "pair") as client:
            results = [result async for result in client.stream(frames)]
        async with stranger(running.url, "pair") as own:
            document = await own.answer(tensor_message(frames[0]))
            swapped = await own.answer(tensor_message(dict(reversed(frames[0].items()))))
            lonely = await own.answer(tensor_message({"left": frames[0]["left"]}))
            array = await own.answer(npy(frames[0]["left"]))
    for frame, result in zip(frames, results, strict=True):
        assert_same(result.outputs, whole(path, frame))
        assert (result.class_index, result.label, result.scores) == (None, None, ())
        assert len({hop.node for hop in result.path}) == 3

    # The same for who has no library of ours.
    assert document.keys() == RESULT_FIELDS
    expected = whole(path, frames[0])
    assert document["outputs"].keys() == expected.keys()
    for name, tensor in document["outputs"].items():
        assert tensor.keys() == {"dtype", "shape", "data"}
        assert (tensor["dtype"], tensor["shape"]) == ("float32", list(expected[name].shape))
        values = np.frombuffer(base64.b64decode(tensor["data"]), "<f4").reshape(tensor["shape"])
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)
    assert swapped["outputs"] == document["outputs"]
    for refused in (lonely, array):
        assert refused["error"]["code"] == "bad-message"
        assert "'right'" in refused["error"]["reason"]


async def test_a_network_of_fixed_batch_and_four_dimensional_scores_runs_in_three_stages(shell: Shell) -> None:
    found = next(path for path in light_models() if "squeezenet" in path.name)
    path, running = serve(shell, vary_weights(onnx.load(found)), "squeezenet", 3)
    session = whole_model(path)
    name = session.get_inputs()[0].name
    # The weights of this model drown an input of ordinary size: only with a loud one do the answers depend on it.
    frames = [np.float32(loudness) * random((1, 3, 224, 224), i) for i, loudness in enumerate((1e5, 3e5, 1e6, 1e7))]
    with running:
        assert [len(node["stages"]) for node in running.document["nodes"]] == [1, 1, 1]
        async with understudy.connect(running.url, "squeezenet") as client:
            results = [result async for result in client.stream([*frames, {name: frames[0]}])]
    expected = [session.run(None, {name: frame})[0] for frame in (*frames, frames[0])]
    assert len({array.argmax() for array in expected}) > 1
    for result, array in zip(results, expected, strict=True):
        assert result.error is None
        assert len({hop.node for hop in result.path}) == 3
        if result.class_index is None:
            (output,) = result.outputs.values()
            assert output.shape == array.shape == (1, 1000, 1, 1)
            np.testing.assert_allclose(output, array, rtol=1e-3, atol=1e-6)
        else:
            assert result.class_index == array.argmax()
            assert result.scores[0].score == pytest.approx(array.max(), abs=1e-5)


async def test_a_segmenter_with_skips_across_its_stages_gives_an_image(shell: Shell) -> None:
    path, running = serve(shell, unet(), "segmenter", 3)
    frames = [{"image": random((1, 1, 16, 16), i)} for i in range(20)]
    with running:
        async with understudy.connect(running.url, "segmenter") as client:
            results = [result async for result in client.stream(frames)]
            again = await client.infer(frames[0]["image"])
    for frame, result in zip(frames, results, strict=True):
        assert result.outputs["mask"].shape == (1, 1, 16, 16)
        assert_same(result.outputs, whole(path, frame))
    assert_same(again.outputs, whole(path, frames[0]))


async def test_a_transformer_takes_sequences_of_any_length_with_a_mask_that_every_layer_reads(shell: Shell) -> None:
    path, running = serve(shell, transformer(), "translator", 3)
    frames = [
        {"tokens": random((1, length, 4), length), "attention_mask": np.zeros((1, 1, length), np.float32)}
        for length in (1, 2, 7, 7, 7, 40, 3, 40)
    ]
    frames[3]["attention_mask"][0, 0, 4:] = -1e9
    with running:
        async with understudy.connect(running.url, "translator") as client:
            results = [result async for result in client.stream(frames)]
    for frame, result in zip(frames, results, strict=True):
        assert result.error is None
        assert_same(result.outputs, whole(path, frame))


def test_a_frame_that_the_network_itself_refuses_is_answered_and_the_next_one_is_too(shell: Shell) -> None:
    """Two inputs whose lengths must agree, which nobody can see before the network runs."""
    net = Net()
    x = net.op("Add", net.op("MatMul", "a", net.weight(4, 4)), net.op("MatMul", "b", net.weight(4, 4)))
    net.named("y", "MatMul", net.relu(net.op("MatMul", x, net.weight(4, 4))), net.weight(4, 2))
    shapes: dict[str, Any] = {"a": [1, "n", 4], "b": [1, "m", 4]}
    path, running = serve(shell, net.model(shapes, {"y": [1, "k", 2]}), "picky", 2)
    good = {"a": random((1, 5, 4), 1), "b": random((1, 5, 4), 2)}
    bad = {"a": random((1, 5, 4), 1), "b": random((1, 3, 4), 2)}
    for name, frame in (("1", bad), ("2", good), ("3", bad)):
        (shell.folder / f"{name}.msgpack").write_bytes(tensor_message(frame))
    with running:
        outcome = shell.run("publish", "picky", "1.msgpack", "2.msgpack", "3.msgpack", "--json")
    documents = [json.loads(line) for line in outcome.out.splitlines()]
    assert outcome.code == 1
    assert [document["error"] and document["error"]["code"] for document in documents] == ["failed", None, "failed"]
    assert "node" in documents[0]["error"]["reason"]
    values = np.frombuffer(base64.b64decode(documents[1]["outputs"]["y"]["data"]), "<f4").reshape(1, 5, 2)
    np.testing.assert_allclose(values, whole(path, good)["y"], rtol=1e-4, atol=1e-5)
