"""Tables VII and VIII of CONTINUER beside ours, and their headlines."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from bench.continuer.emulated import Source
from bench.continuer.scheduler import SETS, Quality, score, telling
from bench.document import Figure, at_least, at_most
from bench.prepared import NETWORKS
from bench.recovery.figures import Spread
from bench.recovery.hindsight import Forced, Hindsight
from bench.recovery.report import table

PAPER_RIGHT = "86.12-99.86 %"
PAPER_DECISION = "1.83-16.82 ms"
RIGHT = 0.999
DECISION_MS = 1.0

WORDS: Mapping[Source, str] = {
    "speed": "the node's speed",
    "calibrated": "8 runs of each part",
    "profile": "the machine's profile",
}


def show(console: Console, found: Sequence[Quality], command: str) -> None:
    made = table(
        f"right technique, table VII; paper: {PAPER_RIGHT}, wanted: {RIGHT:.1%} ({command})",
        "network", "nodes", "latency estimated from", "techniques", "instances", "strict", "within noise",
        "largest regret", "telling",
    )  # fmt: skip
    for one in found:
        for source in one.forced:
            for name, scored in score(one.forced[source]).items():
                made.add_row(
                    NETWORKS[one.network].title, str(one.nodes), WORDS[source], name, str(scored.decisions),
                    *_cells(scored), f"{telling(scored.forced):.1%}",
                )  # fmt: skip
        made.add_section()
    console.print(made)
    console.print(
        "strict: the chosen technique has the best score as measured. within noise: its score is worse by at most two"
        " standard errors of what was measured. regret: how much worse, of 1. telling: instances in which a wrong"
        " choice would be seen beyond the noise."
    )
    _show_errors(console, found)
    _show_wrong(console, found)
    made = table(
        f"decision, table VIII, ms; paper: {PAPER_DECISION}, wanted: p99 <= {DECISION_MS:g}",
        "network", "nodes", "how", "times", "median", "p95", "p99", "largest",
    )  # fmt: skip
    for one in found:
        for how, spread in one.decisions.items():
            cells = (spread.median, spread.p95, spread.p99, spread.largest)
            title = NETWORKS[one.network].title
            made.add_row(title, str(one.nodes), how, str(spread.count), *(f"{value:.3f}" for value in cells))
    console.print(made)


def _cells(found: Hindsight) -> tuple[str, str, str]:
    if not found.decisions:
        return "-", "-", "-"
    return f"{found.same / found.decisions:.2%}", f"{found.as_good / found.decisions:.2%}", f"{found.regret:.3f}"


def _show_errors(console: Console, found: Sequence[Quality]) -> None:
    made = table(
        "estimates against measurements, medians over failures",
        "network", "nodes", "technique", "failures", "accuracy off", "latency off: speed", "8 runs", "profile",
        "repeatability", "pause estimated", "measured, ms",
    )  # fmt: skip
    for one in found:
        sources: tuple[Source, ...] = ("speed", "calibrated", "profile")
        for technique in sorted({each.technique for each in one.forced["calibrated"]}):
            mine = [each for each in one.forced["calibrated"] if each.technique == technique]
            accuracy = [abs(each.estimated_accuracy / each.accuracy - 1) for each in mine if each.accuracy]
            made.add_row(
                NETWORKS[one.network].title, str(one.nodes), technique, str(len(mine)),
                _percent(accuracy),
                *(
                    _percent([_latency_off(each) for each in one.forced.get(source, ()) if each.technique == technique])
                    for source in sources
                ),
                f"{one.repeatability:.1%}",
                _middle([each.estimated_downtime_ms - each.estimated_latency_ms for each in mine]),
                _middle([each.downtime_ms - each.latency_ms for each in mine]),
            )  # fmt: skip
    console.print(made)


def _show_wrong(console: Console, found: Sequence[Quality]) -> None:
    for one in found:
        for source in one.forced:
            for name, scored in score(one.forced[source]).items():
                if scored.wrong:
                    where = f"{one.network}, {WORDS[source]}, {name}"
                    console.print(f"{where}: {len(scored.wrong)} wrong, such as {scored.wrong[0]}", style="dim")


def _latency_off(one: Forced) -> float:
    return abs(one.estimated_latency_ms / one.latency_ms - 1)


def _percent(values: Sequence[float]) -> str:
    return f"{Spread.of(values).median:.2%}" if values else "-"


def _middle(values: Sequence[float]) -> str:
    return f"{Spread.of(values).median:.1f}"


def figures(found: Sequence[Quality]) -> list[Figure]:
    """Over all numbers of nodes, by network."""
    made = []
    for name in dict.fromkeys(one.network for one in found):
        mine = [one for one in found if one.network == name]
        title = NETWORKS[name].title
        for source in mine[0].forced:
            made += _right(f"{title}, latency from {WORDS[source]}", mine, source)
        for how, word in (("from the table", "as it is done"), ("on the spot", "nothing prepared")):
            slowest = max((one.decisions[how].p99 for one in mine), default=math.nan)
            note = f"p99 of the largest plan; table VIII: {PAPER_DECISION}"
            made.append(at_most(f"{title}: decision, {word}", slowest, DECISION_MS, "ms", note=note))
    return made


def _right(title: str, found: Sequence[Quality], source: Source) -> list[Figure]:
    made = []
    every = [score(one.forced[source]) for one in found]
    for name in SETS:
        those = [scores[name] for scores in every]
        decisions = sum(one.decisions for one in those)
        note = f"table VII: {PAPER_RIGHT}; {decisions} instances"
        for word, field in (("strict", "same"), ("within noise", "as_good")):
            share = sum(getattr(one, field) for one in those) / decisions if decisions else math.nan
            made.append(at_least(f"{title}, {name}: right technique, {word}", share, RIGHT, note=note))
    return made


def details(found: Sequence[Quality]) -> list[dict[str, Any]]:
    """For the JSON document."""
    return [
        {**dataclasses.asdict(one), "scores": {source: _plain(one.forced[source]) for source in one.forced}}
        for one in found
    ]


def _plain(forced: Sequence[Forced]) -> dict[str, Any]:
    names = ("decisions", "same", "as_good", "regret", "wrong")
    return {name: {field: getattr(one, field) for field in names} for name, one in score(forced).items()}
