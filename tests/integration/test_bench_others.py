"""The systems that the pipeline is compared with give the whole network's answers, and leave no process behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.asked import Asked
from bench.delivery.models import scores_of
from bench.harness import children
from bench.others.systems import SYSTEMS
from bench.others.work import prepare
from bench.subjects import load
from broker.process import process_exists


def below(pid: int) -> set[int]:
    found = children(pid)
    return found.union(*map(below, found))


def semaphores(pids: set[int]) -> set[str]:
    """In shared memory, named after one of the processes."""
    names = {path.name for path in Path("/dev/shm").iterdir()}  # noqa: S108
    return {name for name in names if any(name.startswith((f"sem.hdr{pid}-", f"sem.obj{pid}-")) for pid in pids)}


@pytest.mark.timeout(240)  # Ray starts a dozen processes
@pytest.mark.parametrize("name", list(SYSTEMS))
async def test_every_system_answers_all_frames_rightly_and_ends_with_all_of_its_processes(
    name: str, tmp_path: Path
) -> None:
    if SYSTEMS[name].missing:
        pytest.skip(SYSTEMS[name].hint)
    subject = load("digits", tmp_path)
    work = prepare(subject, scores_of(subject), cuts=(0, 1, 2), window=4, scratch=tmp_path, folder=tmp_path / "work")
    async with Asked("bench.others.driver", name, str(work.folder), grace_s=20.0) as driver:
        assert await driver.ask({"do": "check"}) == {"wrong": 0, "frames": len(subject.frames)}
        started = below(os.getpid())
        named = semaphores(started)
        streamed = await driver.ask({"do": "stream", "seconds": 0.1})
    assert (streamed["wrong"], streamed["frames"] > 0) == (0, True)
    assert started
    assert {pid for pid in started if process_exists(pid)} == set()
    assert semaphores(started) == set()
    assert bool(named) == (name == "ray-graph")
