from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stages.bundle import Bundle, bundle_from_model, write_bundle
from stages.description import Normalisation, default_task, describe, image_input, safe_name
from stages.errors import BundleError
from stages.graph import ModelGraph
from stages.manifest import Accuracy, ImageInput, Manifest, PartRecord, TensorInput, wilson_interval
from stages.tensor import TensorSpec
from understudy.data import digits_bundle, digits_frames


@pytest.fixture
def model_path() -> Path:
    return digits_bundle().model_path


def draft(model_path: Path) -> Manifest:
    return describe(ModelGraph.load(model_path), name="tiny")


@pytest.fixture
def folder(tmp_path: Path, model_path: Path) -> Path:
    write_bundle(tmp_path / "b", draft(model_path), model_path=model_path, extra_files={"sub/extra.bin": b"1234"})
    return tmp_path / "b"


def spec(shape: tuple[int | None, ...], dtype: str = "float32", name: str = "t") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape, example_shape=tuple(size or 1 for size in shape))


def test_a_bundle_that_was_written_is_read_back_equal(folder: Path) -> None:
    bundle = Bundle.load(folder)
    assert bundle.manifest.name == "tiny"
    assert bundle.manifest.task == "classify"
    assert bundle.manifest.label(3) == "3"
    assert len(bundle.manifest.version) == 12
    assert set(bundle.manifest.files) == {"model.onnx", "sub/extra.bin"}
    assert bundle.path("sub/extra.bin").read_bytes() == b"1234"
    assert bundle.model_path == folder / "model.onnx"


def test_the_version_depends_on_the_content_alone(tmp_path: Path, model_path: Path, folder: Path) -> None:
    again = write_bundle(
        tmp_path / "c", draft(model_path), model_path=model_path, extra_files={"sub/extra.bin": b"1234"}
    )
    other = write_bundle(tmp_path / "d", draft(model_path), model_path=model_path)
    assert again.manifest == Bundle.load(folder).manifest
    assert other.manifest.version != again.manifest.version


def test_a_bundle_is_replaced_only_by_force_and_leaves_nothing_behind(folder: Path, model_path: Path) -> None:
    with pytest.raises(BundleError, match="--force"):
        write_bundle(folder, draft(model_path), model_path=model_path)
    write_bundle(folder, draft(model_path), model_path=model_path, force=True)
    assert not (folder / "sub").exists()
    assert [item.name for item in folder.parent.iterdir()] == ["b"]


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path, model_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"x")
    for target in (tmp_path / "photos", tmp_path / "photos" / "me.jpg"):
        with pytest.raises(BundleError, match="no bundle"):
            write_bundle(target, draft(model_path), model_path=model_path, force=True)
    assert (tmp_path / "photos" / "me.jpg").read_bytes() == b"x"


def test_an_extra_file_outside_the_bundle_is_not_written(tmp_path: Path, model_path: Path) -> None:
    with pytest.raises(BundleError, match="inside the bundle"):
        write_bundle(tmp_path / "b", draft(model_path), model_path=model_path, extra_files={"../x": b""})
    assert list(tmp_path.iterdir()) == []


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document, indent=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "format 2, this version reads format 1"),
        (lambda d: d.pop("format"), "format None"),
        (lambda d: d["input"].update(heigth=3), r"input.image.heigth: Extra inputs"),
        (lambda d: d["input"].update(mean=[0.1, 0.2]), "mean has 2 numbers, the image has 1 channels"),
        (lambda d: d["input"].update(kind="sound"), "input: "),
        (lambda d: d.update(task="guess"), "task: Input should be 'classify' or 'tensors'"),
        (lambda d: d.update(model="other.onnx"), "'other.onnx' is not among the files"),
        (
            lambda d: d["files"]["model.onnx"].update(sha256="0" * 64),
            r"model.onnx.*SHA-256 [0-9a-f]{12}….*000000000000…",
        ),
        (lambda d: d["files"]["model.onnx"].update(bytes=3), "has 535561 bytes, the manifest says 3"),
        (lambda d: d["files"].update({"../b/model.onnx": d["files"]["model.onnx"]}), "not the path of a file inside"),
        (lambda d: d["files"].update({"/etc/passwd": d["files"]["model.onnx"]}), "not the path of a file inside"),
        (lambda d: d["files"].update({"c:\\x": d["files"]["model.onnx"]}), "not the path of a file inside"),
        (lambda d: d["files"].update({"gone.bin": d["files"]["model.onnx"]}), "'gone.bin' is missing"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_place(folder: Path, change: Any, message: str) -> None:
    edit(folder, change)
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n  "format": 1,\n  oops\n}', "line 3, column 3: not JSON"),
        ("[]", "JSON list"),
        ("[" * 100_000, "JSON"),
        ('{"format": ' + "9" * 5000 + "}", "JSON"),
        ("\xff", "cannot read"),
    ],
)
def test_what_is_no_manifest_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


def test_a_missing_folder_and_a_folder_without_manifest_say_how_to_make_one(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(BundleError, match="understudy prepare"):
            Bundle.load(folder)


def test_one_changed_byte_is_found_unless_verification_is_off(folder: Path) -> None:
    path = folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert Bundle.load(folder, verify=False).manifest.name == "tiny"
    with pytest.raises(BundleError, match="SHA-256"):
        Bundle.load(folder)


def test_a_link_out_of_the_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.onnx"
    (folder / "model.onnx").rename(target)
    (folder / "model.onnx").symlink_to(target)
    with pytest.raises(BundleError, match="link out of the bundle"):
        Bundle.load(folder)


def test_weights_beside_the_model_are_taken_into_the_bundle(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "m" / "model.onnx"
    path.parent.mkdir()
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    bundle = write_bundle(tmp_path / "b", draft(path), model_path=path)
    assert set(bundle.manifest.files) == {"model.onnx"}
    packed = onnx.load(bundle.model_path)
    np.testing.assert_array_equal(numpy_helper.to_array(packed.graph.initializer[0]), 1)
    assert isinstance(bundle.manifest.input, TensorInput)


def test_a_bare_model_is_described_by_its_graph_without_a_folder(model_path: Path) -> None:
    bundle = bundle_from_model(model_path, name="my model")
    assert bundle.folder is None
    assert bundle.model_path == model_path
    assert bundle.manifest.name == "my-model"
    assert bundle.manifest.task == "classify"
    assert bundle.manifest.labels is None
    assert bundle.manifest.input == ImageInput(name="input", channels=1, height=8, width=8)
    assert bundle.manifest.output.name == "logits"
    assert bundle.manifest.output.softmax


@pytest.mark.parametrize(
    ("outputs", "is_image", "labels", "task"),
    [
        ([spec((None, 10))], True, None, "classify"),
        ([spec((1, 10, 1, 1))], True, None, "classify"),
        ([spec((None, 10))], False, None, "tensors"),
        ([spec((None, 2))], False, ["a", "b"], "classify"),
        ([spec((None, 1))], True, None, "tensors"),
        ([spec((None, 10), "int64")], True, None, "tensors"),
        ([spec((None, 10, 4, 4))], True, None, "tensors"),
        ([spec((None, None))], True, None, "tensors"),
        ([spec((None, 10)), spec((None, 10))], True, None, "tensors"),
    ],
)
def test_the_default_task_follows_the_output_and_the_labels(
    outputs: list[TensorSpec], is_image: bool, labels: list[str] | None, task: str
) -> None:
    assert default_task(outputs, is_image=is_image, labels=labels) == task


@pytest.mark.parametrize("outputs", [[spec((None, 3))], [spec((None, 2, 7, 7))]])
def test_labels_that_do_not_fit_the_output_are_refused(outputs: list[TensorSpec]) -> None:
    with pytest.raises(BundleError, match="labels are given, but"):
        default_task(outputs, is_image=True, labels=["a", "b"])


@pytest.mark.parametrize(
    ("shape", "dtype", "wanted"),
    [
        ((None, 3, 32, 16), "float32", (3, 32, 16, "NCHW", 1 / 255)),
        ((1, 32, 16, 3), "float16", (3, 32, 16, "NHWC", 1 / 255)),
        ((1, 1, 28, 28), "uint8", (1, 28, 28, "NCHW", 1.0)),
    ],
)
def test_a_4_d_input_with_1_or_3_channels_is_an_image(
    shape: tuple[int | None, ...], dtype: str, wanted: tuple[Any, ...]
) -> None:
    image = image_input([spec(shape, dtype)], Normalisation())
    assert image is not None
    assert (image.channels, image.height, image.width, image.layout, image.scale) == wanted


@pytest.mark.parametrize(
    "inputs",
    [
        [spec((None, 4, 32, 32))],
        [spec((None, 3, 32))],
        [spec((8, 3, 32, 32))],
        [spec((None, 3, None, None))],  # nobody said how large
        [spec((None, 3, 32, 32), "int64")],
        [spec((None, 3, 32, 32)), spec((None, 3, 32, 32))],
    ],
)
def test_other_inputs_are_tensors(inputs: list[TensorSpec]) -> None:
    assert image_input(inputs, Normalisation()) is None


def test_one_mean_counts_for_every_channel_and_two_do_not_fit_three() -> None:
    inputs = [spec((None, 3, 4, 4))]
    image = image_input(inputs, Normalisation(mean=(0.5,), std=(0.25,)))
    assert image is not None
    assert image.mean == (0.5, 0.5, 0.5)
    for wrong in (Normalisation(mean=(0.1, 0.2)), Normalisation(std=(0.0,)), Normalisation(scale=float("nan"))):
        with pytest.raises(BundleError, match="normalisation"):
            image_input(inputs, wrong)


def test_a_name_is_made_fit_for_a_subject() -> None:
    assert safe_name("ResNet 50 (v1.5)") == "ResNet-50-v1-5"
    assert safe_name("...") == "model"


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (398, 400, 0.98196, 0.99863)],
)
def test_the_wilson_interval_has_its_published_values(correct: int, images: int, low: float, high: float) -> None:
    assert wilson_interval(correct, images) == pytest.approx((low, high), abs=1e-4)


def test_the_interval_contains_the_value() -> None:
    for correct in range(21):
        accuracy = Accuracy.measured(correct=correct, images=20)
        assert 0 <= accuracy.low <= accuracy.value <= accuracy.high <= 1


def test_the_digits_bundle_is_whole_small_and_balanced() -> None:
    bundle = digits_bundle()
    frames, labels = digits_frames()
    assert sum(record.bytes for record in bundle.manifest.files.values()) < 3_000_000
    assert labels == [index % 10 for index in range(400)]
    assert all(frame.startswith(b"\x89PNG") for frame in frames)
    assert bundle.manifest.accuracy is not None
    assert bundle.manifest.accuracy.value >= 0.98
    assert len(ModelGraph.load(bundle.model_path).blocks) >= 13


def test_a_part_needs_blocks_to_stand_for() -> None:
    facts: dict[str, Any] = {"technique": "skip", "memory_bytes": 0, "peak_bytes": 0, "flops": 0}
    assert PartRecord(first_block=3, end_block=4, **facts).file is None
    with pytest.raises(ValueError, match=r"blocks \[4, 4\) is empty"):
        PartRecord(first_block=4, end_block=4, **facts)
