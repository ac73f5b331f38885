"""The picture of `--plot`; matplotlib is needed for it alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.codecs.measure import CODECS, MAX_LOSS, Measured
from bench.codecs.report import mbit_per_s
from bench.plotter import load_plotter


def plot(measured: Sequence[Measured], path: Path) -> None:
    """A row for each network: bytes, break-even bandwidth, and the planned rate."""
    plt = load_plotter()
    figure, rows = plt.subplots(len(measured), 3, figsize=(15, 4.2 * len(measured)), squeeze=False)
    for axes, one in zip(rows, measured, strict=True):
        _by_cut(axes[0], one)
        _break_even(axes[1], one)
        _rates(axes[2], one)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _by_cut(axes: Any, one: Measured) -> None:
    for codec in CODECS:
        rows = [result for result in one.cuts if result.codec == codec]
        axes.plot([row.cut for row in rows], [row.cost.ratio for row in rows], marker="o", label=codec)
    axes.set(xlabel="cut", ylabel="bytes after / before", title=one.name, ylim=(0, 1.05))
    axes.legend(fontsize="small")


def _break_even(axes: Any, one: Measured) -> None:
    for codec in CODECS:
        rows = [result for result in one.cuts if result.codec == codec and result.break_even_bytes_per_s > 0]
        rates = [mbit_per_s(row.break_even_bytes_per_s) for row in rows]
        axes.plot([row.cut for row in rows], rates, marker="o", label=codec)
    axes.set(xlabel="cut", ylabel="Mbit/s", yscale="log", title="break-even: the codec pays on slower links")


def _rates(axes: Any, one: Measured) -> None:
    rates = sorted({plan.mbit_per_s for plan in one.plans})
    labels = {None: "no codec", 0.0: "lossless", MAX_LOSS: f"loss <= {100 * MAX_LOSS:g} points"}
    for max_loss, label in labels.items():
        plans = sorted((p for p in one.plans if p.max_loss == max_loss), key=lambda plan: plan.mbit_per_s)
        axes.plot(rates, [1 / plan.bottleneck_s for plan in plans], marker="o", label=label)
    axes.set(xlabel="Mbit/s of each link", ylabel="frames/s, predicted", xscale="log", yscale="log")
    axes.set_title("the planner's choice, 4 nodes")
    axes.legend(fontsize="small")
