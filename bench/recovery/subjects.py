"""The subjects of this benchmark: bundles with fitted parts, and labelled images that no fit and no measurement of the
bundle has seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.prepared import RESNET32, Unseen, prepared, unseen
from bench.subjects import Subject, load
from stages.graph import ModelGraph
from understudy.data import digits_frames

FITTED_FOR = (3, 4)
"""Numbers of nodes whose plans' stages get parts."""


def open_subject(name: str, scratch: Path) -> tuple[Subject, Unseen]:
    """Raises MissingSubjectError where its data is not here."""
    subject = load(name, scratch)
    if name == "digits":
        inputs = np.concatenate([next(iter(frame.values())) for frame in subject.inputs])
        return subject, Unseen(inputs=inputs, labels=digits_frames()[1])
    bundle = prepared(RESNET32, FITTED_FOR)
    graph = ModelGraph.load(bundle.model_path)
    return replace(subject, bundle=bundle, served={"bundle": bundle.folder}), unseen(bundle, graph)
