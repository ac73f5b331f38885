"""Memory of each process over time, as a picture (needs matplotlib)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.faults.leaks import Sample


def plot_memory(samples: Sequence[Sample], path: Path) -> None:
    """One line per process; a process that was started again begins a new one."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    lines: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        lines[sample.name, sample.pid].append(sample)
    names = sorted({name for name, _ in lines})
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    began_s = min(sample.at_s for sample in samples)
    for (name, _), own in lines.items():
        times = [(sample.at_s - began_s) / 60 for sample in own]
        axes.plot(times, [sample.rss_bytes / 1e6 for sample in own], color=f"C{names.index(name)}")
    for index, name in enumerate(names):
        axes.plot([], [], color=f"C{index}", label=name)
    axes.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, None))
    axes.legend(ncols=4, fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
