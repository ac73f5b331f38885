"""One stage of the bare chain: takes activations from one subject, runs a sub-model, publishes on the next subject.

`python -m bench.delivery.stage` is started by the benchmark. It prints `ready` when it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from broker.activation import Activation, FrameTag, decode, encode_activation
from broker.connect import connect
from broker.headers import ID_HEADER
from broker.port import Broker, Message
from broker.wire import plain
from stages.batch import can_join, join
from stages.engine import Engine
from stages.errors import FrameError
from stages.intake import Intake
from stages.results import Provenance, ResultMaker, result_json
from stages.spec import PipelineSpec

INPUT, OUTPUT = "bare.in", "bare.out"
PROVENANCE = Provenance(epoch=1)
TOP_K = 5


def subject_of(cut: int, blocks: int) -> str:
    """Where activations of a cut go."""
    return INPUT if cut == 0 else OUTPUT if cut == blocks else f"bare.{cut}"


class Stage:
    """Joins what waits when the engine becomes free, up to `batch` frames, as `stages.worker` does.

    The queue has no bound of its own: the publisher keeps a window.

    Args:
        edges: the first stage reads frames as they are published, the last one makes a result of each frame.
            Otherwise tensors come in, and go out.
    """

    def __init__(
        self, broker: Broker, engine: Engine, spec: PipelineSpec, *, first: int, end: int, batch: int, edges: bool
    ) -> None:
        self._broker = broker
        self._engine = engine
        self._spec = spec
        self._first = first
        self._end = end
        self._batch = batch if spec.dynamic_batch else 1
        self._intake = Intake(spec) if edges and first == 0 else None
        self._results = ResultMaker(spec, TOP_K) if edges and end == spec.blocks else None
        self._queue: deque[Activation] = deque()
        self._wake = asyncio.Event()

    async def on_message(self, message: Message) -> None:
        self._queue.append(decode_frame(message, self._intake) if self._intake else _activation(message))
        self._wake.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="inference") as executor:
            while True:
                while not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                made = await loop.run_in_executor(executor, self._infer, take(self._queue, self._batch))
                await self._publish(made)

    def _infer(self, activations: list[Activation]) -> Activation:
        joined = join(activations)
        tensors = self._engine.run(plain(joined.tensors))
        return Activation(epoch=joined.epoch, cut=self._end, frames=joined.frames, tensors=tensors)

    async def _publish(self, made: Activation) -> None:
        subject = subject_of(self._end, self._spec.blocks)
        if self._results is None:
            await self._broker.publish(subject, encode_activation(made))
            return
        for tag, answer in zip(made.frames, self._results.answers(plain(made.tensors), len(made.frames)), strict=True):
            if isinstance(answer, FrameError):
                raise answer
            await self._broker.publish(subject, result_json(tag, answer, PROVENANCE, 0.0, None))


def take(queue: deque[Activation], batch: int) -> list[Activation]:
    """What waits, up to `batch` frames; the first message in any case."""
    taken = [queue.popleft()]
    frames = len(taken[0].frames)
    while queue and frames + len(queue[0].frames) <= batch and can_join(taken[0], queue[0]):
        frames += len(queue[0].frames)
        taken.append(queue.popleft())
    return taken


def decode_frame(message: Message, intake: Intake) -> Activation:
    tensors = intake.read(message.data)
    if isinstance(tensors, FrameError):
        raise tensors
    return Activation(epoch=1, cut=0, frames=(FrameTag(message.headers[ID_HEADER]),), tensors=tensors)


def _activation(message: Message) -> Activation:
    activation = decode(message.data)
    if not isinstance(activation, Activation):
        raise TypeError("a failure: nobody sends one here")
    return activation


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.delivery.stage", description=__doc__)
    parser.add_argument("--broker", required=True, metavar="URL")
    parser.add_argument("--model", required=True, type=Path, metavar="FILE", help="the sub-model")
    parser.add_argument("--spec", required=True, type=Path, metavar="FILE", help="the specification of the pipeline")
    parser.add_argument("--first", required=True, type=int, help="first block")
    parser.add_argument("--end", required=True, type=int, help="the block after the last")
    parser.add_argument("--batch", required=True, type=int, help="frames in one inference, at most")
    parser.add_argument("--edges", action="store_true", help="frames come in, results go out; otherwise tensors")
    return parser.parse_args(arguments)


async def serve(options: argparse.Namespace) -> None:
    spec = PipelineSpec.from_json(options.spec.read_bytes())
    engine = Engine.load(options.model.read_bytes(), outputs=spec.cuts[options.end])
    engine.warm_up(spec.cuts[options.first])
    broker = await connect(options.broker, name=f"bare-stage-{options.first}")
    try:
        bounds = {"first": options.first, "end": options.end, "batch": options.batch}
        stage = Stage(broker, engine, spec, **bounds, edges=options.edges)
        await broker.subscribe(subject_of(options.first, spec.blocks), stage.on_message)
        print("ready", flush=True)
        await stage.run()
    finally:
        await broker.close()


if __name__ == "__main__":
    uvloop.run(serve(parse(sys.argv[1:])))
