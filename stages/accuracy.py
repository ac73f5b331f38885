"""Measures the top-1 accuracy of a whole model on labelled calibration data, with onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stages.calibration import CalibrationData
from stages.errors import CalibrationError, EngineError
from stages.manifest import Accuracy

BATCH = 64


def measure_accuracy(
    model_path: Path,
    data: CalibrationData,
    *,
    dynamic_batch: bool,
    on_progress: Callable[[int], None] | None = None,
) -> Accuracy:
    """Share of images whose highest score is at their label; of equal scores the first class counts.

    Args:
        model_path: a classifier with one input and one output (batch, n[, 1, 1]).
        data: labelled.
        dynamic_batch: whether 64 images may run at once.
        on_progress: is told how many images each batch had.

    Raises:
        CalibrationError: the data has no labels, or an image is not usable.
        EngineError: onnxruntime cannot load or run the model.
    """
    import onnxruntime as ort

    if data.labels is None:
        raise CalibrationError(f"'{data.path}' has no labels: accuracy cannot be measured on it")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own that share no base
        raise EngineError(f"onnxruntime cannot load '{model_path}': {error}") from error
    name = session.get_inputs()[0].name
    correct = 0
    for inputs, labels in data.batches(BATCH if dynamic_batch else 1):
        try:
            scores = np.asarray(session.run(None, {name: inputs})[0])
        except Exception as error:  # see above
            raise EngineError(f"onnxruntime cannot run '{model_path}' on '{data.path}': {error}") from error
        correct += int(np.count_nonzero(scores.reshape(len(inputs), -1).argmax(axis=1) == labels))
        if on_progress is not None:
            on_progress(len(inputs))
    return Accuracy.measured(correct=correct, images=data.count)
