"""How fast nodes compute, from what their heartbeats say: operations done over seconds busy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.control import Beat
from planner.chain import Chain

MIN_BUSY_S = 0.05
"""Before a node has been busy for so long in an epoch, its speed there says little."""


@dataclass(frozen=True, slots=True)
class _Since:
    incarnation: str
    epoch: int
    frames: int
    busy_s: float


class SpeedMeter:
    """Operations per second of each node, measured on the stages that it runs."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._since: dict[str, _Since] = {}
        self._speeds: dict[str, float] = {}

    def observe(self, beat: Beat) -> None:
        """A heartbeat. Only time in one epoch with one stage tells the speed."""
        since = self._since.get(beat.node)
        if since is None or (since.incarnation, since.epoch) != (beat.incarnation, beat.active_epoch):
            self._since[beat.node] = _Since(beat.incarnation, beat.active_epoch, beat.frames, beat.busy_s)
            return
        frames, busy_s = beat.frames - since.frames, beat.busy_s - since.busy_s
        if len(beat.stages) != 1 or frames <= 0 or busy_s < MIN_BUSY_S:
            return
        stage = beat.stages[0]
        if stage.end_block <= self._chain.blocks:
            flops = sum(self._chain.block_flops[stage.first_block : stage.end_block])
            self._speeds[beat.node] = flops * frames / busy_s

    @property
    def flops_per_s(self) -> Mapping[str, float]:
        """By node; a node that has not been busy is not there."""
        return {node: speed for node, speed in self._speeds.items() if speed > 0}
