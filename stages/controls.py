"""Reading control messages on a node: one that is not understood is logged, and is no more than that."""

from __future__ import annotations

import structlog

from broker import control
from broker.control import Control
from broker.errors import WireError
from broker.port import Message

log = structlog.get_logger("understudy.node")


def decode(message: Message, kind: type[Control]) -> Control | None:
    """The message, or None for one that is not understood."""
    try:
        return control.decode(message.data, kind)
    except WireError as error:
        log.warning("control-malformed", kind=kind.__name__, subject=message.subject, reason=error.reason)
        return None
