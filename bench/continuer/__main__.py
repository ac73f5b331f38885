"""CONTINUER's tables (Majeed, Kilpatrick, Spence & Varghese 2022) beside ours. bench/METHODOLOGY.md says how.

`--only latency` profiles the machine first, unless --profile names a profile of it: 10 minutes, with --quick one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import harness
from bench import prepared as prepared_bundles
from bench.continuer import quality
from bench.continuer.cases import NETWORKS, network
from bench.continuer.latency import outcomes
from bench.continuer.plot import plot
from bench.continuer.report import document as latency_document
from bench.continuer.report import show
from bench.document import BusyMeter, Figure, document
from bench.plotter import MissingPlotterError, load_plotter
from bench.subjects import MissingSubjectError
from broker.errors import UnderstudyError
from planner.boosting import MissingPackageError, require
from planner.profile import Profile
from planner.score import scores, tune
from understudy.profilefile import journal_of, read_profile, write_profile
from understudy.profiling import Options, profile_machine

PACKAGES = ("numpy", "onnx", "onnxruntime")
PARTS = ("latency", "scheduler", "accuracy", "accuracy-model")
MINUTES, QUICK_MINUTES = 10.0, 1.0
TRIALS, QUICK_TRIALS = 30, 3
RUNS, QUICK_RUNS = 100, 20
NODES = "4,8,16"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.continuer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=PARTS, help="repeatable; default: all that there are")
    parser.add_argument("--quick", action="store_true", help="a short profile, few runs and images")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="of this machine; where it is missing, latency makes it"
    )
    parser.add_argument("--minutes", type=float, help="of timing layers, where a profile is made")
    parser.add_argument(
        "--network", action="append", choices=tuple(prepared_bundles.NETWORKS), help="of all but latency; default: all"
    )
    parser.add_argument(
        "--nodes", type=_counts, default=NODES, metavar=NODES, help="plans of so many nodes; accuracy takes the first"
    )
    parser.add_argument("--histories", type=Path, metavar="FOLDER", help="accuracy-model: what training made")
    parser.add_argument("--write-model", type=Path, metavar="FILE", help="for understudy prepare --accuracy-model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="latency: predicted over measured (matplotlib)")
    return parser.parse_args(arguments)


def _counts(text: str) -> list[int]:
    counts = [int(word) for word in text.split(",")]
    if min(counts) < 2:
        raise argparse.ArgumentTypeError("a pipeline of one node has nothing left when it is lost")
    return counts


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    console = harness.terminal(width=160)
    try:
        if "latency" in (options.only or PARTS):
            require("lightgbm", "optuna")
        if options.plot is not None:
            load_plotter()
        run(options, console)
    except (MissingPackageError, MissingPlotterError, MissingSubjectError) as error:
        console.print(f"[red]{error}[/]")
        return 2
    except UnderstudyError as error:
        console.print(f"[red]{error}[/]")
        return error.exit_code
    return 0


def run(options: argparse.Namespace, console: Console) -> None:
    meter = BusyMeter()
    only = options.only or PARTS
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    profile = read_profile(options.profile) if options.profile is not None and options.profile.exists() else None
    if "latency" in only:
        profile = profile or make_profile(options, console)
        made, found = measure_latency(options, console, profile)
        figures += made
        details |= found
    if "scheduler" in only:
        made, details["scheduler"] = quality.measure_scheduler(options, console, profile)
        figures += made
    if "accuracy" in only:
        made, details["accuracy"] = quality.measure_accuracy(options, console)
        figures += made
    if "accuracy-model" in only:
        made, details["accuracy_model"] = quality.measure_accuracy_model(options, console)
        figures += made
    if options.json is not None:
        written = document("continuer", figures, details, quick=options.quick, packages=PACKAGES, busy=meter.read())
        harness.write_json(options.json, written)


def measure_latency(
    options: argparse.Namespace, console: Console, profile: Profile
) -> tuple[list[Figure], dict[str, Any]]:
    tell = harness.teller(console, " ...")
    nodes = (4,) if options.quick else (3, 4, 6)
    tell("parts of the networks")
    subjects = [network(name, nodes, each_block=True) for name in NETWORKS]
    tell("tables")
    judged = scores(profile)
    found = []
    for subject in subjects:
        tell(f"{subject.name}: {len(subject.sessions)} sessions")
        found += outcomes(subject, profile, runs=QUICK_RUNS if options.quick else RUNS)
    show(console, judged, found)
    if options.plot is not None:
        plot(found, options.plot)
    details = latency_document(judged, found)
    return [Figure(**one) for one in details.pop("figures")], details


def make_profile(options: argparse.Namespace, console: Console) -> Profile:
    """Made now and, where a name is given, kept."""
    minutes = options.minutes or (QUICK_MINUTES if options.quick else MINUTES)
    console.print(f"the machine's profile: {minutes:g} minutes ...", style="dim")
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
