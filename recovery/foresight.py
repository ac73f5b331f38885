"""New plans for failures that have not happened yet: it is known then what they bring, and they are there at once."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from planner.cluster import NodeSpec
from planner.plan import NoPlanError, Plan

MOST_S = 1.0
"""Plans are made beforehand only where that takes less in all: it takes the processor of the controller, which has
heartbeats to hear."""


class Planner(Protocol):
    """Makes a plan for the nodes that are there, in a thread; told how many plans were before it, and `quiet` where it
    is only to know what it would be. Raises NoPlanError."""

    def __call__(self, nodes: Sequence[NodeSpec], plans_before: int, *, quiet: bool = False) -> Plan: ...


class Foresight:
    """Plans for the nodes that are left where one of them is lost.

    Attributes:
        is_news: whether plans were made since they were looked at last.
    """

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._plans: dict[frozenset[NodeSpec], Plan] = {}
        self._wanted: list[frozenset[NodeSpec]] = []
        self._task: asyncio.Task[None] | None = None
        self.is_news = False

    def plan_for(self, nodes: Collection[NodeSpec]) -> Plan | None:
        """The plan for these nodes, if it is made already."""
        return self._plans.get(frozenset(nodes))

    def by_loss(self, nodes: Collection[NodeSpec]) -> Mapping[frozenset[str], Plan]:
        """The plans that are made already, by the one of these nodes that is lost."""
        self.is_news = False
        found = {frozenset({lost.name}): self.plan_for(_without(nodes, lost)) for lost in nodes}
        return {lost: plan for lost, plan in found.items() if plan is not None}

    def begin(self, nodes: Collection[NodeSpec], needed: Collection[str], *, plans_before: int, plan_s: float) -> None:
        """Have the plans made for the loss of each of these nodes that is needed, without making anything wait for it;
        what was made for others is forgotten.

        Args:
            plan_s: seconds that a plan takes, as far as is known.
        """
        wanted = [left for node in nodes if node.name in needed and (left := _without(nodes, node))]
        if self._task is not None and not self._task.done() and wanted == self._wanted:
            return  # under way
        self.stop()
        self._wanted = wanted
        self._plans = {left: plan for left, plan in self._plans.items() if left in wanted}
        missing = [left for left in wanted if left not in self._plans]
        if missing and plan_s * len(missing) <= MOST_S:
            self._task = asyncio.create_task(self._make(missing, plans_before), name="foresight")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _make(self, missing: Sequence[frozenset[NodeSpec]], plans_before: int) -> None:
        for left in missing:
            ordered = sorted(left, key=lambda node: node.name)
            try:
                self._plans[left] = await asyncio.to_thread(self._planner, ordered, plans_before, quiet=True)
            except NoPlanError:
                continue  # when it is needed it is said
            self.is_news = True


def _without(nodes: Collection[NodeSpec], lost: NodeSpec) -> frozenset[NodeSpec]:
    return frozenset(nodes) - {lost}
