"""The one place where the controller's cluster state is kept; it changes by events alone."""

from __future__ import annotations

from collections.abc import Callable

from recovery.state import ClusterState, Event, apply


class Store:
    """Attributes:
    state: what is known now.
    clock: seconds; the time that events carry.
    """

    def __init__(self, state: ClusterState, clock: Callable[[], float]) -> None:
        self.state = state
        self.clock = clock

    def apply(self, event: Event) -> None:
        self.state = apply(self.state, event)

    @property
    def now_s(self) -> float:
        return self.clock()
