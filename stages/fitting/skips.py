"""Skips: the identity in the place of blocks whose input and output have the same shape (CONTINUER, section III-C)."""

from __future__ import annotations

from stages.errors import ModelError
from stages.fitting.fragment import Fragment, make_model
from stages.graph import ModelGraph


def can_skip(graph: ModelGraph, first: int, end: int) -> bool:
    """Whether the tensors of both cuts have the same types and shapes, in their order. It says nothing of accuracy."""
    before, after = graph.cuts[first].tensors, graph.cuts[end].tensors
    return [(spec.dtype, spec.shape, spec.example_shape) for spec in before] == [
        (spec.dtype, spec.shape, spec.example_shape) for spec in after
    ]


def skip_model(graph: ModelGraph, first: int, end: int) -> bytes:
    """Identity nodes from the tensors of cut `first` to those of cut `end`.

    Raises:
        ModelError: the shapes do not match.
    """
    before, after = graph.cuts[first].tensors, graph.cuts[end].tensors
    if not can_skip(graph, first, end):
        raise ModelError(
            f"blocks [{first}, {end}) of model '{graph.name}' cannot be skipped: "
            f"{_shapes(graph, first)} comes in, {_shapes(graph, end)} goes out"
        )
    fragment = Fragment(prefix="skip")
    for old, new in zip(before, after, strict=True):
        if old.name != new.name:  # what only passes through is an input and an output under one name
            fragment.op("Identity", old.name, output=new.name)
    return make_model(graph, [fragment], before, after, name=f"skip {first}..{end}")


def _shapes(graph: ModelGraph, cut: int) -> str:
    return ", ".join(f"{spec.dtype} {spec.example_shape}" for spec in graph.cuts[cut].tensors)
