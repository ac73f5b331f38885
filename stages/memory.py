"""The memory that a stage takes in this process, and giving back what loading it took besides.

While onnxruntime loads a model it holds weights twice, as they came and as its kernels want them. The C library keeps
what is freed then: a node would stay at more than twice its weights for ever (measured: ResNet-50 239 MB, after `trim`
103 MB, for 102 MB of weights).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

ARENA_FACTOR = 1.6
"""Working memory of a running stage relative to its largest set of live tensors: onnxruntime's arena rounds up, and its
convolutions hold tensors in a second order. The largest ratio that `python -m bench.memory` has shown, rounded; it is
between 0.7 and 1.8."""


def trim() -> None:
    """Give memory that is freed but kept back to the system. Does nothing where the C library is not glibc."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def own_bytes() -> int:
    """Memory of this process that is its own, not mapped from files, in bytes; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:")), 0)


@cache
def _libc() -> Any:
    name = ctypes.util.find_library("c") if sys.platform == "linux" else None
    if name is None:
        return None
    libc = ctypes.CDLL(name)
    return libc if hasattr(libc, "malloc_trim") else None
