"""Data that ships with the package: the digits network and its frames, for the demo and the tests."""

from __future__ import annotations

from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.bundle import Bundle


def digits_bundle() -> Bundle:
    """The digits network (8x8 greyscale, 10 classes) as a bundle, verified.

    Raises:
        BundleError: the installation is damaged.
    """
    from stages.bundle import Bundle

    # Wheels are unpacked, so package data is a real folder; onnxruntime and the hash check need one.
    return Bundle.load(Path(str(files(__name__) / "digits")))


def digits_frames() -> tuple[list[bytes], list[int]]:
    """400 held-out digits as PNG files, and their labels; the label of frame i is i % 10.

    Raises:
        BundleError: the installation is damaged.
    """
    import numpy as np

    with np.load(digits_bundle().path("frames.npz"), allow_pickle=False) as archive:
        png, offsets, labels = archive["png"].tobytes(), archive["offsets"].tolist(), archive["labels"].tolist()
    return [png[start:end] for start, end in pairwise(offsets)], labels
