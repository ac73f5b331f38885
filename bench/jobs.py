"""Which benchmarks `python -m bench all` runs, with which arguments, and what each of them needs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT_FACTOR = 4.0
LIMIT_S = 120.0
"""A benchmark may take so many times as long as it is expected to, and this beside: it may be slow, not hang."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One benchmark.

    Attributes:
        name: of its module in `bench`.
        seconds: that the form which is run takes on two cores, about.
        arguments: of that form; without those that say where results go.
        engine: whether it needs a Docker engine.
        data: a file of `$UNDERSTUDY_DATA` that it cannot do without.
        picture: its option for a picture; empty: it draws none.
    """

    name: str
    seconds: float
    arguments: tuple[str, ...] = ()
    engine: bool = False
    data: str = ""
    picture: str = "--plot"

    @property
    def limit_s(self) -> float:
        return LIMIT_FACTOR * self.seconds + LIMIT_S

    def command(self, out: Path) -> list[str]:
        """For the Python that runs us."""
        own = ["-m", f"bench.{self.name}", *self.arguments, "--json", str(self.json(out))]
        return own + ([self.picture, str(self.plot(out))] if self.picture else [])

    def json(self, out: Path) -> Path:
        return out / f"{self.name}.json"

    def plot(self, out: Path) -> Path:
        return out / f"{self.name}.png"

    def log(self, out: Path) -> Path:
        return out / f"{self.name}.log"


_QUICK = ("--quick",)

_OF_THE_PAPER = tuple(f"--only={part}" for part in ("latency", "scheduler", "accuracy"))
"""But not `accuracy-model`, which needs histories of networks that were trained for it."""

QUICK: Sequence[Job] = (
    Job(name="planner", seconds=60, arguments=_QUICK),
    Job(name="codecs", seconds=45, arguments=_QUICK),
    Job(name="others", seconds=75, arguments=_QUICK),
    Job(name="scenarios", seconds=100, arguments=_QUICK, engine=True),
    Job(name="scaling", seconds=120, arguments=_QUICK, engine=True),
    Job(name="placement", seconds=90, arguments=_QUICK, engine=True),
)
"""Ten minutes in all."""

FULL: Sequence[Job] = (
    Job(name="planner", seconds=360),
    Job(name="memory", seconds=60, picture=""),
    Job(name="throughput", seconds=400, picture=""),
    Job(name="delivery", seconds=400, picture=""),
    Job(name="codecs", seconds=600),
    Job(name="others", seconds=600),
    Job(name="liveness", seconds=900, picture=""),
    Job(name="continuer", seconds=3600, arguments=_OF_THE_PAPER, data="mobilenetv2_cifar10.onnx"),
    Job(name="failover", seconds=240, picture=""),
    Job(name="recovery", seconds=1800, picture="--picture"),
    Job(name="fitting", seconds=900, data="resnet32_cifar10_jpeg.onnx", picture=""),
    Job(name="faults", seconds=400, picture=""),
    Job(name="scenarios", seconds=500, engine=True),
    Job(name="scaling", seconds=1800, engine=True),
    Job(name="placement", seconds=900, engine=True),
)


def choose(*, quick: bool, known: Collection[str], only: Collection[str] = ()) -> list[Job]:
    """Those that are there, in the order in which they run."""
    return [job for job in (QUICK if quick else FULL) if job.name in known and (not only or job.name in only)]
