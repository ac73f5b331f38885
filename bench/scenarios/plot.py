"""The picture of `--plot`: for each scenario throughput, accuracy and latency over time, with the faults marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.scenarios.report import REPAIRING, Rehearsed
from bench.scenarios.series import SLOT_S, accuracy
from understudy.picture import COLOURS, HEALED, KILL, NAMES

COLUMNS = 2
AROUND = 5
"""Slots that an accuracy is of."""

_WIDTH, _HEIGHT = 6.4, 4.4
_OTHER = "#555555"
_LINE = "#1f1f1f"
_LETTER = 0.0125
"""The width of a letter, as a share of the picture's."""


def draw(runs: Sequence[Rehearsed], path: Path, plt: Any) -> None:
    """Write it; `plt` is matplotlib.pyplot."""
    columns = min(COLUMNS, len(runs)) or 1
    rows = math.ceil(len(runs) / columns) or 1
    figure = plt.figure(figsize=(_WIDTH * columns, _HEIGHT * rows + 0.5), layout="constrained")
    panels = figure.subfigures(rows, columns, squeeze=False, wspace=0.03, hspace=0.05)
    for number, run in enumerate(runs):
        _panel(panels[number // columns][number % columns], run)
    _legend(figure, runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _panel(panel: Any, run: Rehearsed) -> None:
    throughput, right, latency = panel.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [2, 1, 1.3]})
    panel.suptitle(f"{run.name}: {_said(run)}", fontsize=10, x=0.01, ha="left")
    times = [slot.at_s for slot in run.slots]
    below = [0.0] * len(run.slots)
    for technique in _techniques([run]):
        rates = [slot.answers.get(technique, 0) / SLOT_S for slot in run.slots]
        colour = COLOURS.get(technique, _OTHER)
        throughput.bar(times, rates, bottom=below, width=SLOT_S, align="edge", color=colour, linewidth=0)
        below = [one + other for one, other in zip(below, rates, strict=True)]
    throughput.set_ylabel("answers/s")
    # A burst of frames that had waited may leave the picture: it would hide everything else.
    throughput.set_ylim(0, max(1.0, 2.2 * run.document["published"] / run.document["seconds"]))
    middles = [at_s + SLOT_S / 2 for at_s in times]
    shares = [math.nan if share is None else share for share in accuracy(run.slots, AROUND)]
    right.plot(middles, shares, color=_LINE, linewidth=1.4)
    lowest = min((share for share in shares if not math.isnan(share)), default=1.0)
    right.set_ylim(min(0.88, lowest - 0.05), 1.02)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    right.set_ylabel("right")
    _latency(latency, run, middles)
    latency.set_xlabel("seconds")
    for axis in (throughput, right, latency):
        _mark(axis, run)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.set_xlim(0, times[-1] + SLOT_S)
    _name(throughput, run)
    panel.align_ylabels()


def _latency(axis: Any, run: Rehearsed, middles: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    largest = [math.nan if slot.largest_ms is None else slot.largest_ms for slot in run.slots]
    median = [math.nan if slot.median_ms is None else slot.median_ms for slot in run.slots]
    axis.plot(middles, largest, color="#9aa5b1", linewidth=1.0)
    axis.plot(middles, median, color=_LINE, linewidth=1.2)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=7))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylabel("latency, ms")


def _said(run: Rehearsed) -> str:
    document = run.document
    wrong = document["lost"] + document["answered_twice"] + document["wrong"]
    frames = f"{document['answered']} of {document['published']} frames answered"
    return f"{frames}, {'all rightly or labelled' if not wrong else f'{wrong} lost, twice or wrong'}"


def _mark(axis: Any, run: Rehearsed) -> None:
    for fault in run.document["faults"]:
        repairs = fault["action"] in REPAIRING
        axis.axvline(
            fault["at_s"], color=HEALED if repairs else KILL, linestyle="--" if repairs else "-", linewidth=1.1
        )
        if fault["full_ms"] is not None and not repairs:
            axis.axvline(fault["at_s"] + fault["full_ms"] / 1e3, color=_LINE, linestyle=":", linewidth=1.0)


def _name(axis: Any, run: Rehearsed) -> None:
    """The faults by name, above the picture; in two lines, where they are close together."""
    span = run.slots[-1].at_s + SLOT_S
    ends = [-math.inf, -math.inf]
    for fault in run.document["faults"]:
        text = f"{fault['action']} {fault['who']}"
        line = 0 if fault["at_s"] >= ends[0] or fault["at_s"] < ends[1] else 1
        ends[line] = fault["at_s"] + _LETTER * span * len(text)
        colour = HEALED if fault["action"] in REPAIRING else KILL
        where = (fault["at_s"], 1.03 + 0.14 * line)
        axis.text(*where, text, color=colour, fontsize=8, va="bottom", transform=axis.get_xaxis_transform())


def _techniques(runs: Sequence[Rehearsed]) -> list[str]:
    """Those that answers came by, the full plan first."""
    used = {name for run in runs for slot in run.slots for name in slot.answers}
    known = [name for name in COLOURS if name in used]
    return known + sorted(used - set(known))


def _legend(figure: Any, runs: Sequence[Rehearsed]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=COLOURS.get(name, _OTHER), label=NAMES.get(name, name)) for name in _techniques(runs)
    ]
    handles += [
        Line2D([], [], color=KILL, label="fault"),
        Line2D([], [], color=HEALED, linestyle="--", label="repair"),
        Line2D([], [], color=_LINE, linestyle=":", label="full accuracy again"),
        Line2D([], [], color=_LINE, label="median"),
        Line2D([], [], color="#9aa5b1", label="slowest"),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=(len(handles) + 1) // (1 if len(runs) > 1 else 2),
        frameon=False,
        fontsize=9,
    )
