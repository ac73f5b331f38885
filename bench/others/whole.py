"""The whole network in one process: one frame after the other, or a few threads that share a session."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from bench.harness import cores, reference_threads
from bench.others.stage import scores_of
from bench.others.work import Scores, Work
from stages.decode import decode_frame
from stages.engine import Engine


class Network:
    """Decodes and runs."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._engine = Engine.load(work.model_path.read_bytes(), outputs=work.spec.outputs)

    def answer(self, frame: bytes) -> Scores:
        spec = self._work.spec
        tensors = decode_frame(frame, spec.manifest.input, spec.inputs, dynamic_batch=spec.dynamic_batch)
        return scores_of(self._work, self._engine.run(tensors))


class Single:
    """A frame waits until its answer is wanted: there is nobody else to compute it."""

    polling: Sequence[int] = ()

    def __init__(self, network: Network) -> None:
        self._network = network
        self._frames: deque[bytes] = deque()

    def pids(self) -> Mapping[str, int]:
        return {"client": os.getpid()}

    def send(self, frame: bytes) -> None:
        self._frames.append(frame)

    def receive(self) -> Scores:
        return self._network.answer(self._frames.popleft())


class Pool:
    """T threads, each with a frame of its own: onnxruntime lets go of the interpreter while it computes."""

    polling: Sequence[int] = ()

    def __init__(self, network: Network, executor: ThreadPoolExecutor) -> None:
        self._network = network
        self._executor = executor
        self._futures: deque[Future[Scores]] = deque()

    def pids(self) -> Mapping[str, int]:
        return {"client": os.getpid()}

    def send(self, frame: bytes) -> None:
        self._futures.append(self._executor.submit(self._network.answer, frame))

    def receive(self) -> Scores:
        return self._futures.popleft().result()


@contextmanager
def start(work: Work) -> Iterator[Single]:
    yield Single(Network(work))


@contextmanager
def start_pool(work: Work) -> Iterator[Pool]:
    """With as many threads as the pipeline can use of this machine's cores."""
    with ThreadPoolExecutor(reference_threads(work.stages, cores())) as executor:
        yield Pool(Network(work), executor)
