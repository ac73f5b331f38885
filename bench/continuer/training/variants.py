"""The accuracy of a checkpoint, whole and with layers replaced, on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch

from bench.continuer.training.networks import Network
from planner.accuracy import Variant

LONGEST_SKIP = 3
QUARTERS = 4


def measure(network: Network, images: Any, labels: Any) -> list[tuple[Variant, float]]:
    """Images (n, 3, p, p) normalised, labels (n,). Share of right answers of each variant, always in the same order."""
    network.eval()
    with torch.no_grad():
        activations = [images]
        for block in network.blocks:
            activations.append(block(activations[-1]))
        places = network.first_layers()
        last = places[-1] + 1

        def right(logits: Any) -> float:
            return float((logits.argmax(dim=1) == labels).float().mean())

        found = [(Variant(technique="none"), right(network.head(activations[-1])))]
        for index, way_out in enumerate(network.exits):
            variant = Variant(technique="exit", first_layer=places[index + 1], end_layer=last)
            found.append((variant, right(way_out(activations[index + 1]))))
        for first, end in _skips(activations):
            variant = Variant(technique="skip", first_layer=places[first], end_layer=places[end])
            found.append((variant, right(_finish(network, activations[first], end))))
        for first, end in _runs(len(network.blocks)):
            for bits in (8, 4):
                with _quantised(network, first, end, bits):
                    logits = _finish(network, activations[first], first)
                found.append(
                    (Variant(technique=f"int{bits}", first_layer=places[first], end_layer=places[end]), right(logits))
                )
    return found


def _finish(network: Network, x: Any, block: int) -> Any:
    for index in range(block, len(network.blocks)):
        x = network.blocks[index](x)
    return network.head(x)


def _skips(activations: list[Any]) -> Iterator[tuple[int, int]]:
    """Runs of blocks whose input and output have the same shape."""
    blocks = len(activations) - 1
    for first in range(blocks):
        for end in range(first + 1, min(blocks, first + LONGEST_SKIP) + 1):
            if activations[first].shape == activations[end].shape:
                yield first, end


def _runs(blocks: int) -> Iterator[tuple[int, int]]:
    """Quarters, and all."""
    ends = [round(blocks * quarter / QUARTERS) for quarter in range(QUARTERS + 1)]
    yield from ((first, end) for first, end in pairwise(ends) if first < end)
    yield 0, blocks


@contextmanager
def _quantised(network: Network, first: int, end: int, bits: int) -> Iterator[None]:
    """Weights of these blocks with so many bits, one scale for each output channel (`stages.fitting.quantise`). Batch
    normalisation scales whole channels, so that it does not matter whether it is folded in before."""
    layers = [layer for index in range(first, end) for layer in network.layers_of(index)]
    kept = [layer.conv.weight.data for layer in layers]
    try:
        for layer in layers:
            weight = layer.conv.weight.data
            scale = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
            layer.conv.weight.data = torch.round(weight / scale) * scale
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.conv.weight.data = weight
