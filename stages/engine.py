"""onnxruntime behind a small door: load a sub-model, run it, and keep its errors to itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from broker.wire import Tensor
from stages.errors import EngineError, FrameError
from stages.tensor import TensorSpec

PROVIDERS: Mapping[str, str] = {
    "CPU": "CPUExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "TensorRT": "TensorrtExecutionProvider",
    "OpenVINO": "OpenVINOExecutionProvider",
    "ROCm": "ROCMExecutionProvider",
    "CoreML": "CoreMLExecutionProvider",
    "DirectML": "DmlExecutionProvider",
    "XNNPACK": "XnnpackExecutionProvider",
    "QNN": "QNNExecutionProvider",
    "ACL": "ACLExecutionProvider",
}
"""Short names of execution providers. Others can be given by onnxruntime's own name."""

ort.set_default_logger_severity(4)


def resolve_providers(names: Sequence[str]) -> list[str]:
    """onnxruntime's names for `names`, in order of preference; CPU is the last resort of every list.

    Raises:
        EngineError: this machine's onnxruntime does not have one of them.
    """
    available = ort.get_available_providers()
    short = {full: name for name, full in PROVIDERS.items()}
    resolved = []
    for name in names:
        full = next((full for key, full in PROVIDERS.items() if key.lower() == name.lower()), name)
        if full not in available:
            has = ", ".join(short.get(provider, provider) for provider in available)
            raise EngineError(
                f"execution provider '{name}' is not in this machine's onnxruntime {ort.__version__} (it has: {has}): "
                f"install the onnxruntime package that has it, or choose another with --provider"
            )
        resolved.append(full)
    if "CPUExecutionProvider" not in resolved:
        resolved.append("CPUExecutionProvider")
    return resolved


def session_options(threads: int = 1) -> ort.SessionOptions:
    """How every stage is run: with so many threads for one inference, at onnxruntime's default optimisation."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Planned memory saves nothing measurable in time, and takes up to twice the memory.
    options.enable_mem_pattern = False
    # Spinning threads burn a core while the pipeline is idle, and steal it from other stages while it is not.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class Engine:
    """One loaded sub-model. `run` blocks and is called from a worker thread; it may be called from one at a time."""

    def __init__(self, session: ort.InferenceSession, outputs: Sequence[TensorSpec]) -> None:
        self._session = session
        self._feeds = frozenset(item.name for item in session.get_inputs())
        computed = frozenset(item.name for item in session.get_outputs())
        self._computed = [spec.name for spec in outputs if spec.name in computed]
        self._outputs = tuple(spec.name for spec in outputs)
        self.providers: tuple[str, ...] = tuple(session.get_providers())

    @classmethod
    def load(
        cls, model: bytes, *, outputs: Sequence[TensorSpec], threads: int = 1, providers: Sequence[str] = ("CPU",)
    ) -> Engine:
        """Load a serialised ONNX model.

        Args:
            outputs: the tensors of the cut after the stage; those that the model does not compute pass through it.
            threads: of one inference.
            providers: in order of preference.

        Raises:
            EngineError: onnxruntime cannot load the model, or lacks a provider.
        """
        options = session_options(threads)
        try:
            session = ort.InferenceSession(model, options, providers=resolve_providers(providers))
        except EngineError:
            raise
        except Exception as error:  # onnxruntime raises classes of its own that share no base
            raise EngineError(f"onnxruntime cannot load the sub-model: {_first_line(error)}") from error
        return cls(session, outputs)

    def run(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the sub-model.

        Args:
            tensors: the activation of the cut before the stage.

        Returns:
            The activation of the cut after it.

        Raises:
            FrameError: onnxruntime refuses these tensors (code `failed`).
        """
        feeds = {name: tensor for name, tensor in tensors.items() if name in self._feeds}
        try:
            values = self._session.run(self._computed, feeds)
        except Exception as error:  # see load
            raise FrameError("failed", f"onnxruntime could not run the stage: {_first_line(error)}") from error
        made: dict[str, Any] = {**tensors, **dict(zip(self._computed, values, strict=True))}
        missing = [name for name in self._outputs if name not in made]
        if missing:
            raise FrameError("failed", f"the sub-model gives no tensor {missing[0]!r}")
        return {name: made[name] for name in self._outputs}

    def warm_up(self, inputs: Sequence[TensorSpec]) -> None:
        """Run once on ones, so that the first frame does not pay for allocations. What a model makes of such an
        input is its own affair: a refusal is no error."""
        try:
            self.run({spec.name: np.ones(spec.example_shape, dtype=spec.dtype) for spec in inputs})
        except FrameError:
            return


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:500]
