"""onnxruntime behind its door: what it runs, and how it says no."""

from __future__ import annotations

import numpy as np
import pytest

from stages.engine import Engine, resolve_providers
from stages.errors import EngineError, FrameError
from tests.onnx_models import Net
from tests.unit.builders import numbers, tensor

OUTPUTS = (tensor("y", None, 2),)


def doubling() -> bytes:
    net = Net()
    net.named("y", "Add", "x", "x")
    model: bytes = net.model({"x": ["n", 2]}, {"y": ["n", 2]}).SerializeToString()
    return model


def test_a_sub_model_computes_the_tensors_of_the_cut_after_it() -> None:
    made = Engine.load(doubling(), outputs=OUTPUTS).run({"x": numbers(1, 2)})
    assert list(made) == ["y"]
    np.testing.assert_array_equal(made["y"], numbers(2, 4))


def test_a_tensor_that_later_stages_need_passes_through_uncopied() -> None:
    engine = Engine.load(doubling(), outputs=(tensor("later", None, 3), *OUTPUTS, tensor("x", None, 2)))
    x, later = numbers(1), np.zeros((1, 3), np.float32)
    made = engine.run({"x": x, "later": later, "unused": later})
    assert list(made) == ["later", "y", "x"]
    assert made["later"] is later
    assert made["x"] is x


def test_a_tensor_read_in_place_from_a_message_may_be_run() -> None:
    data = numbers(3).tobytes()
    made = Engine.load(doubling(), outputs=OUTPUTS).run({"x": np.frombuffer(data, np.float32).reshape(1, 2)})
    np.testing.assert_array_equal(made["y"], numbers(6))


@pytest.mark.parametrize(
    "tensors",
    [{}, {"x": np.zeros((1, 2))}, {"x": np.zeros((1, 3), np.float32)}, {"x": np.zeros(2, np.float32)}],
    ids=["missing", "dtype", "shape", "dimensions"],
)
def test_tensors_that_onnxruntime_refuses_fail_their_frame_with_one_line(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(FrameError) as caught:
        Engine.load(doubling(), outputs=OUTPUTS).run(tensors)
    assert caught.value.code == "failed"
    assert caught.value.reason.startswith("onnxruntime could not run the stage: ")
    assert "\n" not in caught.value.reason


def test_an_engine_works_on_after_a_refusal() -> None:
    engine = Engine.load(doubling(), outputs=OUTPUTS)
    with pytest.raises(FrameError):
        engine.run({})
    np.testing.assert_array_equal(engine.run({"x": numbers(1)})["y"], numbers(2))


@pytest.mark.parametrize("model", [b"", b"not onnx", doubling()[:-10], doubling().replace(b"Add", b"Adx")])
def test_a_damaged_model_is_an_error_of_ours_with_one_line(model: bytes) -> None:
    with pytest.raises(EngineError, match=r"^onnxruntime cannot load the sub-model: ") as caught:
        Engine.load(model, outputs=OUTPUTS)
    assert "\n" not in str(caught.value)


def test_a_provider_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(EngineError, match=r"'Abacus' is not in this machine's onnxruntime .*it has: .*CPU"):
        Engine.load(doubling(), outputs=OUTPUTS, providers=["Abacus"])


def test_the_cpu_is_the_last_resort_of_every_list_and_is_named_once() -> None:
    assert resolve_providers([]) == ["CPUExecutionProvider"]
    assert resolve_providers(["cpu"]) == ["CPUExecutionProvider"]
    assert resolve_providers(["CPUExecutionProvider"]) == ["CPUExecutionProvider"]
    assert Engine.load(doubling(), outputs=OUTPUTS).providers == ("CPUExecutionProvider",)


def test_warming_up_forgives_a_model_that_does_not_like_its_example() -> None:
    Engine.load(doubling(), outputs=OUTPUTS).warm_up((tensor("x", None, 2),))
    Engine.load(doubling(), outputs=OUTPUTS).warm_up((tensor("x", None, 5),))
