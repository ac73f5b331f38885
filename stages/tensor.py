"""What is known of a tensor before it exists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name, dtype and shape of a tensor of a model.

    Attributes:
        name: the tensor's name in the ONNX graph.
        dtype: a numpy dtype name (`float32`, `int64`, ...).
        shape: one entry per dimension; None where the model leaves it open (a batch, a sequence).
        example_shape: the same with every open dimension filled in for ONE frame (the batch is 1).
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    example_shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor for one frame."""
        size = np.dtype(self.dtype).itemsize
        for dimension in self.example_shape:
            size *= dimension
        return size
