"""What can go wrong with an emulation."""

from __future__ import annotations

from broker.errors import UnderstudyError


class EmulationError(UnderstudyError):
    """A cluster cannot be emulated here, or not as asked; says what to do."""
