"""Keeps frames under way in one of the other systems, counts what comes back, and looks whether it is right.

`python -m bench.others.driver SYSTEM FOLDER` serves the benchmark (see bench.asked): it starts the system for the work
in FOLDER. A request names what to do (`check`, `stream` or `singles`) and for how many
`seconds`. It ends, and the system with it, with its stdin.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TextIO

from bench.harness import agrees, cpu_of, difference, machine_busy_s
from bench.others.systems import SYSTEMS, open_system
from bench.others.work import Scores, Work, open_work
from bench.pipeline import WARM_UP_S, Streamed

LARGEST_DEVIATION = 1e-3
"""Of a score from the whole network's, absolute and relative: cuts make onnxruntime round differently."""


class Chain(Protocol):
    """A system that runs. Frames are answered in the order in which they were sent."""

    @property
    def polling(self) -> Sequence[int]:
        """Processes that use the cores also while they have nothing to do."""

    def pids(self) -> Mapping[str, int]:
        """All of its processes by role, this one among them."""

    def send(self, frame: bytes) -> None: ...

    def receive(self) -> Scores:
        """The answer to the oldest frame that has none yet; waits for it."""


class Driver:
    """Sends the work's frames in turn."""

    def __init__(self, chain: Chain, work: Work) -> None:
        self._chain = chain
        self._work = work
        self._scores: list[list[float]] = work.scores.tolist()
        self._sent = 0
        self._answered = 0

    def check(self) -> int:
        """Send every frame once; how many answers differ from the whole network's in any score."""
        wrong, count = 0, len(self._work.frames)
        for _ in range(count):
            self._fill(self._work.window)
            expected = self._work.scores[self._answered % count]
            wrong += not close(self._receive(), expected)
        self._empty()
        return wrong

    def stream(self, seconds: float) -> Streamed:
        """A slice, as `bench.pipeline.Pipeline.stream` measures it."""
        warm_s, wrong, count = time.perf_counter() + WARM_UP_S, 0, 0
        while time.perf_counter() < warm_s:
            wrong += self._step()
        pids = self._chain.pids()
        before, busy_s, started_s = cpu_of(pids), machine_busy_s(), time.perf_counter()
        ends_s = started_s + seconds
        while (now := time.perf_counter()) < ends_s or not count:
            wrong += self._step()
            count += 1
        elapsed_s = now - started_s
        used = difference(cpu_of(pids), before)
        busy_s = machine_busy_s() - busy_s
        wrong += self._empty()
        others_s = max(0.0, busy_s - sum(used.values()))
        return Streamed(frames=count, elapsed_s=elapsed_s, cpu_s=used, others_s=others_s, wrong=wrong)

    def singles(self, seconds: float) -> list[float]:
        """Microseconds from sending a frame to having its answer, one frame at a time."""
        found: list[float] = []
        self._fill(1)
        self._receive()
        ends_s = time.perf_counter() + seconds
        while time.perf_counter() < ends_s or not found:
            started_s = time.perf_counter()
            self._fill(1)
            self._receive()
            found.append((time.perf_counter() - started_s) * 1e6)
        return found

    def _fill(self, window: int) -> None:
        while self._sent - self._answered < window:
            self._chain.send(self._work.frames[self._sent % len(self._work.frames)])
            self._sent += 1

    def _step(self) -> bool:
        """Keep the window full and take one answer; whether it is wrong."""
        self._fill(self._work.window)
        scores = self._scores[self._answered % len(self._scores)]
        return not agrees(int(self._receive().argmax()), scores)

    def _receive(self) -> Scores:
        scores = self._chain.receive()
        self._answered += 1
        return scores

    def _empty(self) -> int:
        """Take what is under way; how many of it are wrong."""
        wrong = 0
        while self._answered < self._sent:
            expected = self._scores[self._answered % len(self._scores)]
            wrong += not agrees(int(self._receive().argmax()), expected)
        return wrong


def close(scores: Scores, expected: Scores) -> bool:
    """Whether every score is that of the whole network, but for rounding."""
    limits = LARGEST_DEVIATION * (1 + abs(expected))
    return scores.shape == expected.shape and bool((abs(scores - expected) <= limits).all())


def serve(chain: Chain, work: Work, requests: TextIO, answers: TextIO) -> None:
    """Until `requests` ends."""
    driver = Driver(chain, work)
    for line in requests:
        _signal(chain.polling, signal.SIGCONT)
        match json.loads(line):
            case {"do": "check"}:
                _answer(answers, {"wrong": driver.check(), "frames": len(work.frames)})
            case {"do": "stream", "seconds": float(seconds)}:
                _answer(answers, asdict(driver.stream(seconds)))
            case {"do": "singles", "seconds": float(seconds)}:
                _answer(answers, driver.singles(seconds))
            case other:
                raise ValueError(f"not a request: {other}")
        # The cores are for another system now.
        _signal(chain.polling, signal.SIGSTOP)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def _answer(answers: TextIO, value: Any) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.others.driver", description=__doc__)
    parser.add_argument("system", metavar="SYSTEM", choices=[*SYSTEMS], help=", ".join(SYSTEMS))
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the work, see bench.others.work")
    options = parser.parse_args(arguments)
    # Whatever the system prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    work = open_work(options.folder)
    system: AbstractContextManager[Chain] = open_system(options.system, work)
    with system as chain:
        serve(chain, work, sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
