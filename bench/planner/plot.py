"""The picture of `--plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.planner.measure import METHODS, Measured, Record
from bench.planner.report import REPLAN_WANTED_S, WANTED_S, geometric_mean, planned
from bench.plotter import load_plotter


def plot(measured: Measured, path: Path) -> None:
    """Left: plan / optimum by number of nodes on SEIFER's distribution. Right: the planner's time."""
    plt = load_plotter()
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5))
    records = planned(measured.published)
    counts = sorted({record.nodes for record in records})
    for method in METHODS:
        means, worst, kept = [], [], []
        for count in counts:
            ratios = [value for r in records if r.nodes == count and (value := r.ratio(method)) is not None]
            if ratios:
                kept.append(count)
                means.append(geometric_mean(ratios))
                worst.append(max(ratios))
        (line,) = left.plot(kept, means, marker="o", label=method)
        left.plot(kept, worst, linestyle=":", color=line.get_color(), alpha=0.6)
    left.axhline(1.0, color="black", linewidth=0.8, label="planner (optimum)")
    left.set(xscale="log", yscale="log", xlabel="nodes", ylabel="bottleneck / optimum (dotted: worst)")
    _ticks(left, counts)
    left.set_title("SEIFER's distribution")
    left.legend(fontsize="small")
    _times(right, measured.heterogeneous)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _times(axes: Any, records: list[Record]) -> None:
    counts = sorted({record.nodes for record in records})
    rows = [[record.solve_s for record in records if record.nodes == count] for count in counts]
    for percent, label in ((50, "median"), (95, "p95"), (100, "max")):
        axes.plot(counts, [np.percentile(row, percent) for row in rows], marker="o", label=label)
    axes.plot(list(WANTED_S), list(WANTED_S.values()), "k_", markersize=18, label="wanted")
    axes.axhline(REPLAN_WANTED_S, color="grey", linestyle=":", label="wanted for a new plan")
    axes.set(
        xscale="log", yscale="log", xlabel="nodes", ylabel="seconds", title="The planner on heterogeneous clusters"
    )
    _ticks(axes, counts)
    axes.legend(fontsize="small")


def _ticks(axes: Any, counts: list[int]) -> None:
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xticks([], minor=True)
