"""Throughput and latency against the number of nodes, on emulated clusters of containers with shaped links.

`python -m bench.scaling --quick` takes less than two minutes, without `--quick` about ten, with `--full` hours.
bench/METHODOLOGY.md says how. It needs a Docker engine with Compose.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.emulating import Benchmark, add_options, run, words
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
    options: argparse.Namespace, image: str, folder: Path, say: Callable[[str], None]
) -> dict[Series, list[Point]]:
    scope = scope_of(options)
    return {
        series: await measure_series(
            series, scope.nodes, scope.effort, folder=folder, image=image, seed=options.seed, say=say
        )
        for series in scope.series
    }


def good(results: dict[Series, list[Point]]) -> bool:
    every = [point.measured for points in results.values() for point in points if point.measured]
    return bool(every) and not any(found.faults for found in every)


BENCHMARK = Benchmark(
    name="scaling", measure=measure, show=show, figures=figures, details=details, plot=plot, good=good
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK, parse(sys.argv[1:])))
