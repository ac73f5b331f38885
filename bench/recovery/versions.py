"""A second version of a model whose answers cannot be taken for the first one's: its two halves of classes swapped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from stages.bundle import Bundle, write_bundle


def swapped(scores: Sequence[float]) -> Sequence[float]:
    """What the second version answers where the first one answers `scores`."""
    half = len(scores) // 2
    return (*scores[half:], *scores[:half])


def make_second(bundle: Bundle, scratch: Path) -> Bundle:
    """A bundle of the second version, without fitted parts, in a folder of `scratch`."""
    folder = scratch / f"{bundle.manifest.name}-second"
    if folder.exists():
        return Bundle.load(folder)
    model = onnx.load_model(bundle.model_path)
    output = model.graph.output[0].name
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    for node in model.graph.node:
        node.output[:] = [f"{name}/first" if name == output else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array(swapped(range(classes)), np.int64), "second/order"))
    model.graph.node.append(
        helper.make_node("Gather", [f"{output}/first", "second/order"], [output], name="second/swap", axis=1)
    )
    path = scratch / f"{bundle.manifest.name}-second.onnx"
    onnx.save_model(model, path)
    draft = bundle.manifest.model_copy(update={"parts": (), "held_out": None, "files": {}})
    return write_bundle(folder, draft, model_path=path)
