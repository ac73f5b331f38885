"""The environment, read here and nowhere else.

| variable | meaning | default |
| --- | --- | --- |
| UNDERSTUDY_BROKER | broker URL for every command that takes `--broker` | none |
| UNDERSTUDY_CONTROL_BROKER | URL of the control account, with its credentials | the broker's URL |
| UNDERSTUDY_SYSTEM_BROKER | URL of the broker's system account: a controller notices crashes by it | none |
| UNDERSTUDY_LOG_FORMAT | `console` or `json` | console |
| UNDERSTUDY_LOG_LEVEL | `debug`, `info`, `warning`, `error` | info for services, warning for other commands |
| UNDERSTUDY_RUN_DIR | where `understudy up` notes what runs on this machine | in $XDG_RUNTIME_DIR, else in /tmp |
| XDG_CACHE_HOME | nodes cache sub-models in `understudy/` below it | ~/.cache |
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """See the table above."""

    broker: str | None
    control_broker: str | None
    system_broker: str | None
    log_format: str
    log_level: str | None
    run_dir: Path
    cache_dir: Path


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    values = os.environ if environment is None else environment
    runtime = values.get("XDG_RUNTIME_DIR")
    fallback = Path(tempfile.gettempdir()) / f"understudy-{os.getuid()}"
    cache = values.get("XDG_CACHE_HOME")
    return Settings(
        broker=values.get("UNDERSTUDY_BROKER") or None,
        control_broker=values.get("UNDERSTUDY_CONTROL_BROKER") or None,
        system_broker=values.get("UNDERSTUDY_SYSTEM_BROKER") or None,
        log_format=values.get("UNDERSTUDY_LOG_FORMAT") or "console",
        log_level=values.get("UNDERSTUDY_LOG_LEVEL") or None,
        run_dir=Path(values.get("UNDERSTUDY_RUN_DIR") or (Path(runtime) / "understudy" if runtime else fallback)),
        cache_dir=(Path(cache) if cache else Path.home() / ".cache") / "understudy",
    )
