"""Bundles with parts, as `understudy prepare` makes them of the networks in the data folder, kept for the next run; and
labelled images that no fit and no measurement of a bundle has seen."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.subjects import IMAGENET, data_file
from stages.bundle import Bundle, write_bundle
from stages.calibration import CalibrationData, load_calibration
from stages.description import class_count, describe
from stages.fitting.activations import Sample
from stages.graph import ModelGraph
from stages.manifest import Manifest
from understudy.fitting import fit_for_bundle, planned_stages

TRAIN, TEST = "cifar10_train.npz", "cifar10_test_public.npz"
FIT_IMAGES = 2000
HELD_OUT_IMAGES = 4000
"""The first of the test images, on which parts are measured; the others are fresh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A classifier of CIFAR-10 in the data folder."""

    name: str
    title: str
    file: str


RESNET32 = Network(name="resnet32", title="ResNet-32", file="resnet32_cifar10_jpeg.onnx")
MOBILENETV2 = Network(name="mobilenetv2", title="MobileNetV2", file="mobilenetv2_cifar10.onnx")
NETWORKS = {network.name: network for network in (RESNET32, MOBILENETV2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """Images as the model's input, (N, ...), and their labels."""

    inputs: NDArray[Any]
    labels: Sequence[int]

    def first(self, count: int) -> Unseen:
        return Unseen(inputs=self.inputs[:count], labels=self.labels[:count])


def prepared(network: Network, nodes: Sequence[int]) -> Bundle:
    """A bundle with parts for the stages of the plans for so many nodes. Fitting them takes from half a minute (3 and 4
    nodes) to several; a bundle is kept in the temporary folder.

    Raises:
        MissingSubjectError: the network or the images are not on this machine.
    """
    path = data_file(network.file)
    recipe = f"{FIT_IMAGES} {HELD_OUT_IMAGES} {tuple(nodes)}".encode()
    key = hashlib.sha256(path.read_bytes() + recipe).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"understudy-bench-cache-{os.getuid()}" / f"{network.name}-{key}"
    if folder.exists():
        return Bundle.load(folder)
    graph = ModelGraph.load(path)
    draft = describe(graph, name=network.name, labels=class_names(), normalisation=IMAGENET)
    stages = planned_stages(graph, nodes, single=False)
    made = fit_for_bundle(
        graph,
        draft,
        images(graph, draft, TRAIN, FIT_IMAGES),
        images(graph, draft, TEST, HELD_OUT_IMAGES),
        stages=stages,
        exits=sorted({first for first, _ in stages}),
    )
    return write_bundle(folder, made.draft, model_path=path, extra_files=made.files)


def unseen(bundle: Bundle, graph: ModelGraph) -> Unseen:
    """The test images after those on which the parts were measured."""
    data = images(graph, bundle.manifest, TEST)
    sample = Sample.of(data.subset(np.arange(HELD_OUT_IMAGES, data.count)))
    assert sample.labels is not None
    return Unseen(inputs=sample.inputs, labels=sample.labels.tolist())


def class_names() -> tuple[str, ...]:
    with np.load(data_file(TEST), allow_pickle=False) as archive:
        return tuple(str(name) for name in archive["classes"])


def images(graph: ModelGraph, manifest: Manifest, name: str, most: int | None = None) -> CalibrationData:
    """A file of the data folder as the network's input; its first images, if not all."""
    return load_calibration(
        data_file(name),
        manifest.input,
        graph.inputs,
        labels=manifest.labels,
        class_count=class_count(graph.outputs),
        max_images=most,
    )
