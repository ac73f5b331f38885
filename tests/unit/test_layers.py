"""What onnxruntime runs, as layers; their features; and the models that time them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from stages.features import FEATURES, features, kind_of, layer_flops
from stages.layermodels import layer_feeds, layer_model
from stages.layers import Layer, Operand, as_it_is, fused_layers
from stages.layersamples import PATTERNS, cycle, sample
from stages.sketch import QUICK, Box
from tests.onnx_models import Net, resnet


def dense(*shape: int) -> Operand:
    return Operand(dtype="float32", shape=shape)


def weights(*shape: int) -> Operand:
    return Operand(dtype="float32", shape=shape, static=True)


def layer(op_type: str, *inputs: Operand, out: Operand, domain: str = "", **attributes: object) -> Layer:
    return Layer(
        op_type=op_type,
        domain=domain,
        attributes=tuple(sorted(attributes.items())),  # type: ignore[arg-type]
        inputs=inputs,
        outputs=(out,),
        opsets=(("", 17),),
    )


CONV = layer(
    "Conv", dense(1, 3, 8, 8), weights(16, 3, 3, 3), weights(16), out=dense(1, 16, 4, 4), strides=(2, 2), pads=(1,) * 4
)


def run(model: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(model, as_it_is(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def test_a_convolution_s_features_are_its_hyper_parameters_operations_and_bytes() -> None:
    found = features(CONV)
    assert tuple(found) == FEATURES
    assert found["flops"] == 2 * (16 * 4 * 4) * (3 * 3 * 3)
    assert found["bytes_in"] == 4 * 3 * 8 * 8
    assert found["bytes_out"] == 4 * 16 * 4 * 4
    assert found["bytes_weights"] == 4 * (16 * 27 + 16)
    assert found["intensity"] == pytest.approx(13824 / (768 + 1024 + 1792))
    wanted = {"channels_in": 3, "channels_out": 16, "height_in": 8, "height_out": 4, "kernel_width": 3, "stride": 2}
    assert {name: found[name] for name in wanted} == wanted
    assert (found["activation"], found["summed"], found["blocked"]) == (0, 0, 0)


def test_a_fused_sum_and_activation_count_one_operation_per_element_each() -> None:
    fused = layer(
        "Conv",
        *CONV.inputs,  # type: ignore[arg-type]
        dense(1, 16, 4, 4),
        out=dense(1, 16, 4, 4),
        domain="com.microsoft.nchwc",
        activation="Relu",
    )
    assert layer_flops(fused) == layer_flops(CONV) + 2 * 16 * 4 * 4
    found = features(fused)
    assert (found["activation"], found["summed"], found["blocked"], found["operands"]) == (1, 1, 1, 2)


def test_kernels_for_the_blocked_layout_do_not_work_on_the_border_s_padding() -> None:
    """A 3 x 3 window over 2 x 2 pixels: of the 9 taps of each output 4 lie within the image."""
    shape = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "strides": (1, 1)}
    operands = (dense(1, 16, 2, 2), weights(16, 16, 3, 3))
    plain = layer("Conv", *operands, out=dense(1, 16, 2, 2), **shape)
    blocked = layer("Conv", *operands, out=dense(1, 16, 2, 2), domain="com.microsoft.nchwc", **shape)
    assert features(plain)["work"] == features(plain)["flops"] == 2 * 16 * 4 * 16 * 9
    assert features(blocked)["flops"] == features(plain)["flops"]
    assert features(blocked)["work"] == pytest.approx(features(plain)["flops"] * 4 / 9)


@pytest.mark.parametrize(
    ("shape", "order", "wanted"),
    [
        ((1, 64, 32, 32), (0, 2, 3, 1), 4096),
        ((1, 64, 31, 31), (0, 2, 3, 1), 4),
        ((1, 64, 128, 128), (0, 2, 3, 1), 4096),
        ((1, 8, 12, 24), (0, 1, 3, 2), 32),
        ((1, 2, 32, 16, 16), (0, 2, 1, 3, 4), 0),
        ((), (), 0),
    ],
    ids=["a page apart", "odd", "more than a page", "rows", "rows stay as they are", "one number"],
)
def test_a_transposition_s_alignment_is_of_what_comes_side_by_side(
    shape: tuple[int, ...], order: tuple[int, ...], wanted: int
) -> None:
    moved = layer("Transpose", dense(*shape), out=dense(*(shape[axis] for axis in order)), perm=order)
    assert features(moved)["alignment"] == wanted


def test_the_blocked_layout_brings_channels_side_by_side() -> None:
    image = dense(1, 64, 16, 12)
    assert features(layer("ReorderInput", image, out=image, domain="com.microsoft.nchwc"))["alignment"] == 256
    assert features(CONV)["alignment"] == 0


@pytest.mark.parametrize(
    ("kernel", "group", "wanted"),
    [
        ((8, 8, 3, 3), 1, "convolution"),
        ((8, 8, 1, 1), 1, "point-wise convolution"),
        ((8, 1, 3, 3), 8, "depth-wise convolution"),
        ((8, 4, 3, 3), 2, "grouped convolution"),
        ((8, 1, 1, 1), 8, "batch normalisation"),
    ],
)
def test_convolutions_are_told_apart_by_kernel_and_groups(kernel: tuple[int, ...], group: int, wanted: str) -> None:
    made = layer("Conv", dense(1, 8, 6, 6), weights(*kernel), out=dense(1, 8, 6, 6), group=group)
    assert kind_of(made) == wanted


def test_a_product_with_weights_is_dense_and_one_of_two_activations_is_not() -> None:
    assert kind_of(layer("MatMul", dense(1, 4), weights(4, 2), out=dense(1, 2))) == "dense"
    assert kind_of(layer("MatMul", dense(1, 4), dense(4, 2), out=dense(1, 2))) == "matrix product"
    assert kind_of(layer("Einsum", dense(1, 4), out=dense(1, 2))) == "Einsum"


def test_batch_norm_and_relu_are_no_layers_behind_a_convolution() -> None:
    net = Net()
    x = net.conv("x", 3, 8)
    x = net.op("BatchNormalization", x, *(net.constant(np.ones(8, np.float32)) for _ in range(4)))
    net.named("y", "Relu", x)
    kinds = [
        kind_of(made) for made in fused_layers(net.model({"x": [1, 3, 8, 8]}, {"y": [1, 8, 8, 8]}).SerializeToString())
    ]
    assert set(kinds) <= {"convolution", "reorder"}
    assert kinds.count("convolution") == 1


def test_every_layer_of_a_residual_network_runs_by_itself() -> None:
    layers = fused_layers(resnet(2).SerializeToString())
    assert {"convolution", "dense"} <= {kind_of(made) for made in layers}
    for made in set(layers):
        assert made.outputs[0] is not None
        assert tuple(run(layer_model(made, copies=3), layer_feeds(made))[0]) == made.outputs[0].shape


def test_each_copy_of_a_layer_has_weights_of_its_own() -> None:
    made = layer("MatMul", dense(1, 4), weights(4, 2), out=dense(1, 2))
    graph = onnx.load_from_string(layer_model(made, copies=3)).graph
    read = [node.input[1] for node in graph.node if node.op_type == "MatMul"]
    assert len(set(read)) == 3
    assert {tensor.name for tensor in graph.initializer} == set(read)
    assert {node.input[0] for node in graph.node if node.op_type == "MatMul"} == {graph.input[0].name}


@pytest.mark.parametrize("index", range(len(cycle())))
def test_every_sampled_layer_loads_and_runs(index: int) -> None:
    name, model = sample(index, box=QUICK)
    layers = fused_layers(model)
    assert name in {kind_of(made) for made in layers} or name == "hard swish"
    for made in layers:
        assert run(layer_model(made), layer_feeds(made))
        assert all(value >= 0 for value in features(made).values())


def test_samples_are_the_same_every_time_and_others_for_another_seed() -> None:
    assert [sample(n, box=QUICK) for n in range(5)] == [sample(n, box=QUICK) for n in range(5)]
    assert [sample(n, box=QUICK)[1] for n in range(5)] != [sample(n, seed=1, box=QUICK)[1] for n in range(5)]


def test_a_cycle_has_every_pattern_as_often_as_it_says() -> None:
    order = cycle()
    assert {name: order.count(name) for name in PATTERNS} == {name: often for name, (often, _) in PATTERNS.items()}


def test_samples_keep_to_the_box() -> None:
    box = Box(size=16, channels=32, width=64, elements=4000, flops=1e6)
    for index in range(2 * len(cycle())):
        for made in fused_layers(sample(index, box=box)[1]):
            shape = made.outputs[0].shape if made.outputs[0] is not None else ()
            assert np.prod(shape) <= 4 * box.elements
