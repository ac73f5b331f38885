"""The picture of `--plot`: latency as predicted over latency as measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.continuer.cases import TECHNIQUES
from bench.continuer.latency import Outcome
from bench.plotter import load_plotter


def plot(found: Sequence[Outcome], path: Path) -> None:
    """Left from the profile alone, with intervals; right after the calibration."""
    plt = load_plotter()
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), sharex=True, sharey=True)
    longest = 1e3 * max(max(outcome.measured_s, outcome.high_s) for outcome in found)
    for axis, title in zip(axes, ("from the profile", "after 8 runs of what is deployed"), strict=True):
        axis.plot([0, longest], [0, longest], color="black", linewidth=0.8)
        axis.set(xlabel="measured, ms", title=title)
    axes[0].set_ylabel("predicted, ms")
    markers = dict(zip(dict.fromkeys(outcome.network for outcome in found), "os^v", strict=False))
    for network, marker in markers.items():
        for color, technique in enumerate(TECHNIQUES):
            same = [o for o in found if o.network == network and o.case.technique == technique]
            if not same:
                continue
            style = {"fmt": marker, "color": f"C{color}", "label": f"{network}, {technique}", "alpha": 0.7}
            measured = [1e3 * outcome.measured_s for outcome in same]
            widths = [[1e3 * (o.predicted_s - o.low_s) for o in same], [1e3 * (o.high_s - o.predicted_s) for o in same]]
            axes[0].errorbar(measured, [1e3 * outcome.predicted_s for outcome in same], yerr=widths, **style)
            axes[1].errorbar(measured, [1e3 * outcome.calibrated_s for outcome in same], **style)
    axes[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
