"""The picture of `--plot`."""

from __future__ import annotations

from pathlib import Path

from bench.harness import percentile
from bench.planner.plot import load_plotter
from bench.scaling.report import Results


def plot(results: Results, path: Path) -> None:
    """Left: throughput over the number of nodes, measured (points; hollow: CPU-bound) and planned (lines). Right: the
    latency of a frame that is alone."""
    plt = load_plotter()
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5))
    counts = sorted({point.nodes for points in results.values() for point in points})
    for series, points in results.items():
        found = [(point.nodes, point.measured) for point in points if point.measured is not None]
        if not found:
            continue
        nodes = [count for count, _ in found]
        (line,) = left.plot(nodes, [each.planned_per_s for _, each in found], linewidth=1, alpha=0.7)
        colour = line.get_color()
        right.plot(nodes, [each.planned_ms for _, each in found], linewidth=1, alpha=0.7, color=colour)
        for bound in (False, True):
            some = [(count, each) for count, each in found if each.cpu_bound == bound]
            if not some:
                continue
            style = {"color": colour, "fmt": "o", "markerfacecolor": "none" if bound else colour, "capsize": 3}
            label = series.title + (" (CPU-bound)" if bound else "")
            rates = [each.rate for _, each in some]
            spread = [[r.median - r.q1 for r in rates], [r.q3 - r.median for r in rates]]
            at = [count for count, _ in some]
            left.errorbar(at, [r.median for r in rates], yerr=spread, label=label, **style)
            right.errorbar(at, [percentile(each.alone_ms, 0.5) for _, each in some], **style)
    left.set(xlabel="nodes", ylabel="frames/s", title="Throughput (lines: planned)", ylim=(0, None))
    right.set(xlabel="nodes", ylabel="ms", title="Latency of a frame that is alone (lines: planned)", ylim=(0, None))
    for axes in (left, right):
        axes.set_xticks(counts, [str(count) for count in counts])
    left.legend(fontsize="small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
