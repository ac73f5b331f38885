"""The picture of `--picture`: how many failures were answered within which time; matplotlib is needed for it alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.plotter import load_plotter
from bench.recovery.faults import Row


def draw(subject: str, rows: Sequence[Row], path: Path) -> None:
    """Left: until the first answer; right: until full accuracy. One line per row of single failures.

    Raises:
        MissingPlotterError: matplotlib is not there.
    """
    plt = load_plotter()
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), sharey=True)
    for row in rows:
        single = [fault for fault in row.faults if len(fault.victims) == 1]
        for place, times in enumerate(
            (sorted(fault.first_ms for fault in single), sorted(fault.full_ms for fault in single))
        ):
            shares = [(rank + 1) / len(times) for rank in range(len(times))]
            if times:
                axes[place].step(times, shares, where="post", label=row.name)
    for axis, title in zip(axes, ("first answer", "full accuracy"), strict=True):
        axis.set(xscale="log", xlabel="ms after the failure", title=f"{subject}: {title}", ylim=(0, 1.02))
        axis.grid(visible=True, which="both", alpha=0.2)
    axes[0].set_ylabel("share of the failures")
    axes[1].legend(fontsize="small", loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
