"""The picture of `--plot`; matplotlib is needed for it alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.harness import Summary
from bench.others.comparison import Comparison
from bench.plotter import load_plotter

OURS_COLOUR, OTHERS_COLOUR = "tab:orange", "tab:blue"


def draw(runs: Sequence[Comparison], path: Path) -> None:
    """A column for each subject: frames per second, CPU time of a frame and the latency of a single one, relative to
    the pipeline's; whiskers are quartiles.

    Raises:
        MissingPlotterError: matplotlib is not there.
    """
    plt = load_plotter()
    figure, axes = plt.subplots(3, len(runs), figsize=(1.5 + 4.6 * len(runs), 8.5), squeeze=False, sharey="col")
    for column, run in enumerate(runs):
        titles = [side.title for side in run.sides]
        colours = [OURS_COLOUR if side.name.startswith("understudy") else OTHERS_COLOUR for side in run.sides]
        rows = (
            ("frames per second (more is better)", run.rate),
            ("CPU time of a frame (less is better)", run.cpu),
            ("latency of one frame at a time (less is better)", run.latency),
        )
        for axis, (title, of) in zip(axes[:, column], rows, strict=True):
            _bars(axis, titles, [of(side) for side in run.sides], colours)
            axis.set_xlabel(title, fontsize="small")
        axes[0][column].set_title(run.subject.title, fontsize="medium")
    figure.suptitle(f"relative to Understudy: the same {runs[0].work.stages} stages on one machine")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bars(axis: Any, titles: Sequence[str], values: Sequence[Summary], colours: Sequence[str]) -> None:
    places = list(range(len(titles)))
    medians = [value.median for value in values]
    whiskers = [[value.median - value.q1 for value in values], [value.q3 - value.median for value in values]]
    axis.barh(places, medians, xerr=whiskers, color=colours, height=0.65, error_kw={"elinewidth": 1, "capsize": 2})
    for place, value in zip(places, values, strict=True):
        axis.annotate(f"{value.median:.2f}", (value.q3, place), (4, 0), textcoords="offset points", va="center")
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.set(yticks=places, yticklabels=titles, xlim=(0, 1.2 * max(value.q3 for value in values)))
    if not axis.yaxis_inverted():  # columns share their axis
        axis.invert_yaxis()
