"""The manifest of a bundle: `manifest.json`, format 1. Read and written at the edge, so these are pydantic models.

Every model forbids unknown keys: a misspelt key is an error with its path, never silently ignored. Sequences are tuples
so that a loaded manifest cannot be changed by accident.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from planner.chain import SecondsSource

FORMAT: Final = 1
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
CALIBRATION_FILE = "calibration.npz"
DEFAULT_SCALE = 1 / 255

Task = Literal["classify", "tensors"]
PartTechnique = Literal["exit", "stand-in", "skip", "standby"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1, le=65535)]


def wilson_interval(correct: int, images: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927, JASA 22:209); z = 1.96 gives 95 %.

    With p = correct / images and n = images: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    It stays inside [0, 1] and is right for proportions near 1, where the normal interval is not.

    Raises:
        ValueError: images is not positive, or correct is not in 0..images.
    """
    if images <= 0 or not 0 <= correct <= images:
        raise ValueError(f"{correct} of {images} is no proportion")
    p, n = correct / images, images
    centre = p + z * z / (2 * n)
    reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    denominator = 1 + z * z / n
    # At p = 0 and p = 1 the bound is exact, but rounding would put it beside the value.
    low = 0.0 if correct == 0 else (centre - reach) / denominator
    high = 1.0 if correct == images else (centre + reach) / denominator
    return low, high


Seconds = Annotated[float, Field(ge=0)]


class Edge(BaseModel):
    """What all parts of the manifest share."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class ImageInput(Edge):
    """The model's only input is an image: value = (pixel * scale - mean) / std, per channel; pixels are 0..255.

    Attributes:
        name: the input's name in the graph.
        channels: 1 (greyscale) or 3 (RGB).
        height, width: in pixels.
        layout: order of the dimensions in the tensor; N is the batch.
        scale: what a pixel is multiplied by.
        mean, std: one number per channel; empty means 0 and 1.
        resize: `exact` refuses an image of another size, `bilinear` resizes it (the aspect ratio is not kept).
    """

    kind: Literal["image"] = "image"
    name: str
    channels: Literal[1, 3]
    height: Size
    width: Size
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    scale: Annotated[float, Field(gt=0)] = DEFAULT_SCALE
    mean: tuple[float, ...] = ()
    std: tuple[Annotated[float, Field(gt=0)], ...] = ()
    resize: Literal["exact", "bilinear"] = "bilinear"

    @model_validator(mode="after")
    def _one_number_per_channel(self) -> Self:
        for field in ("mean", "std"):
            count = len(getattr(self, field))
            if count not in (0, self.channels):
                raise ValueError(f"{field} has {count} numbers, the image has {self.channels} channels")
        return self


class TensorInput(Edge):
    """The model takes tensors as they are: frames are `.npy` bytes (one input) or tensor messages."""

    kind: Literal["tensor"] = "tensor"
    names: Annotated[tuple[str, ...], Field(min_length=1)]


InputSpec = ImageInput | TensorInput


class OutputSpec(Edge):
    """The graph's outputs, in its order.

    Attributes:
        names: the outputs' names; a classifier has one.
        softmax: whether softmax must still be applied to get probabilities.
    """

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    softmax: bool = False

    @property
    def name(self) -> str:
        """The first output: the only one of a classifier."""
        return self.names[0]


class Accuracy(Edge):
    """Top-1 accuracy of the whole model, as measured, or predicted where there were no images.

    Attributes:
        value: share of right answers, 0..1.
        images: how many were measured; 0 of what is predicted.
        labelled: True: against labels. False: agreement with the whole model, where there are no labels.
        low, high: 95 % interval of `value`: Wilson's; of a prediction that of `planner.accuracy`.
        predicted: True: nothing was measured. Left out of the file where False.
    """

    value: Annotated[float, Field(ge=0, le=1)]
    images: Annotated[int, Field(ge=0)]
    labelled: bool = True
    low: Annotated[float, Field(ge=0, le=1)]
    high: Annotated[float, Field(ge=0, le=1)]
    predicted: bool = False

    @model_validator(mode="after")
    def _images_or_prediction(self) -> Self:
        if self.predicted != (self.images == 0):
            raise ValueError("an accuracy is measured on images, or predicted without any")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        if not self.predicted:
            written.pop("predicted")  # a bundle that was measured keeps its version
        return written

    @classmethod
    def measured(cls, *, correct: int, images: int, labelled: bool = True) -> Accuracy:
        low, high = wilson_interval(correct, images)
        return cls(value=correct / images, images=images, labelled=labelled, low=low, high=high)


HeldOut = Accuracy
"""Accuracy of the healthy network on the very images on which the parts were measured: 1 where they have no labels."""


class PartRecord(Edge):
    """What can take the place of a run of blocks, see `planner.part`.

    Attributes:
        technique: `exit`, `stand-in`, `skip` (the identity) or `standby` (the blocks themselves).
        first_block, end_block: the blocks [first_block, end_block); those of an exit reach to the last.
        variant: tells parts of one technique apart: `small`, `medium`, `large`; `int8`, `int4`; may be empty.
        file: the ONNX file in the bundle; None where it is made from the model: skip and standby.
        memory_bytes: of the weights.
        peak_bytes: of the working set for one frame.
        flops: for one frame.
        accuracy: of the whole network with this part in place; None where it was not measured.
    """

    technique: PartTechnique
    first_block: Annotated[int, Field(ge=0)]
    end_block: Annotated[int, Field(ge=1)]
    variant: str = ""
    file: str | None = None
    memory_bytes: Annotated[int, Field(ge=0)]
    peak_bytes: Annotated[int, Field(ge=0)]
    flops: Annotated[int, Field(ge=0)]
    accuracy: Accuracy | None = None

    @model_validator(mode="after")
    def _has_blocks(self) -> Self:
        if self.first_block >= self.end_block:
            raise ValueError(f"a part of blocks [{self.first_block}, {self.end_block}) is empty")
        return self


class NodeProfile(Edge):
    """What the model takes on one node, for one frame.

    Attributes:
        source: where `block_seconds` come from, see `planner.chain`.
        block_seconds: one number per block.
        part_seconds: by name of a part (`exit:4-17`), measured where it could be, else predicted.
    """

    source: SecondsSource
    block_seconds: tuple[Seconds, ...]
    part_seconds: dict[str, Seconds] = Field(default_factory=dict)


class CodecLoss(Edge):
    """Accuracy that a codec costs at every cut at once.

    Attributes:
        value: share of images; below 0: with the codec it is more accurate.
        low, high: its 95 % interval.
        images: how many were measured.
        labelled: True: of right answers. False: of answers that are the whole network's own.
    """

    value: Annotated[float, Field(ge=-1, le=1)]
    low: Annotated[float, Field(ge=-1, le=1)]
    high: Annotated[float, Field(ge=-1, le=1)]
    images: Annotated[int, Field(ge=1)]
    labelled: bool = True


MeasuredCodec = Literal["zstd", "fp16", "fp16+zstd", "int8", "int8+zstd"]
"""Of `broker.codecs`, but `none`."""

Ratio = Annotated[float, Field(gt=0)]


class CodecRecord(Edge):
    """What a codec does to the activation of every cut, see `planner.codec`.

    Attributes:
        codec: `zstd`, `fp16`, `fp16+zstd`, `int8` or `int8+zstd`.
        ratio: B + 1 numbers: bytes after / before.
        encode_s_per_byte, decode_s_per_byte: B + 1 numbers each, per byte before.
        loss: None where it was not measured, or nothing is lost.
        flops_per_s: of the machine that measured.
    """

    codec: MeasuredCodec
    ratio: tuple[Ratio, ...]
    encode_s_per_byte: tuple[Seconds, ...]
    decode_s_per_byte: tuple[Seconds, ...]
    loss: CodecLoss | None = None
    flops_per_s: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _one_number_per_cut(self) -> Self:
        if not len(self.ratio) == len(self.encode_s_per_byte) == len(self.decode_s_per_byte):
            raise ValueError("ratio, encode_s_per_byte and decode_s_per_byte need one number for each cut")
        return self


class FileRecord(Edge):
    """What a file of the bundle must be: its SHA-256 (64 hex digits) and its size in bytes."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Source(Edge):
    """Where the model and the data come from, and under which licence."""

    text: str
    licence: str | None = None


class Manifest(Edge):
    """Everything about a bundle except the bytes of its files.

    Attributes:
        format: version of this format; a reader refuses another one.
        name: of the model; letters, digits, `_` and `-`, so that it can be part of a subject.
        version: short hash of the content, see `content_version`; empty only in a draft.
        task: `classify`: one output with a score per class; `tensors`: the outputs are published as they are.
        model: the model's file, relative to the bundle.
        labels: one per class; None: the label of class i is "i".
        shapes: what was given for open dimensions of the inputs: input name to its full shape, one frame.
        input, output: how a frame becomes the model's input, and what comes out.
        accuracy: measured on labelled calibration data; None if it never was.
        parts: what can replace blocks that are lost; empty where there was no calibration data.
        held_out: the healthy network on the images on which the parts were measured; None where they were not.
        codecs: what codecs do to activations; empty where there was no calibration data.
        profile: node name to what the model takes there; empty where nothing was profiled.
        files: relative POSIX path to its record; every file of the bundle except the manifest. Files in the folder
            that are not listed (a README) are not part of the bundle.
        source: origin and licence.
    """

    format: Literal[1] = FORMAT
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
    version: Annotated[str, Field(max_length=64)] = ""
    task: Task
    model: str = MODEL_FILE
    labels: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    shapes: dict[str, tuple[Annotated[int, Field(ge=1)], ...]] = Field(default_factory=dict)
    input: Annotated[InputSpec, Field(discriminator="kind")]
    output: OutputSpec
    accuracy: Accuracy | None = None
    parts: tuple[PartRecord, ...] = ()
    held_out: HeldOut | None = None
    codecs: tuple[CodecRecord, ...] = ()
    profile: dict[str, NodeProfile] = Field(default_factory=dict)
    files: dict[str, FileRecord] = Field(default_factory=dict)
    source: Source | None = None

    def label(self, index: int) -> str:
        """The label of class `index`, or the index itself when there are no labels."""
        return str(index) if self.labels is None else self.labels[index]

    def to_json(self) -> str:
        """The text of `manifest.json`, the same for the same manifest."""
        return self.model_dump_json(indent=2) + "\n"


def content_version(manifest: Manifest) -> str:
    """Twelve hex digits: SHA-256 of the manifest without its version (the files are in it by their hashes)."""
    text = manifest.model_copy(update={"version": ""}).to_json()
    return hashlib.sha256(text.encode()).hexdigest()[:12]
