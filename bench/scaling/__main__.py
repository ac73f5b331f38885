"""Throughput and latency against the number of nodes, on emulated clusters of containers with shaped links.

`python -m bench.scaling --quick` takes less than two minutes, without `--quick` about ten, with `--full` hours.
bench/METHODOLOGY.md says how. It needs a Docker engine with Compose.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import harness
from bench.document import BusyMeter
from bench.emulating import add_options, check, prepared_image, words, write
from bench.networks import NETWORKS
from bench.scaling.plot import plot
from bench.scaling.points import FULL, MODERATE, QUICK, Point, Scope, Series, measure_series, narrowed
from bench.scaling.report import details, figures, show


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    add_options(parser)
    parser.add_argument("--nodes", type=_counts, help="such as 1,2,4,8")
    parser.add_argument("--bandwidth", type=words, help="of all links, such as 10mbit,wifi")
    parser.add_argument("--model", type=words, help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--memory", type=words, help="total,each: see bench/METHODOLOGY.md")
    parser.add_argument("--cpus", type=float, help="cores of this machine for each node")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.model or ()) - set(NETWORKS)):
        parser.error(f"--model: there is no network '{unknown[0]}', there are {', '.join(NETWORKS)}")
    if set(options.memory or ()) - {"total", "each"}:
        parser.error("--memory: total, each, or total,each is wanted")
    return options


def scope_of(options: argparse.Namespace) -> Scope:
    return narrowed(
        QUICK if options.quick else FULL if options.full else MODERATE,
        nodes=options.nodes,
        models=options.model,
        bandwidths=options.bandwidth,
        memories=options.memory,
        cpus=options.cpus,
    )


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(sorted({int(each) for each in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers such as 1,2,4") from None
    if counts[0] < 1:
        raise argparse.ArgumentTypeError("at least 1 node is needed")
    return counts


async def measure(
    scope: Scope, options: argparse.Namespace, folder: Path, say: Callable[[str], None]
) -> dict[Series, list[Point]]:
    image = await prepared_image(options.image, say)
    return {
        series: await measure_series(
            series, scope.nodes, scope.effort, folder=folder, image=image, seed=options.seed, say=say
        )
        for series in scope.series
    }


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    console = harness.terminal(190)
    check(options, console)
    started_s, meter = time.perf_counter(), BusyMeter()

    def say(line: str) -> None:
        console.print(f"{time.perf_counter() - started_s:4.0f} s  {line}", style="dim")

    async def benchmark() -> bool:
        results = await measure(scope_of(options), options, folder, say)
        show(console, results)
        write(options, "scaling", figures(results), details(results), meter.read())
        if options.plot is not None:
            plot(results, options.plot)
        every = [point.measured for points in results.values() for point in points]
        return any(every) and not any(found.faults for found in every if found is not None)

    with harness.scratch() as (folder, _):
        code = harness.run(benchmark(), console)
    say("done")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
