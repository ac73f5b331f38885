"""CONTINUER's tables beside ours: `python -m bench.continuer --only latency`. bench/METHODOLOGY.md says how.

Profiles the machine first, unless --profile names a profile of it: 10 minutes, with --quick one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench import harness
from bench.continuer.cases import NETWORKS, network
from bench.continuer.latency import outcomes
from bench.continuer.plot import plot
from bench.continuer.report import document, show
from bench.planner.plot import MissingPlotterError, load_plotter
from bench.subjects import MissingSubjectError
from broker.errors import UnderstudyError
from planner.boosting import MissingPackageError, require
from planner.profile import Profile
from planner.score import scores, tune
from understudy.profilefile import journal_of, read_profile, write_profile
from understudy.profiling import Options, profile_machine

PACKAGES = ("numpy", "onnx", "onnxruntime", "lightgbm", "optuna")
PARTS = ("latency",)
MINUTES, QUICK_MINUTES = 10.0, 1.0
TRIALS, QUICK_TRIALS = 30, 3
RUNS, QUICK_RUNS = 100, 20


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.continuer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, default="latency", help="which tables; default: all there are")
    parser.add_argument("--quick", action="store_true", help="a short profile, few runs, one pipeline")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="of this machine; where it is missing, it is made")
    parser.add_argument("--minutes", type=float, help="of timing layers, where a profile is made")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw predicted over measured (needs matplotlib)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    console = harness.terminal()
    try:
        require("lightgbm", "optuna")
        if options.plot is not None:
            load_plotter()
        run(options, console, list(arguments))
    except (MissingPackageError, MissingPlotterError, MissingSubjectError) as error:
        console.print(f"[red]{error}[/]")
        return 2
    except UnderstudyError as error:
        console.print(f"[red]{error}[/]")
        return error.exit_code
    return 0


def run(options: argparse.Namespace, console: Console, arguments: Sequence[str]) -> None:
    started_s = time.perf_counter()

    def tell(text: str) -> None:
        console.print(f"{time.perf_counter() - started_s:4.0f} s  {text} ...", style="dim")

    nodes = (4,) if options.quick else (3, 4, 6)
    tell("parts of the networks")
    subjects = [network(name, nodes, each_block=True) for name in NETWORKS]
    tell("the machine's profile")
    profile = machine_profile(options)
    tell("tables")
    judged = scores(profile)
    found = []
    for subject in subjects:
        tell(f"{subject.name}: {len(subject.sessions)} sessions")
        found += outcomes(subject, profile, runs=QUICK_RUNS if options.quick else RUNS)
    show(console, judged, found)
    if options.json is not None:
        head = {
            "benchmark": "continuer",
            "command": " ".join(["python -m bench.continuer", *arguments]),
            "machine": harness.machine(PACKAGES),
        }
        harness.write_json(options.json, {**head, **document(judged, found)})
    if options.plot is not None:
        plot(found, options.plot)


def machine_profile(options: argparse.Namespace) -> Profile:
    """As named, or made now and, where a name is given, kept."""
    if options.profile is not None and options.profile.exists():
        return read_profile(options.profile)
    minutes = options.minutes or (QUICK_MINUTES if options.quick else MINUTES)
    with harness.scratch() as (folder, _settings):
        out = options.profile or folder / "machine.json"
        profile = profile_machine(out, Options(minutes=minutes), resume=True)
    profile = replace(profile, settings=tune(profile, trials=QUICK_TRIALS if options.quick else TRIALS))
    if options.profile is not None:
        write_profile(out, profile)
        journal_of(out).unlink()
    return profile


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
