"""R^2 and table VI of CONTINUER beside what is predicted from weights here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from bench.continuer.accuracy_model import Score, Tried
from bench.document import Figure, figure
from bench.prepared import NETWORKS
from bench.recovery.report import table

PAPER_R2 = 0.9801
PAPER_ERROR = "0-0.28 %"


def show(console: Console, scored: Sequence[Score], tried: Sequence[Tried], command: str) -> None:
    made = table(
        f"accuracy from weights alone; paper, by checkpoint: R^2 {PAPER_R2}, error {PAPER_ERROR} ({command})",
        "divided by", "technique", "rows", "MSE", "R^2", "error", "points",
    )  # fmt: skip
    for one in scored:
        if one.technique == "all":
            made.add_section()
        made.add_row(
            one.division, one.technique, str(one.rows), f"{one.mse:.5f}", f"{one.r2:.4f}", f"{one.percent:.2%}",
            f"{100 * one.points:.2f}",
        )  # fmt: skip
    console.print(made)
    made = table(
        "networks from elsewhere, of whose training nothing is told",
        "network", "variants", "healthy: measured", "predicted", "interval", "off, points: healthy", "parts",
        "covered",
    )  # fmt: skip
    for name in dict.fromkeys(one.network for one in tried):
        mine = [one for one in tried if one.network == name]
        own, others = mine[0], mine[1:]
        off = [abs(one.predicted.value - one.measured) for one in others]
        made.add_row(
            NETWORKS[name].title, str(len(mine)), f"{own.measured:.1%}", f"{own.predicted.value:.1%}",
            f"{own.predicted.low:.1%} - {own.predicted.high:.1%}",
            f"{100 * abs(own.predicted.value - own.measured):.1f}",
            f"{100 * float(np.mean(off)):.1f}" if off else "-",
            "beyond" if own.beyond else f"{sum(one.covered for one in mine)} of {len(mine)}",
        )  # fmt: skip
    console.print(made)
    console.print(
        "beyond: smaller or larger than all that the trees were fitted on; nothing is claimed, prepare refuses"
    )


def figures(scored: Sequence[Score], tried: Sequence[Tried]) -> list[Figure]:
    """Nothing is wanted of them but to be reported."""
    made = []
    for one in scored:
        if one.technique == "all":
            note = f"paper: {PAPER_R2}, {PAPER_ERROR}" if one.division == "checkpoint" else ""
            made.append(figure(f"accuracy from weights, by {one.division}: R^2", one.r2, note=note))
            made.append(figure(f"accuracy from weights, by {one.division}: error", one.percent, note=note))
    claimed = [one for one in tried if not one.beyond]
    note = f"{len(claimed)} variants of networks from elsewhere, {len(tried) - len(claimed)} beyond the trees' sizes"
    covered = sum(one.covered for one in claimed) / len(claimed) if claimed else None
    made.append(figure("accuracy from weights, elsewhere: interval covers", covered, note=note))
    return made
