"""Of asyncio's tasks, what several back ends need."""

from __future__ import annotations

import asyncio
from typing import Any


def drop(task: asyncio.Future[Any]) -> None:
    """Cancel what nobody waits for any more. What it ends with is taken: it may have failed in the same moment, or,
    before Python 3.12, fail in place of being cancelled, and asyncio would complain that nobody looked at that."""
    task.add_done_callback(look)
    task.cancel()


def look(task: asyncio.Future[Any]) -> None:
    """Take what a finished task has failed with, so that asyncio does not complain."""
    if not task.cancelled():
        task.exception()
