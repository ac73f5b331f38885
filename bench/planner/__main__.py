"""Plans of random, greedy, SEIFER's method and the planner against the optimum. bench/METHODOLOGY.md says how.

`python -m bench.planner --quick` takes less than a minute, without `--quick` less than six.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import document as documents
from bench import harness
from bench.planner.measure import FULL, QUICK, measure
from bench.planner.plot import plot
from bench.planner.report import document, headlines, show
from bench.plotter import can_plot

PACKAGES = ("numpy", "onnx")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.planner", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few seeds")
    parser.add_argument("--seed", type=int, default=0, help="of the first instance of each kind; default: 0")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw ratios and times (needs matplotlib)")
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error("--seed: at least 0 is wanted")
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    console = harness.terminal()
    if not can_plot(options.plot, console):
        return 2
    meter = documents.BusyMeter()
    started_s, progress = time.perf_counter(), harness.teller(console, " ...")

    measured = measure(QUICK if options.quick else FULL, options.seed, progress)
    show(console, measured)
    if options.json is not None:
        details = {"seed": options.seed, **document(measured)}
        found = documents.document(
            "planner", headlines(measured), details, quick=options.quick, packages=PACKAGES, busy=meter.read()
        )
        harness.write_json(options.json, found)
    if options.plot is not None:
        plot(measured, options.plot)
    console.print(f"{time.perf_counter() - started_s:.0f} s", style="dim")
    return 1 if any(record.faults for record in measured.all()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
