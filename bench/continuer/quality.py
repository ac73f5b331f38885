"""The parts of this benchmark about accuracies and choices: each measures, shows, and gives headlines and details."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from bench.continuer import (
    accuracy,
    accuracy_model,
    accuracy_model_report,
    accuracy_report,
    scheduler,
    scheduler_report,
)
from bench.continuer.histories import load_all, table
from bench.document import Figure
from bench.prepared import NETWORKS
from planner.accuracy import Known
from planner.predictor import Predictor
from planner.profile import Profile
from stages.latency import LatencyModel

Found = tuple[list[Figure], Any]


def measure_scheduler(options: argparse.Namespace, console: Console, profile: Profile | None) -> Found:
    """`profile`: of this machine; None: latencies are not predicted by one."""
    effort = scheduler.QUICK if options.quick else scheduler.Effort()
    model = None if profile is None else LatencyModel(Predictor(profile))
    found = []
    for name in options.network or NETWORKS:
        for count in options.nodes:
            with console.status(f"{NETWORKS[name].title} on {count} nodes"):
                found.append(scheduler.measure(NETWORKS[name], count, effort, model))
    scheduler_report.show(console, found, "python -m bench.continuer --only scheduler")
    return scheduler_report.figures(found), scheduler_report.details(found)


def measure_accuracy(options: argparse.Namespace, console: Console) -> Found:
    effort = accuracy.QUICK if options.quick else accuracy.Effort()
    found = []
    for name in options.network or NETWORKS:
        with console.status(f"{NETWORKS[name].title}: answers to fresh images"):
            found.append(accuracy.measure(NETWORKS[name], options.nodes[0], effort))
    accuracy_report.show(console, found, "python -m bench.continuer --only accuracy")
    return accuracy_report.figures(found), found


def measure_accuracy_model(options: argparse.Namespace, console: Console) -> Found:
    if options.histories is None:
        console.print("[yellow]accuracy-model is left out:[/] it needs --histories, see bench.continuer.training")
        return [], {"left_out": "no histories"}
    histories = load_all(options.histories)
    rows = table(histories)
    wanted: list[tuple[str, Known]] = [(division, "told") for division in accuracy_model.DIVISIONS]
    wanted += [(division, "blind") for division in accuracy_model.UNSEEN]
    left_out = {}
    for division, known in wanted:
        with console.status(f"accuracy from weights, divided by {division}"):
            left_out[division, known] = accuracy_model.predict_left_out(rows, division, known)
    scored = [
        score
        for (division, known), predicted in left_out.items()
        for score in accuracy_model.scores(rows, division if known == "told" else f"{division}, blind", predicted)
    ]
    model = accuracy_model.make(rows, left_out, histories)
    if options.write_model is not None:
        options.write_model.write_text(model.to_json(), encoding="utf-8")
    names = options.network or NETWORKS
    tried = [one for name in names for one in accuracy_model.elsewhere(model, NETWORKS[name], options.nodes[0])]
    command = f"python -m bench.continuer --only accuracy-model --histories {options.histories.name}"
    accuracy_model_report.show(console, scored, tried, command)
    details = {"made_from": model.made_from, "reach": model.reach, "scores": scored, "elsewhere": tried}
    return accuracy_model_report.figures(scored, tried), details
