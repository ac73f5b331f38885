"""A picture of a demo: throughput and accuracy over time, the whole run and each failure from close by.

matplotlib draws it; it is no dependency, but in the extra `bench`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from broker.errors import UnderstudyError
from understudy.timeline import Answer, Outage, Timeline, bins, rolling_accuracy

SUFFIXES = (".png", ".svg", ".pdf")

BIN_S = 0.05
"""Width of a bar of throughput over the whole run; from close by it is a fifth of that."""

CLOSE_BIN_S = 0.01

BEFORE_S, AFTER_S = 0.08, 0.12
"""What is shown from close by: from before the kill to after the heal, but at least `LEAST_CLOSE_S`, and no more than
`MOST_CLOSE_S` after the kill."""

LEAST_CLOSE_S, MOST_CLOSE_S = 0.25, 4.0

ROLLING, LEAST = 200, 40
"""Frames of the rolling accuracy, and how many it takes at least where there are so many."""

COLOURS = {
    "none": "#4c9f70",
    "standby": "#2f6fb3",
    "stand-in": "#e0962b",
    "skip": "#c9b037",
    "exit": "#9b4fa5",
    "repartition": "#8a8a8a",
}
NAMES = {"none": "full plan"}
KILL, FIRST, HEALED = "#c0392b", "#1f1f1f", "#2e7d4f"


class PictureError(UnderstudyError):
    """The picture cannot be drawn or written."""


def check_picture(path: Path) -> None:
    """Before anything is measured: whether a picture can be written there.

    Raises:
        PictureError: its name has no suffix that is known, or there is no such folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise PictureError(f"--picture {path}: a file that ends in {', '.join(SUFFIXES)} is needed")
    if not path.absolute().parent.is_dir():
        raise PictureError(f"--picture {path}: there is no folder {path.absolute().parent}")


def draw(timeline: Timeline, path: Path, title: str) -> None:
    """Write the picture; its suffix says in which format.

    Raises:
        PictureError: there is no matplotlib (says how to get it), or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PictureError("matplotlib is not installed: `pip install matplotlib` draws it next time") from None
    outages = timeline.outages
    figure = Figure(figsize=(8.0 + 3.2 * len(outages), 5.2), layout="constrained")
    axes = figure.subplots(
        2,
        1 + len(outages),
        squeeze=False,
        sharex="col",
        sharey="row",
        gridspec_kw={"width_ratios": [2.2] + [1.0] * len(outages)},
    )
    end_s = timeline.answers[-1].at_s if timeline.answers else 1.0
    _column(axes[:, 0], timeline, 0.0, end_s, BIN_S)
    axes[0, 0].set_title(title, loc="left", fontsize=10)
    for at, outage in enumerate(outages, start=1):
        _column(axes[:, at], timeline, *_close(outage), CLOSE_BIN_S, zero_s=outage.killed_s)
        _close_labels(axes[:, at], outage)
    axes[0, 0].set_ylabel("frames/s")
    axes[1, 0].set_ylabel(f"right, of {ROLLING} frames")
    axes[1, 0].set_xlabel("time / s")
    _limits(axes, timeline)
    _legend(figure, timeline)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise PictureError(f"cannot write {path}: {error.strerror or error}") from error


def _close(outage: Outage) -> tuple[float, float]:
    seen_s = max(outage.healed_s or 0.0, outage.first_answer_s or 0.0) + AFTER_S
    return outage.killed_s - BEFORE_S, outage.killed_s + min(max(seen_s, LEAST_CLOSE_S), MOST_CLOSE_S)


def _column(axes: Any, timeline: Timeline, start_s: float, end_s: float, width_s: float, zero_s: float = 0.0) -> None:
    """Throughput above, accuracy below; `zero_s` is where the time axis begins to count."""
    shown = bins(timeline.answers, width_s, start_s, end_s)
    starts = [(piece.start_s - zero_s) * _scale(zero_s) for piece in shown]
    stacked = [0.0] * len(shown)
    for technique in _techniques(timeline):
        rates = [piece.counts.get(technique, 0) / width_s for piece in shown]
        colour = COLOURS.get(technique, "#555555")
        axes[0].bar(
            starts, rates, bottom=stacked, width=width_s * _scale(zero_s), align="edge", color=colour, linewidth=0
        )
        stacked = [below + rate for below, rate in zip(stacked, rates, strict=True)]
    _accuracy(axes[1], timeline.answers, start_s, end_s, zero_s)
    for outage in timeline.outages:
        _lines(axes, outage, start_s, end_s, zero_s)
    for at_s, _ in timeline.marks:
        if start_s <= at_s <= end_s:
            for axis in axes:
                axis.axvline((at_s - zero_s) * _scale(zero_s), color="#777777", linestyle="-.", linewidth=1.2)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.set_xlim((start_s - zero_s) * _scale(zero_s), (end_s - zero_s) * _scale(zero_s))


def _scale(zero_s: float) -> float:
    """Seconds over the whole run, milliseconds from close by."""
    return 1e3 if zero_s else 1.0


def _accuracy(axis: Any, answers: Sequence[Answer], start_s: float, end_s: float, zero_s: float) -> None:
    points = [point for point in rolling_accuracy(answers, ROLLING, LEAST) if start_s <= point.at_s <= end_s]
    for (technique, bridge), run in groupby(points, key=lambda point: (point.technique, point.bridge)):
        piece = list(run)
        times = [(point.at_s - zero_s) * _scale(zero_s) for point in piece]
        marker = {"marker": ".", "markersize": 4} if bridge or zero_s else {}
        colour = COLOURS.get(technique, "#555555")
        axis.plot(times, [point.share for point in piece], color=colour, linewidth=1.6, **marker)
        expected = next((a.expected for a in answers if a.technique == technique and a.epoch == bridge), None)
        if bridge and zero_s and expected is not None:
            axis.plot([times[0], times[-1]], [expected] * 2, color=colour, linestyle=":", linewidth=1.6)


def _lines(axes: Any, outage: Outage, start_s: float, end_s: float, zero_s: float) -> None:
    """At the kill, the first answer and the heal."""
    moments = ((0.0, KILL, "-"), (outage.first_answer_s, FIRST, "--"), (outage.healed_s, HEALED, "-"))
    for since_s, colour, style in moments:
        if since_s is None or not start_s <= outage.killed_s + since_s <= end_s:
            continue
        at = (outage.killed_s + since_s - zero_s) * _scale(zero_s)
        for axis in axes:
            axis.axvline(at, color=colour, linestyle=style, linewidth=1.1, alpha=0.9)


def _close_labels(axes: Any, outage: Outage) -> None:
    technique = "new plan" if outage.technique == "repartition" else outage.technique or "no answer"
    said = [f"{outage.node} killed: {technique}"]
    if outage.first_answer_s is not None:
        said.append(f"first answer {outage.first_answer_s * 1e3:.0f} ms")
    if outage.healed_s is not None:
        said.append(f"healed {outage.healed_s * 1e3:.0f} ms")
    axes[0].set_title(f"{said[0]}\n{', '.join(said[1:])}", loc="left", fontsize=10)
    axes[1].set_xlabel("time since the kill / ms")


def _limits(axes: Any, timeline: Timeline) -> None:
    """A burst of frames that had waited may leave the picture: it would hide everything else."""
    rates = sorted(piece.frames / BIN_S for piece in bins(timeline.answers, BIN_S, 0.0, _end_s(timeline)))
    axes[0, 0].set_ylim(0, 2.2 * max(rates[len(rates) // 2], 1.0))
    shares = [point.share for point in rolling_accuracy(timeline.answers, ROLLING, LEAST)]
    axes[1, 0].set_ylim(max(0.0, min(0.95, min(shares, default=1.0)) - 0.05), 1.01)
    axes[1, 0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _end_s(timeline: Timeline) -> float:
    return timeline.answers[-1].at_s if timeline.answers else 1.0


def _techniques(timeline: Timeline) -> list[str]:
    """Those that were used, in the order of their first use."""
    return list(dict.fromkeys(answer.technique for answer in timeline.answers))


def _legend(figure: Any, timeline: Timeline) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=COLOURS.get(name, "#555555"), label=NAMES.get(name, name)) for name in _techniques(timeline)
    ]
    if timeline.outages:
        handles.append(Line2D([], [], color=KILL, label="kill"))
        handles.append(Line2D([], [], color=FIRST, linestyle="--", label="first answer"))
        handles.append(Line2D([], [], color=HEALED, label="healed"))
        handles.append(Line2D([], [], color="#555555", linestyle=":", label="expected accuracy"))
    if timeline.marks:
        handles.append(Line2D([], [], color="#777777", linestyle="-.", label=timeline.marks[0][1]))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
