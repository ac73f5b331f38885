"""Table VI of CONTINUER beside the accuracies of our bundles, measured and predicted."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from bench.continuer.accuracy import KINDS, Errors, Found, mean_of
from bench.document import Figure, at_least, at_most, figure
from bench.prepared import NETWORKS
from bench.recovery.report import table

PAPER_ERROR = "0-0.28 %, on the test set that it learnt on"
ERROR = 0.008
COVERED = 0.95


def show(console: Console, found: Sequence[Found], command: str) -> None:
    made = table(
        f"accuracies of bundles against fresh images, table VI; paper: {PAPER_ERROR}; wanted: anchored <= {ERROR:.1%}"
        f" ({command})",
        "network", "calibration", "technique", "parts", "accuracy", "error, raw", "anchored", "largest",
        "covered", "of fresh images",
    )  # fmt: skip
    for one in found:
        for kind in KINDS:
            errors = one.errors[kind]
            for technique in sorted({each.technique for each in errors}):
                mine = [each for each in errors if each.technique == technique]
                made.add_row(
                    NETWORKS[one.network].title, kind, technique, str(len(mine)),
                    f"{min(each.accuracy for each in mine):.1%} - {max(each.accuracy for each in mine):.1%}",
                    f"{mean_of(mine, 'raw'):.2%}", f"{mean_of(mine, 'anchored'):.2%}",
                    f"{max(each.largest for each in mine):.2%}",
                    f"{mean_of(mine, 'covered'):.1%}", f"{mean_of(mine, 'covered_fresh'):.1%}",
                )  # fmt: skip
        made.add_section()
    console.print(made)
    for one in found:
        console.print(
            f"{NETWORKS[one.network].title}: healthy {one.healthy:.2%}; {one.calibration_images} calibration and"
            f" {one.fresh_images} fresh images, {one.divisions} random divisions"
        )
    console.print(
        "covered: the fresh images' accuracy is within the bundle's 95 % interval; of fresh images: within it when it"
        " is widened by their own sampling"
    )


def figures(found: Sequence[Found]) -> list[Figure]:
    made = []
    for one in found:
        title = NETWORKS[one.network].title
        errors = one.errors["labelled"]
        made.append(_error(f"{title}: accuracy error, anchored", errors))
        for technique in sorted({each.technique for each in errors}):
            mine = [each for each in errors if each.technique == technique]
            made.append(_error(f"{title}, {technique}: accuracy error, anchored", mine))
        made += [
            at_least(f"{title}: interval covers fresh images", mean_of(errors, "covered_fresh"), COVERED),
            figure(f"{title}: accuracy error, no labels", mean_of(one.errors["unlabelled"], "anchored")),
            figure(f"{title}: accuracy error, training images", mean_of(one.errors["training images"], "anchored")),
        ]
    return made


def _error(name: str, errors: Sequence[Errors]) -> Figure:
    note = f"mean of {len(errors)} parts; table VI: {PAPER_ERROR}"
    return at_most(name, mean_of(errors, "anchored"), ERROR, note=note)
