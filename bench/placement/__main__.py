"""Random, greedy, SEIFER's and our plan of the same network, deployed on the same emulated cluster.

`python -m bench.placement --quick` takes about a minute and a half, without `--quick` about ten minutes, with `--full`
hours. bench/METHODOLOGY.md says how. It needs a Docker engine with Compose.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bench.emulating import Benchmark, add_options, run, words
from bench.networks import NETWORKS
from bench.placement.measure import FULL, MODERATE, QUICK, Result, Scope, Series, measure_series
from bench.placement.plot import plot
from bench.placement.report import details, figures, show


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.placement", description=__doc__)
    add_options(parser)
    parser.add_argument("--nodes", type=int, help="of each cluster")
    parser.add_argument("--bandwidth", type=words, help="such as wifi,spread: see bench/METHODOLOGY.md")
    parser.add_argument("--model", type=words, help=f"of {', '.join(NETWORKS)}")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.model or ()) - set(NETWORKS)):
        parser.error(f"--model: there is no network '{unknown[0]}', there are {', '.join(NETWORKS)}")
    if options.nodes is not None and options.nodes < 2:
        parser.error("--nodes: of one node there is nothing to choose, at least 2 are wanted")
    return options


def scope_of(options: argparse.Namespace) -> Scope:
    chosen = QUICK if options.quick else FULL if options.full else MODERATE
    given = {"nodes": options.nodes, "bandwidths": options.bandwidth, "models": options.model}
    return replace(chosen, **{name: value for name, value in given.items() if value is not None})


async def measure(
    options: argparse.Namespace, image: str, folder: Path, say: Callable[[str], None]
) -> dict[Series, list[Result]]:
    scope = scope_of(options)
    seeds = range(options.seed, options.seed + scope.seeds)
    every = [
        Series(model=model, bandwidth=bandwidth, nodes=scope.nodes, seed=seed)
        for model, bandwidth, seed in itertools.product(scope.models, scope.bandwidths, seeds)
    ]
    return {series: await measure_series(series, scope, folder=folder, image=image, say=say) for series in every}


def good(results: dict[Series, list[Result]]) -> bool:
    return not any(each.measured.faults for several in results.values() for each in several if each.measured)


BENCHMARK = Benchmark(
    name="placement", measure=measure, show=show, figures=figures, details=details, plot=plot, good=good
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK, parse(sys.argv[1:])))
