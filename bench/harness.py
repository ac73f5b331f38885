"""What benchmarks share: medians and ratios, the time between hops, CPU and memory of processes, JSON, how they run."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import uvloop
from rich.console import Console

from broker.errors import UnderstudyError
from understudy.emulation import load
from understudy.logs import set_up_logs
from understudy.machine import cores as cores
from understudy.machine import processor
from understudy.settings import Settings, read_settings

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Median and quartiles of repeated measurements."""

    median: float
    q1: float
    q3: float
    count: int

    @property
    def spread(self) -> float:
        """Interquartile range relative to the median: the measurement's own repeatability."""
        return (self.q3 - self.q1) / self.median if self.median else 0.0


def summarise(values: Iterable[float]) -> Summary:
    """Quartiles by linear interpolation between the sorted values (the inclusive method).

    Raises:
        ValueError: there are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("nothing was measured")
    if len(ordered) == 1:
        return Summary(median=ordered[0], q1=ordered[0], q3=ordered[0], count=1)
    q1, median, q3 = statistics.quantiles(ordered, n=4, method="inclusive")
    return Summary(median=median, q1=q1, q3=q3, count=len(ordered))


def percentile(values: Sequence[float], share: float) -> float:
    """By the nearest rank: the smallest value that at least this share of the values does not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Summary:
    """Of measurements that were taken in pairs: the ratio of each pair, then its median and quartiles. A disturbance
    that lasts longer than one round touches both sides of a pair, and cancels.

    Raises:
        ValueError: not as many of one as of the other.
    """
    return summarise(one / other for one, other in zip(ours, theirs, strict=True))


def reference_threads(stages: int, cores: int) -> int:
    """T = min(K, C): a pipeline of K stages with one thread each can compute on so many of C cores at a time."""
    return min(stages, cores)


class Hop(Protocol):
    """An entry of a result's `path`: the node took the frame at `cut`, was done at `at`, and had it for `ms`."""

    @property
    def cut(self) -> int: ...
    @property
    def at(self) -> float: ...
    @property
    def ms(self) -> float: ...


def gaps_us(path: Sequence[Hop]) -> dict[int, float]:
    """For every cut that the frame crossed between two nodes: microseconds from "done" on the one to "taken" on the
    other. Both clocks must be the same: true on one machine. Cut 0 is not among them."""
    return {later.cut: (later.at - earlier.at) * 1e6 - later.ms * 1e3 for earlier, later in pairwise(path)}


def outside_us(latency_ms: float, path: Sequence[Hop]) -> float:
    """Microseconds of a frame's latency at the head that are neither in a stage nor between two stages: decoding it,
    the way back from the last stage to the head, and making its result."""
    return (latency_ms - sum(hop.ms for hop in path)) * 1e3 - sum(gaps_us(path).values())


def crossings(stages: int) -> int:
    """Messages through the broker between nodes for each frame: K - 1 from stage to stage, and the last stage's output
    to the head. With one stage all of it is in one process."""
    return 0 if stages == 1 else stages


def cpu_per_hop_us(cpu_s_per_frame: float, one_stage_cpu_s_per_frame: float, stages: int) -> float | None:
    """CPU microseconds per frame and crossing that a pipeline of K stages uses more than one of a single stage, whose
    compute and head are the same. None for one stage."""
    hops = crossings(stages)
    return (cpu_s_per_frame - one_stage_cpu_s_per_frame) / hops * 1e6 if hops else None


def agrees(class_index: int | None, scores: Sequence[float], tolerance: float = 1e-4) -> bool:
    """Whether the class is the one that the reference scores highest; classes within `tolerance` of it are ties, since
    another batch size or cut rounds differently."""
    return class_index is not None and scores[class_index] >= max(scores) - tolerance


# ---- processes (Linux) ---------------------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    """User and system seconds of all threads of a process since its start; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def machine_busy_s() -> float:
    """Seconds that the cores of the machine were busy since it started, whoever used them."""
    busy, _ = load.cpu_times()
    return busy / _TICKS_PER_S


def rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def children(pid: int) -> set[int]:
    """The processes that `pid` started."""
    found = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.add(int(folder.name))
    return found


def cpu_of(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds by role."""
    return {role: cpu_s(pid) for role, pid in pids.items()}


def difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {role: after[role] - before[role] for role in after}


# ---- report ------------------------------------------------------------------------------------------------------


def machine(packages: Collection[str]) -> dict[str, Any]:
    """What a reader must know of the machine to compare results."""
    from importlib.metadata import version

    return {
        "cores": cores(),
        "machine": platform.machine(),
        "processor": processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
    }


def installed(package: str) -> bool:
    """Whether a distribution of that name is there."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


# ---- commands ------------------------------------------------------------------------------------------------------


def terminal(width: int = 150) -> Console:
    """A pipe has no width of its own, and tables must not be folded to 80 columns there."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=width)


def teller(console: Console, ending: str = "") -> Callable[[str], None]:
    """Says what a benchmark is about to do, with the seconds since now before it."""
    started_s = time.perf_counter()

    def tell(line: str) -> None:
        console.print(f"{time.perf_counter() - started_s:4.0f} s  {line}{ending}", style="dim")

    return tell


def with_quartiles(ratio: Summary) -> str:
    """For a table of rich."""
    return f"{ratio.median:.2f} \\[{ratio.q1:.2f}-{ratio.q3:.2f}]"


@contextmanager
def scratch() -> Iterator[tuple[Path, Settings]]:
    """A folder, and settings with a run folder of their own: nothing that runs here already is found or disturbed.
    From here on only errors are logged."""
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        settings = replace(read_settings(), broker=None, control_broker=None, run_dir=Path(folder) / "run")
        set_up_logs(settings, default_level="error")
        yield Path(folder), settings


def interruptible(work: Callable[[], int], console: Console) -> int:
    """The exit code of the work; after Ctrl-C a word in the place of a traceback."""
    try:
        return work()
    except KeyboardInterrupt:
        console.print("interrupted", style="red")
        return INTERRUPTED


def run(benchmark: Coroutine[Any, Any, bool], console: Console) -> int:
    """The exit code: 0 where everything was right, 1 where it was not, or that of what ended it: an error, Ctrl-C."""
    try:
        return interruptible(lambda: 0 if uvloop.run(benchmark) else 1, console)
    except UnderstudyError as error:
        console.print(f"[red]{error}[/]")
        return error.exit_code
