"""structlog for a process: JSON or console lines on stderr."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import Processor

from understudy.settings import Settings


def set_up_logs(settings: Settings, *, default_level: str) -> None:
    """Log to stderr; `settings.log_level` overrules the default."""
    name = (settings.log_level or default_level).upper()
    level = logging.getLevelNamesMapping().get(name, logging.INFO)
    last: Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
