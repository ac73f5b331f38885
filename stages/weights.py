"""Statistics of a network's weights, layer by layer: what its accuracy is predicted from where there is no data.

A layer is a weight of two or more dimensions (convolution, dense), as the graph has it: with batch normalisation folded
in, where the exporter did that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from stages.graph import ModelGraph

PERCENTILES = (0, 25, 50, 75, 100)
STATISTICS = ("mean", "variance", *(f"p{share}" for share in PERCENTILES))
"""CONTINUER (Majeed et al. 2022), table III."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """L layers in the order in which the network reads them.

    Attributes:
        statistics: float64 (L, 7), columns as `STATISTICS`.
        parameters: int64 (L,).
        first_layer: of each cut 0..B: how many layers are before it.
    """

    statistics: NDArray[np.float64]
    parameters: NDArray[np.int64]
    first_layer: tuple[int, ...]


def statistics_of(weights: NDArray[Any]) -> NDArray[np.float64]:
    """Mean, variance and percentiles of one layer, float64 (7,)."""
    flat = np.asarray(weights, np.float64).reshape(-1)
    return np.array([flat.mean(), flat.var(), *np.percentile(flat, PERCENTILES)])


def layer_weights(graph: ModelGraph) -> LayerWeights:
    """Of a model that is cut into blocks. A weight that several nodes read counts once in each block."""
    rows: list[NDArray[np.float64]] = []
    sizes: list[int] = []
    starts = [0]
    for block in range(len(graph.blocks)):
        model = onnx.load_model_from_string(graph.submodel(block, block + 1))
        held = {tensor.name: tensor for tensor in model.graph.initializer}
        names = dict.fromkeys(name for node in model.graph.node for name in node.input if name in held)
        for name in names:
            tensor = held[name]
            if len(tensor.dims) >= 2 and tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
                weights = onnx.numpy_helper.to_array(tensor)
                rows.append(statistics_of(weights))
                sizes.append(weights.size)
        starts.append(len(rows))
    return LayerWeights(
        statistics=np.array(rows, np.float64).reshape(-1, len(STATISTICS)),
        parameters=np.array(sizes, np.int64),
        first_layer=tuple(starts),
    )
