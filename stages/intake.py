"""What a publisher sends becomes the model's inputs, or a `FrameError` that says why not."""

from __future__ import annotations

from broker.activation import decode_tensor_frame
from broker.errors import WireError
from broker.port import Buffer
from broker.wire import Tensor
from stages.decode import NPY_MAGIC, check_tensors, decode_frame
from stages.errors import FrameError
from stages.spec import PipelineSpec


class Intake:
    """Reads the frames of one pipeline."""

    def __init__(self, spec: PipelineSpec) -> None:
        self._spec = spec

    def read(self, payload: Buffer) -> dict[str, Tensor] | FrameError:
        """The frame's input tensors, or what is wrong with it. Never raises: one bad frame must not touch the others
        that are read with it."""
        try:
            if looks_like_msgpack(payload):
                return self._checked(decode_tensor_frame(payload)[1])
            view = memoryview(payload)
            spec = self._spec
            return decode_frame(view, spec.manifest.input, spec.inputs, dynamic_batch=spec.dynamic_batch)
        except FrameError as error:
            return error
        except WireError as error:
            return FrameError("bad-message", f"not a valid tensor message: {error.reason}")

    def _checked(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return check_tensors(tensors, self._spec.inputs, dynamic_batch=self._spec.dynamic_batch)


def looks_like_msgpack(payload: Buffer) -> bool:
    """Whether the first byte begins a msgpack array. No image begins so; a `.npy` file does (an array of 3 that starts
    with the number 78), but never a message of ours, whose first item is a map."""
    if len(payload) == 0 or NPY_MAGIC.startswith(bytes(payload[: len(NPY_MAGIC)])):
        return False
    return 0x90 <= payload[0] <= 0x9F or payload[0] in (0xDC, 0xDD)
