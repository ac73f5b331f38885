"""What the pipeline is compared with: one process that runs the whole model in onnxruntime, on decoded inputs.

`python -m bench.reference SUBJECT SCRATCH` serves a benchmark: it reads one JSON request per line on stdin (the fields
of `Mode`, and `seconds`) and writes one JSON answer per line (the fields of `Measured`). A line `{"scores": true}` is
answered with the scores of every frame, run one by one. It ends with its stdin.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bench.asked import Asked
from bench.subjects import Subject, Tensors, load

WARM_UP_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """How the process uses its threads.

    Attributes:
        threads: intra-op threads of onnxruntime.
        batch: frames in one call.
        callers: Python threads that call the session at the same time; with more than one, `threads` is 1.
        spinning: onnxruntime's own default is True: its threads wait for work in a busy loop.
        decode: decode every frame first, as the pipeline's head does; batch is 1 then.
    """

    threads: int = 1
    batch: int = 1
    callers: int = 1
    spinning: bool = True
    decode: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One slice."""

    frames: int
    elapsed_s: float
    cpu_s: float

    @property
    def frames_per_s(self) -> float:
        return self.frames / self.elapsed_s


class Whole:
    """The whole model in this process."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._model = subject.bundle.model_path.read_bytes()
        self._sessions: dict[tuple[int, bool], ort.InferenceSession] = {}
        self._feeds: dict[int, list[Tensors]] = {}

    def scores(self) -> list[list[float]]:
        """Of every frame: the probabilities as the pipeline would publish them."""
        session, output = self._session(1, True), self._subject.spec.manifest.output
        rows = [session.run([output.name], feed)[0].reshape(-1).astype(np.float64) for feed in self._batches(1)]
        return [(_softmax(row) if output.softmax else row).tolist() for row in rows]

    def measure(self, mode: Mode, seconds: float) -> Measured:
        call = self._call(mode)
        _repeat(call, WARM_UP_S)
        cpu_s, started = time.process_time(), time.perf_counter()
        if mode.callers == 1:
            calls = _repeat(call, seconds)
        else:
            with ThreadPoolExecutor(mode.callers) as pool:
                calls = sum(pool.map(lambda _: _repeat(call, seconds), range(mode.callers)))
        elapsed_s = time.perf_counter() - started
        return Measured(frames=calls * mode.batch, elapsed_s=elapsed_s, cpu_s=time.process_time() - cpu_s)

    def _call(self, mode: Mode) -> Callable[[int], Any]:
        """What is repeated: the call number chooses the frame."""
        session, subject = self._session(mode.threads, mode.spinning), self._subject
        if mode.decode:
            return lambda call: session.run(None, subject.decode(subject.frames[call % len(subject.frames)]))
        feeds = self._batches(mode.batch)
        return lambda call: session.run(None, feeds[call % len(feeds)])

    def _session(self, threads: int, spinning: bool) -> ort.InferenceSession:
        key = (threads, spinning)
        if key not in self._sessions:
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.log_severity_level = 3
            options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
            self._sessions[key] = ort.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
        return self._sessions[key]

    def _batches(self, size: int) -> list[Tensors]:
        """All frames, stacked before anything is timed."""
        if size not in self._feeds:
            inputs = self._subject.inputs
            groups = [[inputs[(start + i) % len(inputs)] for i in range(size)] for start in range(0, len(inputs), size)]
            self._feeds[size] = [_stack(group) for group in groups]
        return self._feeds[size]


def _repeat(call: Callable[[int], Any], seconds: float) -> int:
    calls, deadline = 0, time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        call(calls)
        calls += 1
    return calls


def _stack(group: Sequence[Tensors]) -> Tensors:
    if len(group) == 1:
        return group[0]
    return {name: np.concatenate([tensors[name] for tensors in group]) for name in group[0]}


def _softmax(row: NDArray[np.float64]) -> NDArray[np.float64]:
    powers: NDArray[np.float64] = np.exp(row - row.max())
    powers /= powers.sum()
    return powers


class Reference(Asked):
    """The process, seen from the benchmark. Use it with `async with`."""

    def __init__(self, subject: str, scratch: Path) -> None:
        super().__init__("bench.reference", subject, str(scratch))

    async def measure(self, mode: Mode, seconds: float) -> Measured:
        return Measured(**await self.ask({**asdict(mode), "seconds": seconds}))

    async def scores(self) -> list[list[float]]:
        answer: list[list[float]] = await self.ask({"scores": True})
        return answer


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reference", description=__doc__)
    parser.add_argument("subject", metavar="SUBJECT")
    parser.add_argument("scratch", metavar="SCRATCH", type=Path, help="a folder for what the subject is made of")
    options = parser.parse_args(arguments)
    whole = Whole(load(options.subject, options.scratch))
    answer: Callable[[Any], None] = lambda value: print(json.dumps(value), flush=True)  # noqa: E731
    for line in sys.stdin:
        request = json.loads(line)
        if request.pop("scores", False):
            answer(whole.scores())
        else:
            seconds = request.pop("seconds")
            answer(asdict(whole.measure(Mode(**request), seconds)))


if __name__ == "__main__":
    main(sys.argv[1:])
