"""Blocks, cuts, shapes and costs of models, found from their graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stages.errors import ModelError
from stages.graph import ModelGraph
from tests import onnx_models
from tests.data import data_file, light_models
from tests.onnx_models import Net

# One block per residual block, dense layer, inception module, fire convolution or plain convolution, and the ends.
LIGHT_BLOCKS = {
    "light_bvlc_alexnet": 8,
    "light_densenet121": 63,
    "light_inception_v1": 13,
    "light_inception_v2": 14,
    "light_resnet50": 18,
    "light_shufflenet": 18,
    "light_squeezenet": 18,
    "light_vgg19": 19,
    "light_zfnet512": 8,
}


def graph_of(model: Any, **options: Any) -> ModelGraph:
    return ModelGraph.from_model(model, name="net", **options)


def cut_names(graph: ModelGraph) -> list[tuple[str, ...]]:
    return [tuple(tensor.name for tensor in cut.tensors) for cut in graph.cuts]


def stored(name: str) -> ModelGraph:
    path = data_file(name)
    if path is None:
        pytest.skip(f"{name} is not in the data folder (UNDERSTUDY_DATA)")
    return ModelGraph.load(path)


@pytest.mark.parametrize("path", light_models(), ids=lambda path: path.stem)
def test_a_known_network_has_one_block_per_layer_of_its_paper(path: Path) -> None:
    graph = ModelGraph.load(path)
    assert len(graph.blocks) == LIGHT_BLOCKS[path.stem]
    assert all(len(cut.tensors) == 1 for cut in graph.cuts)
    assert not graph.dynamic_batch


def test_the_published_size_of_alexnet_and_work_of_resnet50_are_found() -> None:
    alexnet, resnet = (
        ModelGraph.load(path) for path in light_models() if path.stem in {"light_bvlc_alexnet", "light_resnet50"}
    )
    assert sum(block.parameters for block in alexnet.blocks) == 60_965_224
    assert sum(block.flops for block in resnet.blocks) == pytest.approx(2 * 4.1e9, rel=0.02)


def test_the_identity_blocks_of_resnet50_are_skippable_and_the_projections_are_not() -> None:
    graph = next(ModelGraph.load(path) for path in light_models() if path.stem == "light_resnet50")
    assert [block.index for block in graph.blocks if not block.skippable] == [0, 1, 4, 8, 14, 17]


def test_resnet32_has_fifteen_residual_blocks_and_all_but_two_are_skippable() -> None:
    graph = stored("resnet32_cifar10_jpeg.onnx")
    assert len(graph.blocks) == 17
    assert [block.index for block in graph.blocks if not block.skippable] == [0, 6, 11, 16]
    assert sum(block.flops for block in graph.blocks) == pytest.approx(2 * 69e6, rel=0.01)
    assert graph.dynamic_batch
    assert not graph.ends_in_softmax
    assert graph.inputs[0].shape == (None, 3, 32, 32)
    assert graph.inputs[0].example_shape == (1, 3, 32, 32)
    assert graph.cuts[6].tensors[0].shape == (None, 16, 32, 32)
    assert graph.cuts[7].size_bytes == 32 * 16 * 16 * 4


def test_mobilenetv2_has_its_ten_identity_shortcuts() -> None:
    graph = stored("mobilenetv2_cifar10.onnx")
    ends = [graph.cuts[block.index + 1].tensors[0].name for block in graph.blocks if block.skippable]
    assert ends == [f"/blocks.{number - 1}/Add_output_0" for number in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]
    assert graph.dynamic_batch


def test_a_residual_network_keeps_its_activations_with_the_sums_and_its_pooling_with_the_classifier() -> None:
    graph = graph_of(onnx_models.resnet())
    assert [dict(block.ops) for block in graph.blocks] == [
        {"Conv": 1, "Relu": 1},
        *[{"Conv": 2, "Relu": 2, "Add": 1}] * 4,
        {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1},
    ]
    assert [block.skippable for block in graph.blocks] == [False, True, True, True, True, False]
    assert graph.dynamic_batch
    assert graph.ends_in_softmax


def test_the_costs_of_a_residual_block_are_those_computed_by_hand() -> None:
    block = graph_of(onnx_models.resnet()).blocks[1]
    activation = 8 * 8 * 8
    assert block.flops == 2 * (2 * activation * 8 * 9) + 3 * activation
    assert block.parameters == 2 * 8 * 8 * 9
    assert block.memory_bytes == 4 * block.parameters
    assert block.peak_bytes == 3 * 4 * activation  # the input, held for the shortcut, and two between two nodes


def test_a_unet_is_cut_inside_although_its_skips_cross_the_cuts() -> None:
    graph = graph_of(onnx_models.unet())
    assert len(graph.blocks) >= 10
    assert max(len(cut.tensors) for cut in graph.cuts) == 3
    assert all(block.ops.get("Conv") for block in graph.blocks)
    # Upsampling comes after a cut: before it fewer bytes cross.
    assert all(not name.startswith("resize") for names in cut_names(graph) for name in names)


def test_a_mask_that_every_layer_reads_crosses_every_cut_and_the_layers_stay_whole() -> None:
    graph = graph_of(onnx_models.transformer(3), shapes={"tokens": (1, 5, 4)})
    assert len(graph.blocks) == 8
    assert all(names[0] == "attention_mask" for names in cut_names(graph)[1:6])
    assert [block.index for block in graph.blocks if block.skippable] == [1, 2, 3, 4, 6]
    assert graph.inputs[1].example_shape == (1, 1, 5)  # `length` is given once and holds for both inputs
    assert graph.cuts[2].tensors[1].shape == (None, None, 8)
    assert graph.dynamic_batch


def test_a_graph_output_that_is_made_early_crosses_all_later_cuts() -> None:
    graph = graph_of(onnx_models.early_output())
    names = cut_names(graph)
    first = next(index for index, tensors in enumerate(names) if "side" in tensors)
    assert 0 < first < len(graph.blocks) - 1
    assert all("side" in tensors for tensors in names[first:])
    assert names[-1] == ("main", "side")


def test_the_towers_of_a_siamese_network_are_cut_one_after_the_other() -> None:
    graph = graph_of(onnx_models.siamese())
    assert cut_names(graph)[0] == ("left", "right")
    assert len(graph.blocks) == 7
    assert graph.dynamic_batch
    # The right image waits, untouched, while the left goes through.
    assert cut_names(graph)[1][0] == "right"


def test_what_the_branches_of_an_if_capture_crosses_the_cuts_before_it() -> None:
    graph = graph_of(onnx_models.with_if())
    holder = next(block.index for block in graph.blocks if "If" in block.ops)
    assert holder > 1
    assert all("relu2" in names for names in cut_names(graph)[1 : holder + 1])


def test_a_model_of_cheap_operators_is_cut_at_every_boundary() -> None:
    graph = graph_of(onnx_models.cheap_only())
    assert [dict(block.ops) for block in graph.blocks] == [{"Relu": 1}, {"Neg": 1}, {"Abs": 1}, {"Tanh": 1}]
    assert [block.flops for block in graph.blocks] == [6, 6, 6, 6]


def test_a_single_node_is_one_block_without_an_inner_cut() -> None:
    graph = graph_of(onnx_models.single_node())
    assert len(graph.blocks) == 1
    assert cut_names(graph) == [("x",), ("y",)]
    assert graph.chain().cut_bytes == (24, 24)


def test_weights_that_nodes_compute_never_cross_a_cut_and_count_where_they_are_read() -> None:
    net = Net()
    weight = net.op("Transpose", net.weight(4, 4))
    x = net.op("MatMul", "x", weight)
    net.named("y", "MatMul", net.op("MatMul", x, weight), net.weight(4, 4))
    graph = graph_of(net.model({"x": ["n", 4]}, {"y": ["n", 4]}))
    assert len(graph.blocks) == 3
    assert all(len(cut.tensors) == 1 for cut in graph.cuts)
    assert [block.memory_bytes for block in graph.blocks] == [64, 64, 64]
    assert [dict(block.ops) for block in graph.blocks] == [{"MatMul": 1}] * 3


def test_a_file_whose_nodes_are_out_of_order_is_sorted() -> None:
    model = onnx_models.resnet()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    graph = graph_of(model)
    assert [dict(block.ops) for block in graph.blocks] == [
        dict(block.ops) for block in graph_of(onnx_models.resnet()).blocks
    ]
    assert model.graph.node[0].op_type == "Softmax"  # the caller's model is as it was


def test_a_batch_that_a_reshape_fixes_to_one_is_not_called_open() -> None:
    net = Net()
    flat = net.op("Reshape", net.op("MatMul", "x", net.weight(4, 4)), net.constant(np.array([1, -1])))
    net.named("y", "MatMul", flat, net.weight(8, 2))
    graph = graph_of(net.model({"x": ["batch", 2, 4]}, {"y": ["batch", 2]}))
    assert not graph.dynamic_batch


def test_a_sequence_first_mask_of_another_length_is_not_a_batch() -> None:
    net = Net()
    net.named("y", "Mul", net.op("MatMul", "x", net.weight(4, 4)), "m")
    graph = graph_of(net.model({"x": ["n", 4], "m": ["k", 4]}, {"y": ["n", 4]}))
    assert not graph.dynamic_batch


def test_shapes_that_inference_does_not_know_are_measured() -> None:
    net = Net()
    x = net.op("MatMul", "x", net.weight(4, 4))
    fused = net.op("FusedMatMul", x, net.weight(4, 6), domain="com.microsoft")
    net.named("y", "MatMul", fused, net.weight(6, 2))
    model = net.model({"x": ["n", 4]}, {"y": ["n", 2]}, imports=[helper.make_opsetid("com.microsoft", 1)])
    graph = graph_of(model)
    assert [cut.tensors[0].shape for cut in graph.cuts] == [(None, 4), (None, 4), (None, 6), (None, 2)]
    assert graph.dynamic_batch


def test_a_tensor_whose_size_depends_on_values_is_open_there() -> None:
    net = Net()
    x = net.op("MatMul", "x", net.weight(4, 4))
    found = net.op("NonZero", net.op("Greater", x, net.constant(np.float32(-1e9))))
    net.named("y", "MatMul", net.op("Cast", net.op("Transpose", found), to=TensorProto.FLOAT), net.weight(2, 2))
    graph = graph_of(net.model({"x": [1, 4]}, {"y": [None, 2]}))
    assert graph.outputs[0].shape[0] is None
    assert graph.outputs[0].example_shape == (4, 2)


def test_shapes_may_be_given_for_open_dimensions() -> None:
    graph = graph_of(onnx_models.cheap_only(), shapes={"x": (3, 6)})
    assert graph.inputs[0].example_shape == (3, 6)
    assert not graph.dynamic_batch  # three rows are not one frame


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 6)}, "inputs of the model are"),
        ({"x": (1, 7)}, "shape .1, 7. is given"),
        ({"x": (1, 6, 1)}, "has 2 dimensions"),
        ({"x": (0, 6)}, "at least 1"),
    ],
)
def test_a_shape_that_does_not_fit_the_inputs_is_refused(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        graph_of(onnx_models.cheap_only(), shapes=shapes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no model file"),
        (b"", "has no inputs"),
        (b"this is not a model, it is a sentence", "cannot be read as an ONNX model"),
        (b"\xff\xd8\xff\xe0 a picture", "cannot be read as an ONNX model"),
    ],
)
def test_a_file_that_is_no_model_is_refused_with_a_reason(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        ModelGraph.load(path)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a directory"):
        ModelGraph.load(tmp_path)


def test_an_invalid_model_is_refused_with_the_checkers_words() -> None:
    net = Net()
    net.named("y", "NoSuchOperator", "x")
    with pytest.raises(ModelError, match="NoSuchOperator"):
        graph_of(net.model({"x": [1]}, {"y": [1]}))


def test_a_cycle_is_refused() -> None:
    net = Net()
    net.named("a", "Add", "x", "b")
    net.named("b", "Relu", "a")
    with pytest.raises(ModelError, match="own result"):
        graph_of(net.model({"x": [1]}, {"b": [1]}))


def test_a_model_without_outputs_is_refused() -> None:
    model = onnx_models.single_node()
    model.graph.ClearField("output")
    with pytest.raises(ModelError, match="has no outputs"):
        graph_of(model)


@pytest.mark.parametrize("dtype", [TensorProto.STRING, TensorProto.BFLOAT16])
def test_an_input_of_a_type_that_cannot_be_sent_is_named(dtype: int) -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "net",
            [helper.make_tensor_value_info("x", dtype, [1])],
            [helper.make_tensor_value_info("y", dtype, [1])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    with pytest.raises(ModelError, match=r"input 'x' has type (string|bfloat16)"):
        graph_of(model)


def test_the_model_is_not_cut_where_a_sequence_would_cross() -> None:
    net = Net()
    x = net.relu(net.op("MatMul", "x", net.weight(4, 4)))
    parts = net.op("SplitToSequence", x, axis=1)
    joined = net.op("ConcatFromSequence", parts, axis=1)
    net.named("y", "MatMul", joined, net.weight(4, 2))
    graph = graph_of(net.model({"x": [1, 4]}, {"y": [1, 2]}))
    assert cut_names(graph) == [("x",), ("concatfromsequence4",), ("y",)]


def test_a_model_that_only_unsupported_types_hold_together_is_refused_by_the_tensors_name() -> None:
    net = Net()
    net.named("middle", "Cast", "x", to=TensorProto.BFLOAT16)
    net.named("y", "Cast", "middle", to=TensorProto.FLOAT)
    with pytest.raises(ModelError, match="'middle' has type bfloat16"):
        graph_of(net.model({"x": [2]}, {"y": [2]}))


def test_external_data_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "outside.onnx"
    onnx.save(onnx_models.resnet(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    graph = ModelGraph.load(path)
    assert sum(block.memory_bytes for block in graph.blocks) == 4 * sum(block.parameters for block in graph.blocks)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights\.bin"):
        ModelGraph.load(path)


def test_the_same_file_gives_the_same_blocks() -> None:
    first, second = graph_of(onnx_models.unet()), graph_of(onnx_models.unet())
    assert first.blocks == second.blocks
    assert first.cuts == second.cuts
    assert first.chain() == second.chain()
