"""The model that is served, as recovery sees it: its chain, its parts and what plans it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from broker.control import BlobRef
from broker.errors import UnderstudyError
from planner.chain import Chain
from planner.part import Part
from planner.plan import Plan
from recovery.foresight import Foresight, Planner


class Measured(Protocol):
    """An accuracy, 0..1, and its 95 % interval."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class ModelSource(Protocol):
    """What the service needs of the model: its chain, and content-addressed pieces that nodes can fetch."""

    chain: Chain
    spec: BlobRef

    @property
    def part_seconds(self) -> Mapping[str, Mapping[str, float]]:
        """Part name to node to seconds of one frame, where they are known."""

    @property
    def healthy(self) -> Measured | None:
        """The accuracy of the whole network, to compare parts with."""

    def catalogue(self, plan: Plan) -> Sequence[Part]:
        """The parts that may stand by for this plan's stages."""

    async def refine(self, plan: Plan) -> int:
        """Fit parts for stages of this plan that have none, in the background. How many are new in the catalogue.
        Raises UnderstudyError."""

    async def model(self, part: Part) -> BlobRef:
        """Make the part's model and offer it to the nodes. Raises UnderstudyError."""


class UpdateError(UnderstudyError):
    """A new model is not served; the one before goes on."""


class Served:
    """A model that is served, or shall be: where its parts come from, what plans it, the plans that are made already,
    and the files of its parts."""

    def __init__(self, source: ModelSource, planner: Planner) -> None:
        self.source = source
        self.planner = planner
        self.foresight = Foresight(planner)
        self.models: dict[str, BlobRef] = {}

    async def model(self, part: Part) -> BlobRef:
        """Have the part's file made. Raises UnderstudyError."""
        ref = self.models[part.name] = await self.source.model(part)
        return ref
