"""What is measured: the models, their frames as a client publishes them, and the tensors that those become."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.bundle import Bundle, bundle_from_model, write_bundle
from stages.decode import decode_frame
from stages.description import Normalisation, describe
from stages.graph import ModelGraph
from stages.spec import PipelineSpec
from understudy.data import digits_bundle, digits_frames

Tensors = Mapping[str, NDArray[Any]]

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class MissingSubjectError(Exception):
    """The subject's model or data is not on this machine; the message says what is missing and where it was sought."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One model and its frames.

    Attributes:
        name: of the command line, and part of the pipelines' names.
        title: for people.
        bundle: what the pipeline serves.
        served: `UpConfig` keys that make the pipeline serve it.
        frames: distinct payloads, published in turn.
        frame_kind: what they are, for the report.
        slow: a frame takes tens of milliseconds, so that a slice must be longer.
    """

    name: str
    title: str
    bundle: Bundle
    served: Mapping[str, Any]
    frames: tuple[bytes, ...]
    frame_kind: str
    slow: bool = False

    @cached_property
    def spec(self) -> PipelineSpec:
        """Cuts and inputs. `dynamic_batch` is what the graph says; the controller also tries it out."""
        graph = ModelGraph.load(self.bundle.model_path, shapes=self.bundle.manifest.shapes or None)
        return PipelineSpec.of(graph, self.bundle.manifest, dynamic_batch=graph.dynamic_batch)

    @cached_property
    def inputs(self) -> tuple[Tensors, ...]:
        """The frames as the head decodes them: what the reference is fed with."""
        return tuple(self.decode(frame) for frame in self.frames)

    def decode(self, frame: bytes) -> Tensors:
        spec = self.spec
        return decode_frame(frame, spec.manifest.input, spec.inputs, dynamic_batch=spec.dynamic_batch)


def load(name: str, scratch: Path) -> Subject:
    """A subject by its name.

    Args:
        scratch: a folder for bundles that are made on the way.

    Raises:
        MissingSubjectError: its model or data is not here.
        KeyError: there is no subject of that name.
    """
    return SUBJECTS[name](scratch)


def data_file(name: str) -> Path:
    """A file of the data folder: $UNDERSTUDY_DATA, or shared/data beside the repository.

    Raises:
        MissingSubjectError: it is not there.
    """
    folder = Path(os.environ.get("UNDERSTUDY_DATA") or REPOSITORY.parent / "shared" / "data")
    path = folder / name
    if not path.is_file():
        raise MissingSubjectError(f"{name} is not in {folder}: set UNDERSTUDY_DATA to the folder that has it")
    return path


def _resnet50(_: Path) -> Subject:
    import onnx

    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_resnet50.onnx"
    if not path.is_file():
        raise MissingSubjectError(f"the installed onnx package has no {path.name}")
    random = np.random.default_rng(0)
    return Subject(
        name="resnet50",
        title="ResNet-50, 224 x 224 (onnx's light copy)",
        bundle=bundle_from_model(path),
        served={"model": path},
        frames=tuple(npy(random.random((1, 3, 224, 224), dtype=np.float32)) for _ in range(8)),
        frame_kind=".npy float32 (1, 3, 224, 224)",
        slow=True,
    )


def _resnet32(scratch: Path) -> Subject:
    path = data_file("resnet32_cifar10_jpeg.onnx")
    with np.load(data_file("cifar10_test_public.npz"), allow_pickle=False) as archive:
        packed, offsets = archive["jpeg"].tobytes(), archive["offsets"][:513].tolist()
        labels = tuple(str(label) for label in archive["classes"])
    folder = scratch / "resnet32"
    if not folder.exists():
        draft = describe(ModelGraph.load(path), name="resnet32", labels=labels, normalisation=IMAGENET)
        write_bundle(folder, draft, model_path=path)
    return Subject(
        name="resnet32",
        title="ResNet-32, CIFAR-10",
        bundle=Bundle.load(folder),
        served={"bundle": folder},
        frames=tuple(packed[start:end] for start, end in pairwise(offsets)),
        frame_kind="JPEG 32 x 32",
    )


def _digits(_: Path) -> Subject:
    frames, _labels = digits_frames()
    return Subject(
        name="digits",
        title="digits network, 8 x 8",
        bundle=digits_bundle(),
        served={},
        frames=tuple(frames),
        frame_kind="PNG 8 x 8",
    )


def npy(array: NDArray[Any]) -> bytes:
    """A `.npy` file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


SUBJECTS: Mapping[str, Callable[[Path], Subject]] = {
    "resnet50": _resnet50,
    "resnet32": _resnet32,
    "digits": _digits,
}
