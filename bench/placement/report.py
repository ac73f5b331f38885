"""What `bench.placement` prints and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.document import Figure, at_least, figure, none_of
from bench.emulating import show_figures
from bench.harness import percentile
from bench.placement.measure import METHODS, Ratio, Result, Series, ratios
from bench.planner.report import geometric_mean

Results = Mapping[Series, Sequence[Result]]

FASTER = 0.98
"""A method whose plan is faster than ours by more than the measurement's repeatability."""

AS_PREDICTED = 0.10


def show(console: Console, results: Results) -> None:
    for series, several in results.items():
        console.print(_table(series, several))
    show_figures(console, figures(results))


def _table(series: Series, results: Sequence[Result]) -> Table:
    table = Table(title=series.title, title_justify="left")
    table.add_column("method")
    for column in ("stages", "frames/s", "spread", "planned", "of plan", "ours / it", "planned", "alone ms", "planned"):
        table.add_column(column, justify="right")
    table.add_column("cores busy", justify="right")
    table.add_column("bottleneck")
    ours = results[0].measured
    for result in results:
        found = result.measured
        if found is None or ours is None:
            table.add_row(result.method, *[""] * 10, result.reason)
            continue
        note = "; CPU-bound: not comparable" if found.cpu_bound else "; the same plan as ours" if result.same else ""
        table.add_row(
            result.method,
            str(len(found.stages)),
            f"{found.frames_per_s:.2f}",
            f"{found.slices.spread:.1%}",
            f"{found.planned_per_s:.2f}",
            f"{found.of_plan:.1%}",
            f"{ours.frames_per_s / found.frames_per_s:.2f}",
            f"{ours.planned_per_s / found.planned_per_s:.2f}",
            f"{percentile(found.alone_ms, 0.5):.0f}",
            f"{found.planned_ms:.0f}",
            "not known" if found.cpu_busy is None else f"{found.cpu_busy:.0%}",
            found.bottleneck + note,
        )
    return table


def figures(results: Results) -> list[Figure]:
    every = [ratio for several in results.values() for ratio in ratios(several)]
    found = [own for method in METHODS if (own := _of_method(method, every)) is not None]
    least = min((ratio.measured for ratio in every), default=None)
    off = max((ratio.measured / ratio.predicted for ratio in every), key=lambda value: abs(value - 1), default=None)
    measured = [result.measured for several in results.values() for result in several if result.measured is not None]
    faults = sum(each.faults for each in measured)
    return [
        *found,
        at_least(
            "ours / the best other plan, the least",
            least,
            FASTER,
            note=f"{len(every)} comparisons; CPU-bound ones left out",
        ),
        Figure(
            name="measured / predicted ratio, the farthest from 1",
            value=off,
            wanted="0.90 to 1.10",
            met=None if off is None else abs(off - 1) <= AS_PREDICTED,
        ),
        none_of("answers wrong, lost or twice", faults),
    ]


def _of_method(method: str, every: Sequence[Ratio]) -> Figure | None:
    own = [ratio for ratio in every if ratio.method == method]
    if not own:
        return None
    predicted = geometric_mean([ratio.predicted for ratio in own])
    note = f"predicted: {predicted:.3g}; geometric mean over {len(own)} cluster{'s' * (len(own) > 1)}"
    return figure(f"throughput: ours / {method}", geometric_mean([ratio.measured for ratio in own]), "times", note=note)


def details(results: Results) -> dict[str, Any]:
    """As JSON values; METHODOLOGY.md lists the fields."""
    return {
        "series": [
            {
                "model": series.model,
                "bandwidth": series.bandwidth,
                "nodes": series.nodes,
                "seed": series.seed,
                "ratios": ratios(several),
                "plans": [_plan(result) for result in several],
            }
            for series, several in results.items()
        ],
    }


def _plan(result: Result) -> dict[str, Any]:
    found = result.measured
    said = {"reason": result.reason} if found is None else {"same_as_ours": result.same, **found.document()}
    return {"method": result.method, **said}
