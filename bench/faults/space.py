"""A small disk of its own, which can be filled: a tmpfs, where this process may mount one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from broker.errors import UnderstudyError

FILLER = "filler"
COMMAND_S = 10.0


class SpaceError(UnderstudyError):
    """No disk can be mounted here."""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A mounted tmpfs."""

    folder: Path

    @classmethod
    def mount(cls, folder: Path, *, size_bytes: int) -> Self:
        """Raises SpaceError where that is not allowed."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", str(folder))
        except (OSError, subprocess.SubprocessError) as error:
            raise SpaceError(f"no tmpfs can be mounted on {folder}: {error}") from error
        return cls(folder)

    @staticmethod
    def possible() -> bool:
        """Whether this user is root; a mount may still be refused, in a container for instance."""
        return os.geteuid() == 0

    def fill(self) -> None:
        """Leave no room."""
        with contextlib.suppress(OSError), (self.folder / FILLER).open("ab", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)

    def empty(self) -> None:
        (self.folder / FILLER).unlink(missing_ok=True)

    def unmount(self) -> None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            _run("umount", "--lazy", str(self.folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=COMMAND_S)
