"""Child processes that never outlive their parent (Linux)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO

Stream = int | IO[bytes] | None

_PR_SET_PDEATHSIG = 1


async def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdout: Stream = None,
    stderr: Stream = None,
) -> asyncio.subprocess.Process:
    """Start a child in a session of its own, killed by the kernel when this process dies, however it dies.

    Its own session: a Ctrl-C in the terminal reaches the parent alone, which then stops its children in order.
    stdin is /dev/null.

    The kernel kills the child when the *thread* that started it ends (prctl(2)): call this from a thread that lives as
    long as the child should, normally the main thread.

    Raises:
        OSError: the program cannot be started.
    """
    return await asyncio.create_subprocess_exec(
        *argv,
        env=None if env is None else dict(env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=_die_with(os.getpid()),
    )


async def terminate(process: asyncio.subprocess.Process, grace_s: float, number: int = signal.SIGTERM) -> int:
    """Ask a child to end (by the signal `number`), kill it if it has not after `grace_s`, and return its exit code.
    Idempotent."""
    if process.returncode is None:
        _signal(process, number)
    try:
        async with asyncio.timeout(grace_s):
            return await process.wait()
    except TimeoutError:
        _signal(process, signal.SIGKILL)
        return await process.wait()
    except asyncio.CancelledError:
        _signal(process, signal.SIGKILL)
        raise


def process_exists(pid: int) -> bool:
    """Whether a process with this id is there (it may belong to someone else)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    # It may end between the look at its return code and the signal.
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _die_with(parent_pid: int) -> Callable[[], None] | None:
    """What the child runs before exec. Everything that takes a lock or imports is done here, in the parent."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    kill_signal = int(signal.SIGKILL)

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, kill_signal, 0, 0, 0)
        # The parent may have died before prctl: then no signal will ever come.
        if os.getppid() != parent_pid:
            os._exit(127)

    return before_exec
