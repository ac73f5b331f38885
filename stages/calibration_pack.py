"""Calibration images in a bundle: a controller fits parts with them for stages that nobody thought of before."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.bundle import Bundle
from stages.calibration import CalibrationData, load_calibration
from stages.graph import ModelGraph
from stages.manifest import CALIBRATION_FILE

MAX_IMAGES = 3000
MAX_BYTES = 4 * 2**20


def pack_calibration(data: CalibrationData) -> bytes:
    """The first images, as they came (JPEG or PNG files, pixels, or the model's input), with their labels if they have
    any: at most 3,000 images and 4 MB, but always one. `load_calibration` reads the result."""
    items: list[Any] = []
    size_bytes = 0
    for index in range(min(data.count, MAX_IMAGES)):
        item = data.raw(index)
        size_bytes += len(item) if isinstance(item, bytes) else item.nbytes
        if items and size_bytes > MAX_BYTES:
            break
        items.append(item)
    arrays: dict[str, NDArray[Any]] = {}
    if isinstance(items[0], bytes):
        arrays["jpeg"] = np.frombuffer(b"".join(items), np.uint8)
        arrays["offsets"] = np.cumsum([0, *(len(item) for item in items)], dtype=np.int64)
    else:
        arrays["images"] = np.stack(items)
    if data.labels is not None:
        arrays["labels"] = data.labels[: len(items)]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def load_bundle_calibration(bundle: Bundle, graph: ModelGraph | None = None) -> CalibrationData | None:
    """The calibration images of a bundle; None where it has none. `graph` is its model, if it is loaded already.

    Raises:
        CalibrationError: they do not fit the model.
    """
    if CALIBRATION_FILE not in bundle.manifest.files:
        return None
    graph = graph or ModelGraph.load(bundle.model_path, shapes=bundle.manifest.shapes or None)
    return load_calibration(bundle.path(CALIBRATION_FILE), bundle.manifest.input, graph.inputs)
