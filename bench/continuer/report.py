"""CONTINUER's tables II and V beside ours, and the figures of the JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.continuer.cases import TECHNIQUES
from bench.continuer.latency import Outcome
from planner.score import Score

WANTED_R2 = 0.98
WANTED_ERROR = 0.05
WANTED_CALIBRATED = 0.015
PAPER_R2 = "0.854 - 0.995"
PAPER_ERROR = "0.51 - 13.06 %"
TABLE_I = (
    "batch normalisation",
    "convolution",
    "ReLU",
    "dense",
    "add",
    "dropout",
    "depth-wise convolution",
    "global average pool",
)
"""The types of the paper; the others are what light networks need besides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The cases of one network and technique. Shares of 1."""

    network: str
    technique: str
    cases: int
    error: float
    calibrated_error: float
    covered: float
    repeat: float


def groups(found: Sequence[Outcome]) -> list[Group]:
    rows = []
    for network in dict.fromkeys(outcome.network for outcome in found):
        for technique in TECHNIQUES:
            same = [o for o in found if o.network == network and o.case.technique == technique]
            if same:
                rows.append(
                    Group(
                        network=network,
                        technique=technique,
                        cases=len(same),
                        error=statistics.mean(outcome.error for outcome in same),
                        calibrated_error=statistics.mean(outcome.calibrated_error for outcome in same),
                        covered=statistics.mean(outcome.covered for outcome in same),
                        repeat=statistics.median(outcome.repeat for outcome in same),
                    )
                )
    return rows


def show(console: Console, scores: Sequence[Score], found: Sequence[Outcome]) -> None:
    table = Table(title=f"Table II: held-out layers (paper: R² {PAPER_R2})", title_justify="left", box=None)
    table.add_column("type of layer", no_wrap=True)
    for column in ("layers", "R²", "R² of log", "roofline", "MSE ms²", "median error", "in interval", "repeats within"):
        table.add_column(column, justify="right")
    for score in sorted(scores, key=lambda score: (score.kind not in TABLE_I, score.kind)):
        table.add_row(
            score.kind,
            str(score.fitted + score.held_out),
            *(("-",) * 3 if score.constant else _r2_cells(score)),
            f"{score.mse_s2 * 1e6:.2e}",
            *(f"{share:.1%}" for share in (score.error, score.covered, score.noise)),
        )
    console.print(table)
    for score in scores:
        if score.constant:
            console.print(f"{score.kind}: {_same_time(score)}")
    console.print()
    title = f"Table V: mean error of latency, networks that the fit never saw (paper: {PAPER_ERROR})"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("network", no_wrap=True)
    table.add_column("technique", no_wrap=True)
    for column in ("cases", "unseen", "after 8 runs", "in interval", "repeats within"):
        table.add_column(column, justify="right")
    for group in groups(found):
        table.add_row(
            group.network,
            group.technique,
            str(group.cases),
            _judged(f"{group.error:.1%}", group.error <= WANTED_ERROR),
            _judged(f"{group.calibrated_error:.2%}", group.calibrated_error <= WANTED_CALIBRATED),
            f"{group.covered:.0%}",
            f"{group.repeat:.2%}",
        )
    console.print(table)


def figures(scores: Sequence[Score], found: Sequence[Outcome]) -> list[dict[str, Any]]:
    """What is wanted, and whether it is met."""
    rows = [
        _figure(f"R2 {score.kind}", None, "", "", None, _same_time(score))
        if score.constant
        else _figure(f"R2 {score.kind}", score.r2, "", f">= {WANTED_R2}", score.r2 >= WANTED_R2, f"paper {PAPER_R2}")
        for score in scores
    ]
    for group in groups(found):
        name = f"{group.network} {group.technique}"
        note = f"{group.cases} cases; the measurement repeats itself within {group.repeat:.2%}; paper {PAPER_ERROR}"
        error, calibrated = group.error, group.calibrated_error
        rows.append(_figure(f"unseen {name}", error, "1", f"<= {WANTED_ERROR}", error <= WANTED_ERROR, note))
        met = calibrated <= WANTED_CALIBRATED
        rows.append(_figure(f"calibrated {name}", calibrated, "1", f"<= {WANTED_CALIBRATED}", met, note))
        rows.append(_figure(f"covered {name}", group.covered, "1", ">= 0.95", group.covered >= 0.95, note))
    return rows


def document(scores: Sequence[Score], found: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "figures": figures(scores, found),
        "layers": [asdict(score) for score in scores],
        "cases": [
            {**asdict(outcome), "error": outcome.error, "calibrated_error": outcome.calibrated_error}
            for outcome in found
        ],
    }


def _r2_cells(score: Score) -> tuple[str, str, str]:
    return _judged(f"{score.r2:.4f}", score.r2 >= WANTED_R2), f"{score.r2_log:.4f}", f"{score.r2_roofline:.3f}"


def _same_time(score: Score) -> str:
    return f"all take the same time within {score.variation:.0%} (one standard deviation): R² says nothing"


def _figure(name: str, value: float | None, unit: str, wanted: str, met: bool | None, note: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "wanted": wanted, "met": met, "note": note}


def _judged(text: str, met: bool) -> str:
    return f"[green]{text}[/]" if met else f"[red]{text}[/]"
