"""What a model's graph tells about its use: task, kind of input, softmax. Becomes the draft of a manifest.

A draft is a `Manifest` without version and files; `stages.bundle.write_bundle` fills both in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.errors import BundleError
from stages.manifest import DEFAULT_SCALE, ImageInput, InputSpec, Manifest, OutputSpec, Source, Task, TensorInput
from stages.tensor import TensorSpec

if TYPE_CHECKING:
    from stages.graph import ModelGraph

MAX_CLASSES = 100_000
FLOATING = ("float16", "float32", "float64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """How pixels become numbers: (pixel * scale - mean) / std; None and empty mean the default.

    Attributes:
        scale: default 1/255; 1 for a model that takes uint8 pixels.
        mean, std: one number per channel, or one for all of them.
    """

    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def is_default(self) -> bool:
        return self.scale is None and not self.mean and not self.std


def image_input(inputs: Sequence[TensorSpec], normalisation: Normalisation) -> ImageInput | None:
    """The image that the model takes, or None if its input is no image.

    The only input, 4-D, batch open or 1, floating or uint8, is an image if it has 1 or 3 channels: (batch, C, H, W), or
    else (batch, H, W, C). Open heights and widths get the size of the example shape; where nobody gave one (it is 1
    then) the size of the image is unknown, and the input is taken as a tensor.

    Raises:
        BundleError: the normalisation does not fit the number of channels, or is not finite, or std is not positive.
    """
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype not in (*FLOATING, "uint8"):
        return None
    spec = inputs[0]
    size = spec.example_shape
    if spec.shape[0] not in (None, 1):
        return None
    if spec.shape[1] in (1, 3):
        layout, (channels, height, width) = "NCHW", size[1:]
    elif spec.shape[3] in (1, 3):
        layout, (height, width, channels) = "NHWC", size[1:]
    else:
        return None
    if any(known is None and used == 1 for known, used in zip(spec.shape[1:], size[1:], strict=True)):
        return None
    scale = normalisation.scale if normalisation.scale is not None else 1.0 if spec.dtype == "uint8" else DEFAULT_SCALE
    try:
        return ImageInput.model_validate(
            {
                "name": spec.name,
                "channels": channels,
                "height": height,
                "width": width,
                "layout": layout,
                "scale": float(scale),
                "mean": _per_channel(normalisation.mean, channels),
                "std": _per_channel(normalisation.std, channels),
            }
        )
    except ValueError as error:
        raise BundleError(f"the normalisation does not fit input '{spec.name}': {_first_problem(error)}") from error


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return tuple(float(value) for value in (values * channels if len(values) == 1 else values))


def _first_problem(error: ValueError) -> str:
    """The first complaint of pydantic in one line: `std.0: Input should be greater than 0`."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    first = errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    return f"{path}: {first['msg']}" if path else str(first["msg"])


def class_count(outputs: Sequence[TensorSpec]) -> int | None:
    """n if the model can be a classifier by its outputs, else None.

    That is: a single floating output of shape (batch, n) or (batch, n, 1, 1), batch open or 1, 2 <= n <= 100,000.
    """
    if len(outputs) != 1 or outputs[0].dtype not in FLOATING:
        return None
    shape = outputs[0].shape
    if len(shape) not in (2, 4) or shape[0] not in (None, 1) or any(size != 1 for size in shape[2:]):
        return None
    classes = shape[1]
    return classes if classes is not None and 2 <= classes <= MAX_CLASSES else None


def default_task(outputs: Sequence[TensorSpec], *, is_image: bool, labels: Sequence[str] | None) -> Task:
    """Classifier or not, when nobody says: by the output's shape and the presence of labels.

    `classify` if the output has a classifier's shape (see `class_count`) and there are labels for it, or the input is
    an image; else `tensors`. A model with such an output and neither labels nor an image input may be a regression or
    an embedding: its tensors are published as they are.

    Raises:
        BundleError: there are labels, but the output is not a classifier's, or has another number of classes.
    """
    classes = class_count(outputs)
    if labels is not None:
        _check_labels(outputs, labels)
        return "classify"
    return "classify" if classes is not None and is_image else "tensors"


def _check_labels(outputs: Sequence[TensorSpec], labels: Sequence[str]) -> None:
    classes = class_count(outputs)
    if classes is None:
        raise BundleError(
            f"labels are given, but {_shapes(outputs)} is not a classifier's output, (batch, n) or (batch, n, 1, 1): "
            f"leave the labels out, the model's tensors are then published as they are"
        )
    if classes != len(labels):
        raise BundleError(f"{len(labels)} labels are given, but the model has {classes} classes: {_shapes(outputs)}")


def _shapes(outputs: Sequence[TensorSpec]) -> str:
    return ", ".join(
        f"output '{spec.name}' {spec.dtype} ({', '.join('?' if size is None else str(size) for size in spec.shape)})"
        for spec in outputs
    )


def describe(
    graph: ModelGraph,
    *,
    name: str | None = None,
    labels: Sequence[str] | None = None,
    task: Task | None = None,
    normalisation: Normalisation | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
    source: Source | None = None,
) -> Manifest:
    """The draft of a manifest for a model: what the caller says, and for the rest what its graph tells.

    Args:
        name: default: the graph's name, with characters that a subject cannot hold replaced.
        labels: one per class.
        task: default: `default_task`.
        normalisation: of the image; default: scale 1/255 alone.
        shapes: what the graph was loaded with, kept so that every reader of the bundle loads it the same.

    Raises:
        BundleError: labels, task or normalisation do not fit the model.
    """
    wanted = normalisation or Normalisation()
    image = image_input(graph.inputs, wanted)
    if image is None and not wanted.is_default:
        raise BundleError(f"a normalisation is given, but the model takes no image: inputs {_shapes(graph.inputs)}")
    chosen = task or default_task(graph.outputs, is_image=image is not None, labels=labels)
    if chosen == "tensors" and labels is not None:
        raise BundleError("labels are given for the task 'tensors': leave them out, or choose the task 'classify'")
    if chosen == "classify":
        if class_count(graph.outputs) is None:
            raise BundleError(
                f"the task 'classify' needs one output (batch, n), the model has {_shapes(graph.outputs)}"
            )
        if labels is not None:
            _check_labels(graph.outputs, labels)
    taken: InputSpec = image or TensorInput(names=tuple(spec.name for spec in graph.inputs))
    return Manifest(
        name=safe_name(name or graph.name),
        task=chosen,
        labels=None if labels is None else tuple(labels),
        shapes=dict(shapes or {}),
        input=taken,
        output=OutputSpec(
            names=tuple(spec.name for spec in graph.outputs),
            softmax=chosen == "classify" and not graph.ends_in_softmax,
        ),
        source=source,
    )


def safe_name(name: str) -> str:
    """A name that can be part of a subject: other characters become `-`, at most 63."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:63] or "model"
