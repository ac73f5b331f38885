"""Codecs on the activations of trained networks: bytes, time, accuracy, break-even bandwidth, and the plans that they
make. bench/METHODOLOGY.md says how.

`python -m bench.codecs --quick` takes less than a minute.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import document as documents
from bench import harness
from bench.codecs.measure import DATA, Measured, measure
from bench.codecs.plot import plot
from bench.codecs.report import details, headlines, show
from bench.plotter import can_plot
from bench.subjects import MissingSubjectError

PACKAGES = ("numpy", "onnxruntime", "zstandard")
QUICK_IMAGES, IMAGES = 500, 8000


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.codecs", description=__doc__)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(DATA)}; default: all")
    parser.add_argument("--quick", action="store_true", help=f"accuracy on {QUICK_IMAGES} images in place of {IMAGES}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it (needs matplotlib)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.subjects if name not in DATA]
    if unknown:
        parser.error(f"'{unknown[0]}' is no subject: there are {', '.join(DATA)}")
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    console = harness.terminal(width=180)
    if not can_plot(options.plot, console):
        return 2
    meter = documents.BusyMeter()
    started_s, tell = time.perf_counter(), harness.teller(console, " ...")

    measured: list[Measured] = []
    with harness.scratch() as (folder, _):
        for name in options.subjects or DATA:
            try:
                measured.append(measure(name, folder, QUICK_IMAGES if options.quick else IMAGES, tell))
            except MissingSubjectError as error:
                console.print(f"{name} is left out: {error}", style="yellow")
    if not measured:
        return 2
    show(console, measured)
    if options.json is not None:
        found = documents.document(
            "codecs",
            headlines(measured),
            details(measured),
            quick=options.quick,
            packages=PACKAGES,
            busy=meter.read(),
        )
        harness.write_json(options.json, found)
    if options.plot is not None:
        plot(measured, options.plot)
    console.print(f"{time.perf_counter() - started_s:.0f} s", style="dim")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
