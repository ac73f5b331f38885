from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.calibration import CalibrationData, load_calibration
from stages.errors import CalibrationError
from stages.manifest import ImageInput
from stages.tensor import TensorSpec

SPEC = ImageInput(name="input", channels=3, height=4, width=4)
INPUTS = (TensorSpec(name="input", dtype="float32", shape=(None, 3, 4, 4), example_shape=(1, 3, 4, 4)),)


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (grey, grey, grey)).save(buffer, format="PNG")
    return buffer.getvalue()


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def packed(greys: list[int]) -> dict[str, Any]:
    files = [png(grey) for grey in greys]
    return {
        "png": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0, *(len(file) for file in files)]).astype(np.int64),
    }


def first_values(data: CalibrationData, size: int = 2) -> list[float]:
    return [round(float(value) * 255) for inputs, _ in data.batches(size) for value in inputs[:, 0, 0, 0]]


def test_packed_images_come_in_batches_with_their_labels(tmp_path: Path) -> None:
    path = npz(
        tmp_path / "d.npz", **packed([10, 20, 30]), labels=np.array([2, 0, 1], np.uint8), classes=["a", "b", "c"]
    )
    data = load_calibration(path, SPEC, INPUTS, class_count=3)
    assert (data.count, data.classes) == (3, ("a", "b", "c"))
    batches = list(data.batches(2))
    assert [inputs.shape for inputs, _ in batches] == [(2, 3, 4, 4), (1, 3, 4, 4)]
    assert [labels.tolist() for _, labels in batches if labels is not None] == [[2, 0], [1]]
    assert first_values(data) == [10, 20, 30]


@pytest.mark.parametrize(
    "stack",
    [
        np.full((3, 4, 4, 3), 51, np.uint8),
        np.full((3, 4, 4), 51, np.uint8),
        np.full((3, 3, 4, 4), 0.2, np.float32),
    ],
    ids=["pixels", "grey pixels", "inputs"],
)
@pytest.mark.parametrize("name", ["images", "x"])
def test_plain_arrays_are_pixels_or_the_input_itself(tmp_path: Path, stack: Any, name: str) -> None:
    data = load_calibration(npz(tmp_path / "d.npz", **{name: stack}), SPEC, INPUTS, max_images=2)
    assert data.labels is None
    assert first_values(data) == [51, 51]


def test_a_flat_folder_is_unlabelled_and_sorted(tmp_path: Path) -> None:
    for name, grey in (("b.png", 2), ("a.PNG", 1), (".hidden.png", 9)):
        (tmp_path / name).write_bytes(png(grey))
    (tmp_path / "notes.txt").write_text("x")
    data = load_calibration(tmp_path, SPEC, INPUTS)
    assert data.labels is None
    assert first_values(data) == [1, 2]


def class_folder(root: Path) -> Path:
    for folder, greys in (("dog", [20, 21]), ("cat", [10, 11, 12])):
        (root / folder).mkdir()
        for grey in greys:
            (root / folder / f"{grey}.png").write_bytes(png(grey))
    return root


def test_folders_are_classes_in_sorted_order_taken_in_turn(tmp_path: Path) -> None:
    data = load_calibration(class_folder(tmp_path), SPEC, INPUTS, class_count=2, max_images=4)
    assert data.classes == ("cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 0, 1]
    assert first_values(data) == [10, 20, 11, 21]


def test_folder_names_that_are_labels_decide_the_class(tmp_path: Path) -> None:
    names = ("bird", "dog", "cat")
    data = load_calibration(class_folder(tmp_path), SPEC, INPUTS, labels=names, class_count=3)
    assert data.labels is not None
    assert data.labels.tolist() == [2, 1, 2, 1, 2]
    assert data.classes == names


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds nothing; exactly one of these"),
        ({"pictures": np.zeros(3)}, "holds pictures; exactly one of these"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "holds no image"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.zeros(3, np.int64)}, "2 images, but 'labels'"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.zeros(2)}, "class indices"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.array([0, 7])}, "label of image 1 is 7.*0 to 2"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.array([-1, 0])}, "label of image 0 is -1"),
        ({"png": np.zeros(9, np.uint8)}, "needs 'offsets'"),
        ({"png": np.zeros(9, np.uint8), "offsets": np.array([0, 10])}, "reach to byte 10"),
        ({"png": np.zeros(9, np.uint8), "offsets": np.array([0, 5, 3])}, "must not decrease"),
        ({"png": np.zeros(9, np.float32), "offsets": np.array([0, 5])}, "must be uint8"),
        ({"images": np.array([{}], object)}, "cannot read"),
    ],
)
def test_data_that_does_not_fit_is_refused_with_the_place(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        load_calibration(npz(tmp_path / "d.npz", **arrays), SPEC, INPUTS, class_count=3)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "broken.png").write_bytes(png(1)[:40])
    data = load_calibration(tmp_path, SPEC, INPUTS)
    with pytest.raises(CalibrationError, match=r"cat/broken\.png.*ends after 40 bytes"):
        list(data.batches())


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1")
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    (tmp_path / "empty").mkdir()
    for name in ("none", "x.csv", "bad.npz", "empty"):
        with pytest.raises(CalibrationError, match=name):
            load_calibration(tmp_path / name, SPEC, INPUTS)


def test_a_model_of_two_inputs_cannot_be_calibrated_yet(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="one input"):
        load_calibration(tmp_path, SPEC, INPUTS * 2)
