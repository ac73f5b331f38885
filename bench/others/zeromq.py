"""The same stages as processes with PUSH and PULL sockets between them, and no broker.

`python -m bench.others.zeromq FOLDER STAGE` is one stage. It prints the port that it takes messages on, reads the
address of whoever is next from its stdin, and ends with it.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from bench.others.stage import Stage, scores_of
from bench.others.work import Scores, Work, open_work
from broker.port import Buffer
from broker.wire import Tensor

HIGH_WATER = 4
"""Messages that wait at either end of a socket; then the sender waits. This is ZeroMQ's back-pressure."""

ANSWER_S = 30.0
END_S = 2.0
LOOPBACK = "tcp://127.0.0.1"


class ZeromqError(Exception):
    """A stage does not start, or no longer answers."""


def pack(number: int, tensors: Mapping[str, Tensor]) -> list[Any]:
    """A msgpack header, then the buffer of each tensor as it is."""
    header = [number, [[name, tensor.dtype.str, tensor.shape] for name, tensor in tensors.items()]]
    return [msgpack.packb(header), *(np.ascontiguousarray(tensor).data for tensor in tensors.values())]


def unpack(parts: Sequence[Buffer]) -> tuple[int, dict[str, Tensor]]:
    """Number and tensors, which are read in place."""
    number, described = msgpack.unpackb(parts[0])
    tensors: dict[str, Tensor] = {}
    for (name, dtype, shape), part in zip(described, parts[1:], strict=True):
        tensors[name] = np.frombuffer(part, dtype, count=math.prod(shape)).reshape(shape)
    return number, tensors


class Zeromq:
    """The client: a PUSH socket to the first stage, a PULL socket from the last."""

    polling: Sequence[int] = ()

    def __init__(self, work: Work, push: Any, pull: Any, pids: Mapping[str, int]) -> None:
        self._work = work
        self._push = push
        self._pull = pull
        self._pids = pids
        self._sent = 0
        self._answered = 0

    def pids(self) -> Mapping[str, int]:
        return {"client": os.getpid(), **self._pids}

    def send(self, frame: bytes) -> None:
        self._push.send_multipart([msgpack.packb([self._sent, []]), frame], copy=False)
        self._sent += 1

    def receive(self) -> Scores:
        if not self._pull.poll(ANSWER_S * 1e3):
            raise ZeromqError(f"nothing comes back for {ANSWER_S:.0f} s")
        number, tensors = unpack([part.buffer for part in self._pull.recv_multipart(copy=False)])
        if number != self._answered:
            raise ZeromqError(f"answer {number} came in place of {self._answered}")
        self._answered += 1
        return scores_of(self._work, tensors)


@contextmanager
def start(work: Work) -> Iterator[Zeromq]:
    """Start the stages, connect each to the next, and the last to this process."""
    import zmq

    with ExitStack() as stack:
        context = zmq.Context()
        stack.callback(context.destroy, linger=0)
        pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        # Bounded by the client's window: a limit of its own here could have the last stage and the client wait for
        # each other.
        pull.set_hwm(0)
        push.set_hwm(HIGH_WATER)
        processes = [_spawn(work, number, stack) for number in range(work.stages)]
        ports = [_read(process) for process in processes]
        ports.append(str(pull.bind_to_random_port(LOOPBACK)))
        for process, port in zip(processes, ports[1:], strict=True):
            assert process.stdin is not None
            process.stdin.write(f"{LOOPBACK}:{port}\n")
            process.stdin.flush()
        push.connect(f"{LOOPBACK}:{ports[0]}")
        yield Zeromq(work, push, pull, {f"stage{n}": process.pid for n, process in enumerate(processes, start=1)})


def _spawn(work: Work, number: int, stack: ExitStack) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "bench.others.zeromq", str(work.folder), str(number)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ZeromqError("a stage has ended; its stderr says why")
    return line.strip()


def serve(work: Work, number: int) -> None:
    """One stage, until stdin ends."""
    import zmq

    stage = Stage(work, number)
    context = zmq.Context()
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    pull.set_hwm(HIGH_WATER)
    push.set_hwm(HIGH_WATER)
    print(pull.bind_to_random_port(LOOPBACK), flush=True)
    push.connect(sys.stdin.readline().strip())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    while True:
        parts: list[memoryview] = [part.buffer for part in pull.recv_multipart(copy=False)]
        if number == 0:
            frame, tensors = msgpack.unpackb(parts[0])[0], stage.decode(parts[1])
        else:
            frame, tensors = unpack(parts)
        push.send_multipart(pack(frame, stage.run(tensors)), copy=False)


def _end_with_stdin() -> None:
    """Whoever started this process has closed it, or is gone. The other thread may wait in a socket for ever."""
    sys.stdin.read()
    os._exit(0)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.others.zeromq", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the work, see bench.others.work")
    parser.add_argument("stage", metavar="STAGE", type=int, help="counted from 0")
    options = parser.parse_args(arguments)
    serve(open_work(options.folder), options.stage)


if __name__ == "__main__":
    main(sys.argv[1:])
