"""Runs a subscription's handler so that its failure harms nobody else. Shared by the back ends."""

from __future__ import annotations

import asyncio

import structlog

from broker.port import Handler, Message

# isinstance with a tuple is several times as fast as with the union in the port.
BUFFER_TYPES = (bytes, bytearray, memoryview)

_log = structlog.get_logger(__name__)


async def run_handler(handler: Handler, message: Message, *, subscription: str) -> None:
    """Call the handler; log what it raises. Only the cancellation of the running task itself goes through."""
    try:
        await handler(message)
    except asyncio.CancelledError:
        # Of this task: it must end. Of something that the handler awaited: that is an error of the handler.
        task = asyncio.current_task()
        if task is not None and task.cancelling() > 0:
            raise
        _log.exception("handler_failed", subject=message.subject, subscription=subscription)
    except Exception:
        _log.exception("handler_failed", subject=message.subject, subscription=subscription)
