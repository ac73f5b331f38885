"""Deployments that were never made, for the tests of what is said of them."""

from __future__ import annotations

from bench.deployed import Measured
from planner.plan import Stage


def deployment(
    *rates: float,
    planned: float = 10.0,
    limit: float | None = 10.5,
    busy: float = 0.4,
    faults: int = 0,
    nodes: tuple[str, ...] = ("a",),
) -> Measured:
    """One that gave these rates."""
    return Measured(
        stages=tuple(Stage(first_block=at, end_block=at + 1, node=node) for at, node in enumerate(nodes)),
        bottleneck="a -> b, 10 kB",
        planned_per_s=planned,
        planned_ms=120.0,
        link_limit_per_s=limit,
        rates=rates,
        alone_ms=(100.0, 110.0),
        loaded_ms=(300.0,),
        cpu_busy=busy,
        frames=100,
        bad={"wrong": faults, "lost": 0, "twice": 0, "errors": 0},
        window=8,
        ready_s=9.0,
        again=0,
    )
