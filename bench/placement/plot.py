"""The picture of `--plot`."""

from __future__ import annotations

from pathlib import Path

from bench.placement.report import Results
from bench.plotter import load_plotter

WIDTH = 0.38


def plot(results: Results, path: Path) -> None:
    """For each cluster the throughput of every method's plan, measured (bars, with quartiles; hatched: CPU-bound) and
    planned (grey)."""
    plt = load_plotter()
    figure, several = plt.subplots(1, len(results), figsize=(1 + 4.5 * len(results), 4.5), squeeze=False)
    for axes, (series, found) in zip(several[0], results.items(), strict=True):
        shown = [(result.method, result.measured) for result in found if result.measured is not None]
        places = range(len(shown))
        planned = [each.planned_per_s for _, each in shown]
        axes.bar([place - WIDTH / 2 for place in places], planned, WIDTH, color="lightgrey", label="planned")
        spread = list(zip(*(each.error_bars for _, each in shown), strict=True))
        bars = axes.bar(
            [place + WIDTH / 2 for place in places],
            [each.frames_per_s for _, each in shown],
            WIDTH,
            yerr=spread,
            capsize=3,
            label="measured",
        )
        for bar, (_, each) in zip(bars, shown, strict=True):
            bar.set_hatch("//" if each.cpu_bound else None)
        axes.set_xticks(list(places), [method for method, _ in shown])
        axes.set(title=series.title, ylabel="frames/s")
        axes.legend(fontsize="small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
