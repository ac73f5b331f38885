"""A nats-server whose disk was full.

It refuses what it cannot write, and remembers the error: to that stream it writes nothing more, and publishers get no
answer, until it is started again (seen with nats-server 2.15.1). Nothing that was stored is lost by that.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOM_BYTES = 4 << 20
"""With less, the next messages would fill the disk again."""

_FAILED = b"JetStream failed to store a msg"


class StoreWatch:
    """Of one server: reads on in its log, from where it ends now, whenever it is asked."""

    def __init__(self, *, log_file: Path, store: Path) -> None:
        self._log_file, self._store = log_file, store
        self._read_bytes = log_file.stat().st_size if log_file.exists() else 0
        self._failed = False

    def must_restart(self) -> bool:
        """Whether a message could not be stored, and there is room now. Says so once per failure."""
        self._read_on()
        if not self._failed or not self._has_room():
            return False
        self._failed = False
        return True

    def _read_on(self) -> None:
        try:
            with self._log_file.open("rb") as log:
                log.seek(self._read_bytes)
                news = log.read()
        except OSError:
            return  # it has not begun to write
        # A line that is not whole yet is read again.
        whole = news.rfind(b"\n") + 1
        self._read_bytes += whole
        self._failed = self._failed or _FAILED in news[:whole]

    def _has_room(self) -> bool:
        try:
            disk = os.statvfs(self._store)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize >= ROOM_BYTES
