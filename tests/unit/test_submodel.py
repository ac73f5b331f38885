"""The sub-models of a model, run one after the other, give what the model gives."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from stages import submodel
from stages.errors import ModelError
from stages.graph import ModelGraph
from tests import onnx_models
from tests.data import data_file, light_models
from tests.onnx_models import Net

Arrays = Mapping[str, np.ndarray]
SMALL = {"light_squeezenet", "light_shufflenet", "light_inception_v1"}
RTOL, ATOL = 1e-3, 1e-7  # those of onnx's own runner for these models
OPEN = {"batch": 2, "length": 5, "n": 3}


def run(model: bytes | str, feeds: Arrays) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def run_through(graph: ModelGraph, cuts: list[int], feeds: Arrays) -> dict[str, np.ndarray]:
    """The stages between the given cuts, each fed with exactly the tensors of its cut."""
    values = dict(feeds)
    for first, end in pairwise(cuts):
        assert list(values) == [tensor.name for tensor in graph.cuts[first].tensors]
        values = run(graph.submodel(first, end), values)
        assert list(values) == [tensor.name for tensor in graph.cuts[end].tensors]
        for tensor in graph.cuts[end].tensors:
            assert values[tensor.name].dtype.name == tensor.dtype
    return values


def close(got: Arrays, wanted: Arrays, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=rtol, atol=atol)


def random_feeds(model: Any, graph: ModelGraph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    values = {value.name: value for value in model.graph.input}
    feeds = {}
    for tensor in graph.inputs:
        dims = values[tensor.name].type.tensor_type.shape.dim
        shape = [dim.dim_value or OPEN[dim.dim_param] for dim in dims]
        feeds[tensor.name] = rng.normal(size=shape).astype(tensor.dtype)
    return feeds


def ramp(graph: ModelGraph) -> dict[str, np.ndarray]:
    """The input with which onnx made the expected outputs (its runner's generate_dummy_data)."""
    (image,) = graph.inputs
    size = int(np.prod(image.example_shape))
    return {image.name: (np.arange(size).reshape(image.example_shape) / size).astype(np.float32)}


@pytest.mark.parametrize("path", light_models(), ids=lambda path: path.stem)
def test_the_blocks_of_a_known_network_compose_to_its_published_output(path: Path) -> None:
    graph = ModelGraph.load(path)
    expected = onnx.TensorProto.FromString(path.with_name(f"{path.stem}_output_0.pb").read_bytes())
    wanted = {graph.outputs[0].name: numpy_helper.to_array(expected)}
    close(run_through(graph, list(range(len(graph.blocks) + 1)), ramp(graph)), wanted, rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("path", light_models(), ids=lambda path: path.stem)
def test_a_known_network_with_weights_that_differ_composes_at_every_cut(path: Path) -> None:
    model = onnx_models.vary_weights(onnx.load(path))
    graph = ModelGraph.from_model(model, name=path.stem)
    assert len(graph.blocks) == len(ModelGraph.load(path).blocks)
    last, values = len(graph.blocks), ramp(graph)
    listed = {value.name for value in (*model.graph.input, *model.graph.output)}
    inner = {tensor.name for cut in graph.cuts for tensor in cut.tensors} - listed
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(inner))
    feeds, wanted = values, run(model.SerializeToString(), values)
    for block in range(last):
        values = run(graph.submodel(block, block + 1), values)
        assert list(values) == [tensor.name for tensor in graph.cuts[block + 1].tensors]
        near(values, wanted)
    assert np.unique(values[graph.outputs[0].name]).size > 20
    if path.stem in SMALL:
        for cut in range(1, last):
            near(run_through(graph, [0, cut, last], feeds), wanted)


def near(values: Arrays, wanted: Arrays) -> None:
    """Equal up to rounding, measured by the largest value of each tensor."""
    for name, value in values.items():
        size = np.abs(wanted[name]).max()
        assert 1e-6 < size < 1e6
        np.testing.assert_allclose(value / size, wanted[name] / size, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet32_cifar10_jpeg.onnx", "mobilenetv2_cifar10.onnx"])
def test_the_stored_networks_compose_at_every_cut_and_with_any_batch(name: str) -> None:
    path = data_file(name)
    if path is None:
        pytest.skip(f"{name} is not in the data folder (UNDERSTUDY_DATA)")
    graph = ModelGraph.load(path)
    feeds = {"input": np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)}
    wanted = run(str(path), feeds)
    last = len(graph.blocks)
    close(run_through(graph, list(range(last + 1)), feeds), wanted)
    for cut in range(1, last):
        close(run_through(graph, [0, cut, last], feeds), wanted)


@pytest.mark.parametrize(
    "make",
    [
        onnx_models.resnet,
        onnx_models.unet,
        onnx_models.transformer,
        onnx_models.early_output,
        onnx_models.siamese,
        onnx_models.with_if,
        onnx_models.cheap_only,
        onnx_models.single_node,
    ],
)
def test_every_way_to_split_a_small_model_in_two_or_three_gives_its_output(make: Any) -> None:
    model = make()
    before = model.SerializeToString(deterministic=True)
    graph = ModelGraph.from_model(model, name="net")
    feeds = random_feeds(model, graph)
    wanted = run(model.SerializeToString(), feeds)
    last = len(graph.blocks)
    close(run_through(graph, list(range(last + 1)), feeds), wanted)
    for first in range(1, last):
        close(run_through(graph, [0, first, last], feeds), wanted)
        close(run_through(graph, sorted({0, first, (first + last) // 2, last}), feeds), wanted)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"],
)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)])
def test_a_tensor_of_any_type_may_pass_through_a_stage_that_does_not_read_it(
    dtype: str, shape: tuple[int, ...]
) -> None:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    net = Net()
    net.named("y", "MatMul", net.op("MatMul", "x", net.weight(4, 4)), net.weight(4, 4))
    net.named("z", "Identity", "late")
    model = net.model(
        {"x": [1, 4], "late": (shape, element), "unread": (shape, element)}, {"y": [1, 4], "z": (shape, element)}
    )
    graph = ModelGraph.from_model(model, name="net")
    assert [tensor.name for tensor in graph.cuts[1].tensors] == ["late", "matmul1"]
    late = np.ones(shape).astype(dtype)
    feeds = {"x": np.ones((1, 4), np.float32), "late": late, "unread": late}
    found = run_through(graph, list(range(len(graph.blocks) + 1)), feeds)
    np.testing.assert_array_equal(found["z"], late)
    assert found["z"].dtype == late.dtype


def test_an_output_that_is_an_input_or_a_constant_is_returned_too() -> None:
    net = Net()
    net.named("y", "MatMul", net.op("MatMul", "x", net.weight(4, 4)), net.weight(4, 4))
    table = net.constant(np.arange(3, dtype=np.float32))
    net.named("doubled", "Add", table, table)
    outputs: dict[str, Any] = {"x": [1, 4], "doubled": [3], table: [3], "y": [1, 4]}
    model = net.model({"x": [1, 4]}, outputs)
    graph = ModelGraph.from_model(model, name="net")
    found = run_through(graph, [0, 1, len(graph.blocks)], {"x": np.ones((1, 4), np.float32)})
    np.testing.assert_array_equal(found["doubled"], [0, 2, 4])
    np.testing.assert_array_equal(found["x"], np.ones((1, 4)))


def test_a_submodel_carries_only_the_weights_that_it_reads() -> None:
    graph = ModelGraph.from_model(onnx_models.resnet(), name="net")
    part = onnx.ModelProto.FromString(graph.submodel(1, 2))
    assert len(part.graph.initializer) == 2
    onnx.checker.check_model(part, full_check=True)


def test_the_bytes_of_a_submodel_are_the_same_every_time() -> None:
    first, second = (ModelGraph.from_model(onnx_models.unet(), name="net") for _ in range(2))
    assert first.submodel(2, 5) == second.submodel(2, 5)


def test_a_model_local_function_goes_with_the_nodes_that_call_it() -> None:
    function = helper.make_function(
        "ours",
        "Dense",
        ["a", "b"],
        ["c"],
        [helper.make_node("MatMul", ["a", "b"], ["m"]), helper.make_node("Relu", ["m"], ["c"])],
        [helper.make_opsetid("", 17)],
    )
    net = Net()
    x = net.op("Dense", "x", net.weight(4, 4), domain="ours")
    net.named("y", "Dense", x, net.weight(4, 4), domain="ours")
    model = net.model({"x": ["n", 4]}, {"y": ["n", 4]}, imports=[helper.make_opsetid("ours", 1)], functions=[function])
    graph = ModelGraph.from_model(model, name="net")
    assert len(graph.blocks) == 2
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)}
    close(run_through(graph, [0, 1, 2], feeds), run(model.SerializeToString(), feeds))


def test_an_initializer_that_is_listed_as_an_input_is_not_asked_for() -> None:
    model = onnx_models.resnet()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph = ModelGraph.from_model(model, name="net")
    assert [tensor.name for tensor in graph.inputs] == ["image"]
    assert [value.name for value in onnx.ModelProto.FromString(graph.submodel(0, 1)).graph.input] == ["image"]


@pytest.mark.parametrize(("first", "end"), [(0, 0), (2, 1), (-1, 2), (0, 99), (6, 6)])
def test_a_range_that_is_no_run_of_blocks_is_refused(first: int, end: int) -> None:
    graph = ModelGraph.from_model(onnx_models.resnet(), name="net")
    with pytest.raises(ModelError, match="is not a run"):
        graph.submodel(first, end)


def test_a_submodel_above_the_limit_of_protobuf_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = ModelGraph.from_model(onnx_models.resnet(), name="net")
    monkeypatch.setattr(submodel, "MAX_MODEL_BYTES", 2000)
    with pytest.raises(ModelError, match="2 GiB: take fewer blocks"):
        graph.submodel(0, len(graph.blocks))
