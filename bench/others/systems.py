"""Which systems there are, what each promises, and the packages that they need."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bench.others.work import Work

INSTALL = "pip install -e '.[bench]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One of the others, as it is set up here.

    Attributes:
        title: for tables.
        start: module and function: a context manager that takes a `Work` and gives a `bench.others.driver.Chain`.
        package: what it needs besides the project; empty: nothing.
        broken: what becomes of frames when a stage ends.
        lacks: what it does not promise.
    """

    title: str
    start: str
    package: str
    broken: str
    lacks: str

    @property
    def missing(self) -> bool:
        return bool(self.package) and find_spec(self.package) is None

    @property
    def hint(self) -> str:
        """Of one that is missing."""
        return f"the package {self.package} is not installed: {INSTALL}"


SYSTEMS: Mapping[str, System] = {
    "whole": System(
        title="one process, 1 thread",
        start="bench.others.whole:start",
        package="",
        broken="all are lost",
        lacks="no re-send, no recovery, no second machine; the model must fit into one",
    ),
    "threads": System(
        title="one process, several threads",
        start="bench.others.whole:start_pool",
        package="",
        broken="all are lost",
        lacks="as with 1 thread",
    ),
    "zeromq": System(
        title="ZeroMQ PUSH/PULL",
        start="bench.others.zeromq:start",
        package="zmq",
        broken="those in it are lost, the others wait for ever, and nobody is told",
        lacks="no re-send, no recovery, no exactly-once; TCP without TLS or passwords",
    ),
    "ray": System(
        title="Ray actors",
        start="bench.others.ray_actors:start",
        package="ray",
        broken="an error for each of them, until the program makes a new actor",
        lacks="as set up, which is Ray's default: no re-send, no recovery; at most once",
    ),
    "ray-graph": System(
        title="Ray compiled graph",
        start="bench.others.ray_graph:start",
        package="ray",
        broken="the graph is torn down: an error for each frame, until the program compiles a new one",
        lacks="no re-send, no recovery; at most once",
    ),
}
"""By the name that `bench.others.driver` takes."""

OURS_BROKEN = "the head sends them again, another node answers"
OURS_LACKS = "that a frame is computed only once; one result of it is published in any case"


def open_system(name: str, work: Work) -> AbstractContextManager[Any]:
    """A system that runs, of one that is not `missing`."""
    module, _, function = SYSTEMS[name].start.partition(":")
    system: AbstractContextManager[Any] = getattr(import_module(module), function)(work)
    return system
