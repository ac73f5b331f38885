"""The picture of `--plot`."""

from __future__ import annotations

from pathlib import Path

from bench.harness import percentile
from bench.plotter import load_plotter
from bench.scaling.report import Results


def plot(results: Results, path: Path) -> None:
    """Left: throughput over the number of nodes, measured (points; hollow: CPU-bound), planned (lines), and
    what the bottleneck link could carry (dotted). Right: the latency of a frame that is alone."""
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
        limits = [(count, each.link_limit_per_s) for count, each in found if each.link_limit_per_s is not None]
        if limits:
            left.plot(*zip(*limits, strict=True), linestyle=":", alpha=0.7, color=colour)
        right.plot(nodes, [each.planned_ms for _, each in found], linewidth=1, alpha=0.7, color=colour)
        for bound in (False, True):
            some = [(count, each) for count, each in found if each.cpu_bound == bound]
            if not some:
                continue
            style = {"color": colour, "fmt": "o", "markerfacecolor": "none" if bound else colour, "capsize": 3}
            label = series.title + (" (CPU-bound)" if bound else "")
            at = [count for count, _ in some]
            spread = list(zip(*(each.error_bars for _, each in some), strict=True))
            left.errorbar(at, [each.frames_per_s for _, each in some], yerr=spread, label=label, **style)
            right.errorbar(at, [percentile(each.alone_ms, 0.5) for _, each in some], **style)
    left.set(xlabel="nodes", ylabel="frames/s", title="Throughput (lines: planned; dotted: the link's limit)")
    right.set(xlabel="nodes", ylabel="ms", title="Latency of a frame that is alone (lines: planned)")
    for axes in (left, right):
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
    left.legend(fontsize="small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
