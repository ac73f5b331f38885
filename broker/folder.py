"""Temporary folders of processes that may be killed: what such a process has left, the next one removes.

A folder's owner holds a lock on a file in it as long as it lives; the kernel releases the lock whichever way it ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_LOCK_FILE = "lock"


class TemporaryFolder:
    """Made by `make`; for this user alone. Gone after `remove`, or with this object, or with the process."""

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        self.path = path
        self._remove = weakref.finalize(self, _remove, path, lock)

    @classmethod
    def make(cls, prefix: str) -> TemporaryFolder:
        """A new one of this prefix; those that killed processes have left are removed."""
        remove_stale(prefix)
        path = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))
        # Locked before it has the name that remove_stale looks for.
        unlocked = path / f"{_LOCK_FILE}.new"
        lock = unlocked.open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(path / _LOCK_FILE)
        return cls(path, lock)

    def remove(self) -> None:
        """Idempotent."""
        self._remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


def remove_stale(prefix: str, parent: Path | None = None) -> None:
    """Remove the folders of this prefix whose owner was killed, and no others: a living owner holds its folder's
    lock."""
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{prefix}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            # A folder without a lock file is being made by someone just now.
            with (folder / _LOCK_FILE).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


def _remove(path: Path, lock: IO[bytes]) -> None:
    shutil.rmtree(path, ignore_errors=True)
    lock.close()
