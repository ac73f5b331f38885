"""Routes as they travel, from plans and from ways around failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from broker.codecs import Codec
from broker.control import BlobRef, PartRef, Route, RouteHop
from planner.codec import NONE
from planner.part import Part
from recovery.options import Option, Placed

Models = Mapping[str, BlobRef]
"""Part name to the file of its sub-model."""

CodecOf = Callable[[int, str, str], str]
"""What the activation of a cut goes through from one node to another."""


def no_codec(_cut: int, _source: str, _target: str) -> str:
    """Activations travel as they are."""
    return NONE


def part_ref(part: Part, models: Models) -> PartRef:
    return PartRef(part=part.name, first_block=part.first_block, end_block=part.end_block, model=models[part.name])


def plan_route(
    hops: Sequence[Placed],
    models: Models,
    *,
    epoch: int,
    head: str,
    standby_head: str,
    expected_accuracy: float | None,
    codecs: Mapping[int, str] | None = None,
) -> Route:
    """The route of a plan's stages. `codecs`: by the cuts at which they begin; none where nothing is said."""
    used = codecs or {}
    return Route(
        epoch=epoch,
        blocks=hops[-1].part.end_block,
        hops=_hops(hops, models, lambda cut, _source, _target: used.get(cut, NONE)),
        head=head,
        standby_head=standby_head,
        expected_accuracy=expected_accuracy,
    )


def bridge_route(option: Option, models: Models, *, epoch: int, standby_head: str, codec: CodecOf = no_codec) -> Route:
    """The route of a way around a failure; what its results will say comes from its parts."""
    assert option.technique != "repartition"  # noqa: S101 - that one has no hops
    return Route(
        epoch=epoch,
        blocks=option.hops[-1].part.end_block,
        hops=_hops(option.hops, models, codec),
        head=option.head or option.hops[0].node,
        standby_head=standby_head,
        technique=option.technique,
        exit=next((hop.part.name for hop in option.hops if hop.part.technique == "exit"), ""),
        expected_accuracy=option.accuracy,
    )


def _hops(placed: Sequence[Placed], models: Models, codec: CodecOf) -> tuple[RouteHop, ...]:
    made = []
    for index, spot in enumerate(placed):
        used = codec(spot.part.first_block, placed[index - 1].node, spot.node) if index else NONE
        # The names are those of the bundle, which has no other ones.
        made.append(RouteHop(node=spot.node, part=part_ref(spot.part, models), codec=cast("Codec", used)))
    return tuple(made)
