"""Calibration data: images with or without labels, from an `.npz` file or a folder, as batches of the model's input."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.decode import check_tensors, decode_frame
from stages.errors import CalibrationError, FrameError
from stages.manifest import InputSpec
from stages.tensor import TensorSpec

SUFFIXES = (".png", ".jpg", ".jpeg")
LAYOUTS = (
    "'images' or 'x' (N, ...), or 'jpeg' or 'png' with 'offsets' (N + 1,); 'labels' (N,) and 'classes' are optional"
)
HELD_OUT_SHARE = 5
"""Where there is no other data to measure on, one image in so many is kept out of the fit for that."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationData:
    """N images; each is decoded when its batch is asked for.

    Attributes:
        path: where they come from.
        count: N, at least 1.
        labels: int64 (N,), class indices; None if the data has none.
        classes: names of the classes as the data has them, in the order of the indices; None if it has none.
        read: index to one frame's input, the model's dtype and shape with a batch of 1; raises CalibrationError.
        raw: index to what the data holds: the bytes of an image file, or an array of pixels or of the input.
    """

    path: Path
    count: int
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...] | None
    read: Callable[[int], Array]
    raw: Callable[[int], bytes | Array]

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> CalibrationData:
        """Some of the images, in the given order. Raises CalibrationError where that is none."""
        chosen = [int(index) for index in indices]
        if not chosen:
            raise CalibrationError(f"'{self.path}' has {self.count} images: too few to divide them")
        read, raw = self.read, self.raw
        return replace(
            self,
            count=len(chosen),
            labels=None if self.labels is None else self.labels[chosen],
            read=lambda index: read(chosen[index]),
            raw=lambda index: raw(chosen[index]),
        )

    def divided(self) -> tuple[CalibrationData, CalibrationData]:
        """What to fit to, and what to measure on: a fifth of the images, at random, always the same, since data may be
        sorted by class.

        Raises:
            CalibrationError: there are too few images to divide.
        """
        order = np.random.default_rng(0).permutation(self.count)
        kept = self.count // HELD_OUT_SHARE
        return self.subset(np.sort(order[kept:])), self.subset(np.sort(order[:kept]))

    def batches(self, size: int = 64) -> Iterator[tuple[Array, NDArray[np.int64] | None]]:
        """Batches in order, the last may be smaller: input (n, ...) in the model's dtype, and labels (n,) or None.

        Raises:
            CalibrationError: an image cannot be decoded or does not fit the model.
        """
        for start in range(0, self.count, size):
            stop = min(start + size, self.count)
            inputs = np.concatenate([self.read(index) for index in range(start, stop)])
            yield inputs, None if self.labels is None else self.labels[start:stop]


def load_calibration(
    path: Path | str,
    spec: InputSpec,
    inputs: Sequence[TensorSpec],
    *,
    labels: Sequence[str] | None = None,
    class_count: int | None = None,
    max_images: int | None = None,
) -> CalibrationData:
    """Open calibration data.

    An `.npz` file holds `images` or `x`: uint8 pixels (N, H, W[, C]) or the model's own input (N, C, H, W); or `jpeg`
    or `png`: uint8, all files one after another, with `offsets` int64 (N + 1,). `labels` (N,) and `classes` are
    optional. A folder holds images (unlabelled), or a folder of images for each class, its name being the class.

    Args:
        spec: how the manifest describes the input.
        inputs: the model's inputs; it must have one.
        labels: the model's labels: where all folder names are among them they decide the class, not the sorted order.
        class_count: of the model; labels of the data must be smaller.
        max_images: take the first ones (of a folder: the first ones of each class in turn).

    Raises:
        CalibrationError: says what is wrong where, and what to do.
    """
    source = Path(path)
    if len(inputs) != 1:
        raise CalibrationError(f"calibration needs a model with one input, this one has {len(inputs)}")
    if max_images is not None and max_images < 1:
        raise CalibrationError(f"{max_images} images cannot calibrate anything: take 1 or more")
    reader = _Reader(path=source, spec=spec, inputs=tuple(inputs))
    if source.is_dir():
        data = _open_folder(reader, labels, max_images)
    elif source.suffix == ".npz" and source.is_file():
        data = _open_npz(reader, max_images)
    elif source.exists():
        raise CalibrationError(f"'{source}' is neither an .npz file nor a folder of images")
    else:
        raise CalibrationError(f"there is no calibration data '{source}': give an .npz file or a folder of images")
    if data.labels is not None:
        _check_range(data, class_count)
    return data


def _check_range(data: CalibrationData, class_count: int | None) -> None:
    limit = class_count if class_count is not None else None if data.classes is None else len(data.classes)
    labels = data.labels
    if labels is None:
        return
    wrong = np.flatnonzero((labels < 0) | (labels >= (limit if limit is not None else np.iinfo(np.int64).max)))
    if wrong.size:
        first = int(wrong[0])
        raise CalibrationError(
            f"'{data.path}': the label of image {first} is {labels[first]}, but the model has classes 0 to "
            f"{(limit or 0) - 1}: is this data for another model?"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Decodes single images, and says which one it was if that fails."""

    path: Path
    spec: InputSpec
    inputs: tuple[TensorSpec, ...]

    def decode(self, payload: bytes, what: str) -> Array:
        try:
            tensors = decode_frame(payload, self.spec, self.inputs)
        except FrameError as error:
            raise CalibrationError(f"'{self.path}': {what}: {error.reason}") from error
        return tensors[self.inputs[0].name]

    def tensor(self, array: Array, what: str) -> Array:
        """An image as pixels, or the input itself."""
        if array.dtype == np.uint8:
            buffer = io.BytesIO()
            np.save(buffer, array)
            return self.decode(buffer.getvalue(), what)
        name = self.inputs[0].name
        try:
            return check_tensors({name: array}, self.inputs)[name]
        except FrameError as error:
            raise CalibrationError(f"'{self.path}': {what}: {error.reason}") from error


def _open_npz(reader: _Reader, max_images: int | None) -> CalibrationData:
    path = reader.path
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [
                name for name in archive.files if name in {"images", "x", "jpeg", "png", "offsets", "labels", "classes"}
            ]
            arrays: dict[str, Array] = {name: archive[name] for name in names}
            found = ", ".join(archive.files) or "nothing"
    except Exception as error:  # numpy and zipfile raise ValueError, OSError, BadZipFile, KeyError, zlib.error, ...
        raise CalibrationError(f"cannot read '{path}': {error}") from error
    pixels = [name for name in ("images", "x", "jpeg", "png") if name in arrays]
    if len(pixels) != 1:
        raise CalibrationError(f"'{path}' holds {found}; exactly one of these is wanted: {LAYOUTS}")
    kind = pixels[0]
    if kind in ("images", "x"):
        stack = arrays[kind]
        total = len(stack) if stack.ndim > 1 else 0

        def read(index: int) -> Array:
            return reader.tensor(stack[index], f"image {index}")

        def raw(index: int) -> bytes | Array:
            item: Array = stack[index]
            return item
    else:
        offsets = _offsets(path, arrays, kind)
        files = arrays[kind].tobytes()
        total = len(offsets) - 1

        def read(index: int) -> Array:
            return reader.decode(files[offsets[index] : offsets[index + 1]], f"image {index}")

        def raw(index: int) -> bytes | Array:
            return files[offsets[index] : offsets[index + 1]]

    labels, classes = _labels(path, arrays, total)
    count = total if max_images is None else min(total, max_images)
    if count == 0:
        raise CalibrationError(f"'{path}' holds no image: '{kind}' has the shape {arrays[kind].shape}")
    return CalibrationData(
        path=path, count=count, labels=None if labels is None else labels[:count], classes=classes, read=read, raw=raw
    )


def _offsets(path: Path, arrays: dict[str, Array], kind: str) -> list[int]:
    packed, offsets = arrays[kind], arrays.get("offsets")
    if offsets is None or offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 1:
        raise CalibrationError(f"'{path}': '{kind}' needs 'offsets', integers of shape (N + 1,)")
    if packed.dtype != np.uint8 or packed.ndim != 1:
        raise CalibrationError(f"'{path}': '{kind}' must be uint8 (bytes,), it is {packed.dtype} {packed.shape}")
    places = [int(offset) for offset in offsets]
    if any(end < start for start, end in pairwise(places)) or places[0] < 0:
        raise CalibrationError(f"'{path}': 'offsets' must not decrease")
    if places[-1] > len(packed):
        raise CalibrationError(f"'{path}': 'offsets' reach to byte {places[-1]}, but '{kind}' has {len(packed)} bytes")
    return places


def _labels(
    path: Path, arrays: dict[str, Array], total: int
) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None]:
    labels, classes = arrays.get("labels"), arrays.get("classes")
    if classes is not None and (classes.ndim != 1 or classes.dtype.kind not in "US"):
        raise CalibrationError(f"'{path}': 'classes' must be strings of shape (classes,), it is {classes.dtype}")
    names = None if classes is None else tuple(str(name) for name in classes.astype(str))
    if labels is None:
        return None, names
    if labels.dtype.kind not in "iu":
        raise CalibrationError(f"'{path}': 'labels' must be class indices, integers; they are {labels.dtype}")
    if labels.shape != (total,):
        raise CalibrationError(f"'{path}': there are {total} images, but 'labels' has the shape {labels.shape}")
    return labels.astype(np.int64), names


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _open_folder(reader: _Reader, names: Sequence[str] | None, max_images: int | None) -> CalibrationData:
    root = reader.path
    try:
        folders = sorted(item for item in root.iterdir() if item.is_dir() and not item.name.startswith("."))
        groups = [_images_in(folder) for folder in folders] if folders else [_images_in(root)]
    except OSError as error:
        raise CalibrationError(f"cannot read '{root}': {error}") from error
    classes = tuple(folder.name for folder in folders) or None
    indices = list(range(len(groups)))
    if classes is not None and names is not None and set(classes) <= set(names):
        indices = [list(names).index(name) for name in classes]
        classes = tuple(names)
    # One of each class in turn, so that the first `max_images` are spread over the classes.
    turns = zip_longest(*([(file, index) for file in group] for group, index in zip(groups, indices, strict=True)))
    found = [item for item in chain.from_iterable(turns) if item is not None][:max_images]
    if not found:
        raise CalibrationError(
            f"'{root}' holds no image ({', '.join(SUFFIXES)}): put them into it, or into one folder for each class"
        )

    def raw(index: int) -> bytes:
        file = found[index][0]
        try:
            return file.read_bytes()
        except OSError as error:
            raise CalibrationError(f"cannot read '{file}': {error}") from error

    def read(index: int) -> Array:
        file = found[index][0]
        return reader.decode(raw(index), file.name if file.parent == root else f"{file.parent.name}/{file.name}")

    labels = None if classes is None else np.array([index for _, index in found], dtype=np.int64)
    return CalibrationData(path=root, count=len(found), labels=labels, classes=classes, read=read, raw=raw)
