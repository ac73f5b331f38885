"""Routes as they travel, from plans and from ways around failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker.control import BlobRef, PartRef, Route, RouteHop
from planner.part import Part
from recovery.options import Option, Placed

Models = Mapping[str, BlobRef]
"""Part name to the file of its sub-model."""


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
) -> Route:
    """The route of a plan's stages."""
    return Route(
        epoch=epoch,
        blocks=hops[-1].part.end_block,
        hops=_hops(hops, models),
        head=head,
        standby_head=standby_head,
        expected_accuracy=expected_accuracy,
    )


def bridge_route(option: Option, models: Models, *, epoch: int, standby_head: str) -> Route:
    """The route of a way around a failure; what its results will say comes from its parts."""
    assert option.technique != "repartition"  # noqa: S101 - that one has no hops
    return Route(
        epoch=epoch,
        blocks=option.hops[-1].part.end_block,
        hops=_hops(option.hops, models),
        head=option.head or option.hops[0].node,
        standby_head=standby_head,
        technique=option.technique,
        exit=next((hop.part.name for hop in option.hops if hop.part.technique == "exit"), ""),
        expected_accuracy=option.accuracy,
    )


def _hops(placed: Sequence[Placed], models: Models) -> tuple[RouteHop, ...]:
    return tuple(RouteHop(node=spot.node, part=part_ref(spot.part, models)) for spot in placed)
