"""How many frames may be in flight and in one message, chosen from the model's sizes where the user did not choose."""

from __future__ import annotations

from dataclasses import dataclass

from broker.control import FlowSettings
from stages.spec import PipelineSpec

IN_FLIGHT_BYTES = 64 << 20
"""What the activations of all frames in flight may take together, wherever they are."""

MAX_WINDOW = 256

BATCH_BYTES = 1 << 20
"""Above this size of a message, joining more frames saves nothing: the bytes cost more than the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """`window`: frames in flight in the whole pipeline. `batch`: frames in one message and one inference. `first`:
    frames in flight before it is known how long answers take (see `stages.pace`); 0: the whole window.

    The batch is at most window / (2 K) for K stages: were it larger, all frames would travel in one lump, and only one
    stage would work at a time.
    """

    window: int
    batch: int
    first: int = 0


def choose_flow(settings: FlowSettings, spec: PipelineSpec, cuts: tuple[int, ...]) -> Flow:
    """Flow for a pipeline whose stages begin at `cuts`."""
    stages = len(cuts)
    largest = max(1, *(spec.cut_bytes(cut) for cut in cuts))
    if settings.delivery == "latest":
        # What is in flight grows old: no more than keeps every stage at work.
        return Flow(window=settings.window or 2 * stages, batch=1)
    window = settings.window or min(MAX_WINDOW, max(2 * stages, IN_FLIGHT_BYTES // largest))
    if not spec.dynamic_batch:
        return Flow(window=window, batch=1, first=stages + 1)
    batch = min(settings.max_batch, window // (2 * stages), BATCH_BYTES // largest)
    return Flow(window=window, batch=max(1, batch), first=stages + 1)
