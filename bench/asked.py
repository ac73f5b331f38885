"""A process of a benchmark that does one thing at a time when it is asked: a JSON line in, a JSON line out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from broker.errors import UnderstudyError

ANSWER_TIMEOUT_S = 120.0
LINE_BYTES = 1 << 26
"""A line of scores holds every class of every frame."""


class AskedError(UnderstudyError):
    """The process has ended, or does not answer."""


class Asked:
    """Use it with `async with`: the process ends with its stdin.

    It has a session of its own: a Ctrl-C in the terminal reaches the benchmark alone, which then ends it in order.

    Args:
        module, arguments: of the command line, after `python -m`.
        grace_s: for ending by itself; then it is killed, with what it has started and left in its session.
    """

    def __init__(self, module: str, *arguments: str, grace_s: float = 5.0) -> None:
        self._module = module
        self._arguments: Sequence[str] = arguments
        self._grace_s = grace_s
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            *self._arguments,
            stdin=pipe,
            stdout=pipe,
            limit=LINE_BYTES,
            start_new_session=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            async with asyncio.timeout(self._grace_s):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def hang_up(self) -> None:
        """Have it end, and do not wait for it: for several that are to end at the same time."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    async def ask(self, request: dict[str, Any]) -> Any:
        """Its answer.

        Raises:
            AskedError: there is none.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        ended = AskedError(f"{self._module} has ended; its stderr says why")
        if process.returncode is not None:  # uvloop refuses to write then, asyncio does not
            raise ended
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                line = await process.stdout.readline()
        except TimeoutError:
            raise AskedError(f"{self._module} does not answer within {ANSWER_TIMEOUT_S:.0f} s") from None
        if not line:
            raise ended
        return json.loads(line)
