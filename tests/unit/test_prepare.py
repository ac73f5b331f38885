from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from stages.bundle import Bundle
from stages.calibration_pack import load_bundle_calibration
from stages.errors import BundleError, CalibrationError
from stages.manifest import ImageInput
from tests import onnx_models
from tests.data import data_file
from understudy.cli.prepare import parse_numbers, prepare, read_labels
from understudy.data import digits_bundle

DIGITS = digits_bundle()
NUMBERS = ("--mean", "0.3", "--std", "0.38")


def run(*words: object) -> Result:
    app = typer.Typer()
    app.command()(prepare)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_digits_bundle_can_be_made_again(tmp_path: Path) -> None:
    data = ("--calibration", DIGITS.path("frames.npz"), "--no-parts")
    result = run(DIGITS.model_path, *data, *NUMBERS, "-o", tmp_path / "d")
    assert result.exit_code == 0, result.output
    assert "99.50% on 400 images (95 % interval 98.20% to 99.86%)" in result.stdout
    assert "blocks    14, with 15 cuts" in result.stdout
    manifest = Bundle.load(tmp_path / "d").manifest
    assert manifest.parts == ()
    assert manifest.accuracy == DIGITS.manifest.accuracy
    assert manifest.input == DIGITS.manifest.input
    assert manifest.output.softmax
    assert [record.codec for record in manifest.codecs] == ["zstd", "fp16", "fp16+zstd", "int8", "int8+zstd"]
    assert "codec     fp16: 50% to 50% of the bytes, accuracy +0.00%" in result.stdout


def test_parts_are_fitted_on_one_set_and_measured_on_the_other(tmp_path: Path) -> None:
    onnx.save(onnx_models.resnet(2), tmp_path / "small.onnx")
    for name, seed in (("fit", 0), ("judge", 1)):
        random = np.random.default_rng(seed)
        pixels = random.integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=pixels, labels=random.integers(0, 5, 200))
    data = ("--calibration", tmp_path / "fit.npz", "--held-out", tmp_path / "judge.npz", "--nodes", 2)
    result = run(tmp_path / "small.onnx", *data, "-o", tmp_path / "d")
    assert result.exit_code == 0, result.output
    assert "for what can be lost" in result.stdout
    bundle = Bundle.load(tmp_path / "d")
    assert bundle.manifest.held_out is not None
    assert bundle.manifest.held_out == bundle.manifest.accuracy
    assert bundle.manifest.held_out.images == 200
    assert {part.technique for part in bundle.manifest.parts} == {"stand-in", "exit", "skip", "standby"}
    for part in bundle.manifest.parts:
        assert part.accuracy is not None
        assert (part.file is None) == (part.technique in ("skip", "standby"))
        assert part.file is None or bundle.path(part.file).stat().st_size > 0
    stored = load_bundle_calibration(bundle)
    assert stored is not None
    assert stored.count == 200


def test_json_on_stdout_is_one_document(tmp_path: Path) -> None:
    result = run(
        DIGITS.model_path,
        "--calibration",
        DIGITS.path("frames.npz"),
        "--no-parts",
        "--max-images",
        50,
        "-o",
        tmp_path / "d",
        "--json",
    )
    facts = json.loads(result.stdout)
    assert facts["accuracy"]["images"] == 50
    assert facts["blocks"] == 14


def test_without_numbers_the_summary_says_that_the_default_is_used(tmp_path: Path) -> None:
    result = run(DIGITS.model_path, "-o", tmp_path / "d")
    assert "scale 0.00392157, mean none, std none  (the default: give --mean and --std" in result.stdout
    assert "not measured: give labelled --calibration data" in result.stdout


def test_labels_come_from_the_data_unless_a_file_gives_them(tmp_path: Path) -> None:
    for digit in range(10):
        (tmp_path / "data" / f"d{digit}").mkdir(parents=True)
        Image.new("L", (8, 8), digit).save(tmp_path / "data" / f"d{digit}" / "0.png")
    data = ("--calibration", tmp_path / "data", "--no-parts")
    run(DIGITS.model_path, *data, "-o", tmp_path / "a")
    assert Bundle.load(tmp_path / "a").manifest.labels == tuple(f"d{digit}" for digit in range(10))
    names = tmp_path / "labels.txt"
    names.write_text("\n".join(f"number {digit}" for digit in range(10)) + "\n\n", encoding="utf-8")
    run(DIGITS.model_path, *data, "--labels", names, "-o", tmp_path / "b")
    assert Bundle.load(tmp_path / "b").manifest.label(3) == "number 3"


def test_the_task_tensors_needs_no_accuracy(tmp_path: Path) -> None:
    result = run(DIGITS.model_path, "--task", "tensors", "-o", tmp_path / "d")
    assert "no classifier" in result.stdout
    assert Bundle.load(tmp_path / "d").manifest.task == "tensors"


def test_an_existing_bundle_is_refused_before_the_work_and_replaced_by_force(tmp_path: Path) -> None:
    assert run(DIGITS.model_path, "-o", tmp_path / "d").exit_code == 0
    assert isinstance(run(DIGITS.model_path, "-o", tmp_path / "d").exception, BundleError)
    assert run(DIGITS.model_path, "-o", tmp_path / "d", "--force").exit_code == 0


def test_data_of_another_model_leaves_no_bundle(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.array([0, 99]))
    result = run(DIGITS.model_path, "--calibration", tmp_path / "d.npz", "-o", tmp_path / "d")
    assert isinstance(result.exception, CalibrationError)
    assert not (tmp_path / "d").exists()


def test_a_shape_is_kept_for_every_reader_of_the_bundle(tmp_path: Path) -> None:
    assert run(DIGITS.model_path, "--shape", "input=1,1,8,8", "-o", tmp_path / "d").exit_code == 0
    assert Bundle.load(tmp_path / "d").manifest.shapes == {"input": (1, 1, 8, 8)}


@pytest.mark.parametrize(
    "words",
    [
        ("--mean", "a,b"),
        ("--scale", "1,2"),
        ("--task", "guess"),
        ("--shape", "8x8"),
        ("--labels", "none.txt"),
        ("--nodes", "1-4"),
        ("--nodes", "few"),
        ("--held-out", "frames.npz"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = run(DIGITS.model_path, *words, "-o", tmp_path / "d")
    assert result.exit_code == 2
    assert words[0] in result.stderr


def test_numbers_may_be_fractions() -> None:
    assert parse_numbers("--scale", "1/255") == (1 / 255,)
    assert parse_numbers("--mean", None) == ()
    for wrong in ("1/0", "", "1,,2"):
        with pytest.raises(typer.BadParameter):
            parse_numbers("--mean", wrong)


def test_an_empty_line_between_labels_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\n\nb\n")
    with pytest.raises(typer.BadParameter, match="line 2 is empty"):
        read_labels(tmp_path / "labels.txt")


def test_the_cifar_network_has_its_known_accuracy(tmp_path: Path) -> None:
    model, data = data_file("resnet32_cifar10_jpeg.onnx"), data_file("cifar10_test_public.npz")
    if model is None or data is None:
        pytest.skip("needs the CIFAR-10 data, see UNDERSTUDY_DATA")
    numbers = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--max-images", 1000, "--no-parts")
    result = run(model, "--calibration", data, *numbers, "-o", tmp_path / "r")
    assert result.exit_code == 0, result.output
    manifest = Bundle.load(tmp_path / "r").manifest
    assert manifest.accuracy is not None
    assert manifest.accuracy.low < 0.8969 < manifest.accuracy.high
    assert isinstance(manifest.input, ImageInput)
    assert manifest.labels is not None
    assert manifest.labels[0] == "airplane"
