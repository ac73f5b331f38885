"""The way of the frames of one epoch, as the head sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from broker.activation import Activation
from broker.control import BlobRef
from stages.flow import Flow
from stages.results import Provenance
from stages.spec import PipelineSpec

Send = Callable[[Activation], Awaitable[None]]
"""Sends an activation of cut 0 to the first stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What the head needs in order to send frames on an epoch's route, and to make results of what comes back.

    Attributes:
        model: which specification this is: frames that were decoded for another are decoded anew.
        provenance: what results of this epoch say of how they came about.
    """

    epoch: int
    model: BlobRef
    spec: PipelineSpec
    flow: Flow
    provenance: Provenance
    send: Send
