"""The subjects of this benchmark: bundles with fitted parts, and labelled images that no fit and no measurement of the
bundle has seen."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.subjects import IMAGENET, Subject, data_file, load
from stages.bundle import Bundle, write_bundle
from stages.calibration import CalibrationData, load_calibration
from stages.description import class_count, describe
from stages.fitting.activations import Sample
from stages.graph import ModelGraph
from understudy.data import digits_frames
from understudy.fitting import fit_for_bundle, planned_stages

FIT_IMAGES = 2000
HELD_OUT_IMAGES = 4000
FITTED_FOR = (3, 4)
"""Numbers of nodes whose plans' stages get parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """Images as the model's input, (N, ...), and their labels."""

    inputs: NDArray[Any]
    labels: Sequence[int]


def open_subject(name: str, scratch: Path) -> tuple[Subject, Unseen]:
    """Raises MissingSubjectError where its data is not here."""
    if name == "digits":
        subject = load(name, scratch)
        inputs = np.concatenate([next(iter(frame.values())) for frame in subject.inputs])
        return subject, Unseen(inputs=inputs, labels=digits_frames()[1])
    plain = load("resnet32", scratch)
    folder = cached_resnet32(plain)
    bundle = Bundle.load(folder)
    graph = ModelGraph.load(bundle.model_path)
    sample = Sample.of(_images(graph, plain, "cifar10_test_public.npz").subset(np.arange(HELD_OUT_IMAGES, 8000)))
    assert sample.labels is not None
    subject = replace(plain, bundle=bundle, served={"bundle": folder})
    return subject, Unseen(inputs=sample.inputs, labels=sample.labels.tolist())


def cached_resnet32(plain: Subject) -> Path:
    """A bundle with parts, as `understudy prepare` makes it; kept for the next run."""
    path = data_file("resnet32_cifar10_jpeg.onnx")
    recipe = f"{FIT_IMAGES} {HELD_OUT_IMAGES} {FITTED_FOR}".encode()
    key = hashlib.sha256(path.read_bytes() + recipe).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"understudy-bench-cache-{os.getuid()}" / f"resnet32-{key}"
    if folder.exists():
        return folder
    graph = ModelGraph.load(path)
    draft = describe(graph, name="resnet32", labels=plain.bundle.manifest.labels, normalisation=IMAGENET)
    stages = planned_stages(graph, FITTED_FOR, single=False)
    prepared = fit_for_bundle(
        graph,
        draft,
        _images(graph, plain, "cifar10_train.npz", FIT_IMAGES),
        _images(graph, plain, "cifar10_test_public.npz", HELD_OUT_IMAGES),
        stages=stages,
        exits=sorted({first for first, _ in stages}),
    )
    write_bundle(folder, prepared.draft, model_path=path, extra_files=prepared.files)
    return folder


def _images(graph: ModelGraph, plain: Subject, name: str, most: int | None = None) -> CalibrationData:
    manifest = plain.bundle.manifest
    return load_calibration(
        data_file(name),
        manifest.input,
        graph.inputs,
        labels=manifest.labels,
        class_count=class_count(graph.outputs),
        max_images=most,
    )
