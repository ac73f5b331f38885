"""The tables of CONTINUER (Majeed, Kilpatrick, Spence & Varghese 2022) beside ours. METHODOLOGY.md says how.

`python -m bench.continuer --quick --only scheduler` takes a few minutes, most of them to fit parts the first time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import harness
from bench.continuer import (
    accuracy,
    accuracy_model,
    accuracy_model_report,
    accuracy_report,
    scheduler,
    scheduler_report,
)
from bench.continuer.histories import load_all, table
from bench.document import BusyMeter, Figure, document
from bench.prepared import NETWORKS
from bench.subjects import MissingSubjectError
from broker.errors import UnderstudyError
from planner.boosting import MissingPackageError
from planner.predictor import Predictor
from stages.latency import LatencyModel
from understudy.profilefile import read_profile

PACKAGES = ("onnxruntime", "numpy")
PARTS = ("scheduler", "accuracy", "accuracy-model")
NODES = "4,8,16"


def run(options: argparse.Namespace, console: Console) -> int:
    meter = BusyMeter()
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    only = options.only or PARTS
    try:
        if "scheduler" in only:
            made, details["scheduler"] = measure_scheduler(options, console)
            figures += made
        if "accuracy" in only:
            made, details["accuracy"] = measure_accuracy(options, console)
            figures += made
        if "accuracy-model" in only:
            made, details["accuracy_model"] = measure_accuracy_model(options, console)
            figures += made
    except (MissingSubjectError, MissingPackageError, UnderstudyError) as error:
        console.print(f"[red]{error}[/]")
        return 1
    if options.json is not None:
        written = document("continuer", figures, details, quick=options.quick, packages=PACKAGES, busy=meter.read())
        harness.write_json(options.json, written)
    return 0


def measure_scheduler(options: argparse.Namespace, console: Console) -> tuple[list[Figure], Any]:
    effort = scheduler.QUICK if options.quick else scheduler.Effort()
    profile = None if options.profile is None else LatencyModel(Predictor(read_profile(options.profile)))
    found = []
    for name in options.network or NETWORKS:
        for count in options.nodes:
            with console.status(f"{NETWORKS[name].title} on {count} nodes"):
                found.append(scheduler.measure(NETWORKS[name], count, effort, profile))
    scheduler_report.show(console, found, "python -m bench.continuer --only scheduler")
    return scheduler_report.figures(found), scheduler_report.details(found)


def measure_accuracy(options: argparse.Namespace, console: Console) -> tuple[list[Figure], Any]:
    effort = accuracy.QUICK if options.quick else accuracy.Effort()
    found = []
    for name in options.network or NETWORKS:
        with console.status(f"{NETWORKS[name].title}: answers to fresh images"):
            found.append(accuracy.measure(NETWORKS[name], options.nodes[0], effort))
    accuracy_report.show(console, found, "python -m bench.continuer --only accuracy")
    return accuracy_report.figures(found), found


def measure_accuracy_model(options: argparse.Namespace, console: Console) -> tuple[list[Figure], Any]:
    if options.histories is None:
        console.print(
            "[yellow]accuracy-model is left out:[/] --histories FOLDER, of python -m bench.continuer.training"
        )
        return [], {"left_out": "no histories"}
    histories = load_all(options.histories)
    rows = table(histories)
    left_out = {}
    for division in accuracy_model.DIVISIONS:
        with console.status(f"accuracy from weights, divided by {division}"):
            left_out[division] = accuracy_model.predict_left_out(rows, division)
    scored = [one for name in left_out for one in accuracy_model.scores(rows, name, left_out[name])]
    model = accuracy_model.make(rows, left_out, histories)
    if options.write_model is not None:
        options.write_model.write_text(model.to_json(), encoding="utf-8")
    names = options.network or NETWORKS
    tried = [one for name in names for one in accuracy_model.elsewhere(model, NETWORKS[name], options.nodes[0])]
    accuracy_model_report.show(
        console, scored, tried, f"python -m bench.continuer --only accuracy-model --histories {options.histories.name}"
    )
    return accuracy_model_report.figures(scored, tried), {
        "made_from": model.made_from,
        "reach": model.reach,
        "scores": scored,
        "elsewhere": tried,
    }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.continuer", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and images")
    parser.add_argument("--only", action="append", choices=PARTS, help="repeatable; default: all")
    parser.add_argument("--network", action="append", choices=tuple(NETWORKS), help="repeatable; default: all")
    parser.add_argument(
        "--nodes",
        type=_counts,
        default=NODES,
        metavar=NODES,
        help="scheduler: of plans of so many nodes each is lost",
    )
    parser.add_argument("--profile", type=Path, metavar="FILE", help="scheduler: of this machine, to predict latencies")
    parser.add_argument("--histories", type=Path, metavar="FOLDER", help="accuracy-model: what training made")
    parser.add_argument("--write-model", type=Path, metavar="FILE", help="for understudy prepare --accuracy-model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return parser.parse_args(arguments)


def _counts(text: str) -> list[int]:
    counts = [int(word) for word in text.split(",")]
    if min(counts) < 2:
        raise argparse.ArgumentTypeError("a pipeline of one node has nothing left when it is lost")
    return counts


if __name__ == "__main__":
    sys.exit(run(parse(sys.argv[1:]), harness.terminal(width=160)))
