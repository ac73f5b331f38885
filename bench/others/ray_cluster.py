"""A Ray of this machine alone, and the actor that both ways of using it run."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.harness import children
from bench.others.stage import Stage, scores_of
from bench.others.work import Scores, Work, open_work
from broker.wire import Tensor

STORE_BYTES = 512 << 20
"""Of shared memory, for what is under way; some 100 MB are needed for ResNet-50."""

ANSWER_S = 30.0


class RayStage:
    """An actor. Numpy arrays of more than 100 kB are read in place from shared memory; smaller ones travel in the call.

    Ray imports it by name, so it has to be importable in its workers.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._work = open_work(folder)
        self._stage = Stage(self._work, number)
        self._last = number == self._work.stages - 1

    def pid(self) -> int:
        return os.getpid()

    def run(self, given: bytes | memoryview | Mapping[str, Tensor]) -> Mapping[str, Tensor] | Scores:
        """A frame, or the tensors of the stage before; what comes out is tensors, or of the last stage scores."""
        tensors = given if isinstance(given, Mapping) else self._stage.decode(given)
        made = self._stage.run(tensors)
        return scores_of(self._work, made) if self._last else made


@contextmanager
def cluster(work: Work) -> Iterator[tuple[list[Any], list[int]]]:
    """Start Ray and an actor for each stage, with one CPU each; gives the actors and their processes. Ray must not have
    been imported before: it reads the environment then.

    Nothing is reported to anybody, there is no dashboard, and what Ray writes is removed. It listens on all addresses
    of the machine, hence a token of its own. Its workers have the priority of everybody else: Ray's own choice, less
    than that, would be a handicap on a busy machine.
    """
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),  # or else Ray writes one to the home folder
        RAY_worker_niceness="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    )
    import ray

    # Not in the folder of the work: the paths of Ray's sockets must not exceed 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        ray.init(
            num_cpus=work.stages,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=STORE_BYTES,
            _temp_dir=folder,
        )
        try:
            actor: Any = ray.remote(num_cpus=1)(RayStage)
            actors = [actor.remote(work.folder, number) for number in range(work.stages)]
            yield actors, ray.get([one.pid.remote() for one in actors])
        finally:
            pids = _descendants(os.getpid())
            ray.shutdown()
            _remove_semaphores(pids)


def processes(actor_pids: Sequence[int]) -> dict[str, int]:
    """All processes below this one by role: the actors, and Ray's own."""
    pids = {"client": os.getpid()}
    for pid in sorted(_descendants(os.getpid())):
        number = actor_pids.index(pid) + 1 if pid in actor_pids else None
        pids[f"ray {pid}" if number is None else f"stage{number}"] = pid
    return pids


def _remove_semaphores(pids: Collection[int]) -> None:
    """Those that Ray's processes have named after themselves: a compiled graph has two for each buffer, and leaves
    them behind."""
    for kind in ("hdr", "obj"):
        for path in Path("/dev/shm").glob(f"sem.{kind}*-*"):  # noqa: S108 - where Linux has them
            if path.name.removeprefix(f"sem.{kind}").partition("-")[0] in map(str, pids):
                path.unlink(missing_ok=True)


def _descendants(pid: int) -> set[int]:
    below = children(pid)
    return below.union(*(_descendants(child) for child in below))
