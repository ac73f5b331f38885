"""Errors of the stages package: models, bundles, frames."""

from __future__ import annotations

from broker.errors import UnderstudyError


class ModelError(UnderstudyError):
    """A model file cannot be used: missing, not ONNX, no cut, an unsupported type."""


class BundleError(UnderstudyError):
    """A bundle is missing, malformed, or a file of it does not match its SHA-256."""


class CalibrationError(UnderstudyError):
    """Calibration data cannot be read or does not fit the model."""


class FrameError(UnderstudyError):
    """One frame cannot be processed. The pipeline goes on with the next.

    Attributes:
        code: a short constant: `not-an-image`, `truncated`, `bad-shape`, `bad-dtype`, `not-finite`, `empty`,
            `bad-message`, `too-large`, `overloaded`, `superseded`, `failed`, `timeout`.
        reason: a sentence for people.
    """

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{code}: {reason}")


class EngineError(UnderstudyError):
    """onnxruntime cannot load or run a sub-model, or an execution provider is not there."""
