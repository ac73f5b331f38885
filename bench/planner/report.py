"""Tables of what `bench.planner` measured, and what of SEIFER's published figures is seen in it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.document import Figure, at_most, figure, none_of
from bench.planner.measure import METHODS, Measured, Record

WANTED_S = {20: 0.25, 50: 1.0, 200: 10.0}
REPLAN_WANTED_S = 0.05
RANDOM_FACTOR, GREEDY_REDUCTION, OPTIMUM_GAP = 10.0, 0.35, 0.092
"""What SEIFER's papers publish: random / SEIFER, 1 - SEIFER / greedy, SEIFER / optimum - 1."""


def show(console: Console, measured: Measured) -> None:
    console.print()
    for chains, title in ((False, "nine light models"), (True, "synthetic chain of 60 blocks")):
        records = [record for record in measured.published if record.chain.startswith("synthetic") == chains]
        console.print(quality(records, f"SEIFER's distribution, {title}: plan / optimum, geometric mean (worst)"))
        console.print(left_out(records), style="dim")
    console.print(quality(measured.heterogeneous, "Heterogeneous clusters: plan / optimum, geometric mean (worst)"))
    console.print(times(measured))
    console.print(naive_table(measured.naive))
    console.print(hard_table(measured.hard))
    for line in verdicts(measured.published):
        console.print(line)
    for record in measured.all():
        for fault in record.faults:
            console.print(f"[red]{record.family}/{record.chain}/n={record.nodes}/seed={record.seed}: {fault}[/]")


def document(measured: Measured) -> dict[str, Any]:
    """Everything as JSON values; METHODOLOGY.md lists the fields."""
    return {
        "published": [_plain(record) for record in measured.published],
        "heterogeneous": [_plain(record) for record in measured.heterogeneous],
        "naive": [_plain(record) for record in measured.naive],
        "hard": [_plain(record) for record in measured.hard],
        "replans": [asdict(replan) for replan in measured.replans],
        "published_figures": figures(planned(measured.published)),
    }


def headlines(measured: Measured) -> list[Figure]:
    """For `bench.document`."""
    published = figures(planned(measured.published))
    solves = {count: [r.solve_s for r in measured.heterogeneous if r.nodes == count] for count in WANTED_S}
    found = [
        at_most(f"planning, {count} nodes", 1e3 * float(np.percentile(seconds, 95)), 1e3 * WANTED_S[count], "ms, p95")
        for count, seconds in solves.items()
        if seconds
    ]
    again = [replan.solve_s for replan in measured.replans]
    if again:
        found.append(at_most("a new plan", 1e3 * float(np.percentile(again, 95)), 1e3 * REPLAN_WANTED_S, "ms, p95"))
    proven = [record.proven for record in planned(measured.published)]
    if proven:
        found.append(figure("plans proven to be the best", 100 * sum(proven) / len(proven), "%"))
    factor, gap = published["random / seifer"], published["seifer gap, mean"]
    found += [
        figure("random / SEIFER", factor, "times the bottleneck", note=f"published: {RANDOM_FACTOR:g}"),
        figure("SEIFER above the optimum", gap and 100 * gap, "%, mean", note=f"published: {100 * OPTIMUM_GAP:g}"),
        none_of("plans that break a rule", sum(len(record.faults) for record in measured.all())),
    ]
    return found


def _plain(record: Record) -> dict[str, Any]:
    """Infinity is not JSON."""
    return {
        key: None if isinstance(value, float) and not isfinite(value) else value
        for key, value in asdict(record).items()
    }


def planned(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.outcome == "planned"]


def geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


# ---- quality -------------------------------------------------------------------------------------------------------


def quality(records: Sequence[Record], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("cluster", "nodes", "memory", "instances"):
        table.add_column(name, justify="left" if name == "cluster" else "right")
    for method in METHODS:
        table.add_column(method, justify="right")
    table.add_column("proven", justify="right")
    for (family, nodes, memory), group in _grouped(planned(records), lambda r: (r.family, r.nodes, r.memory)):
        cells = [_ratio_cell(group, method) for method in METHODS]
        table.add_row(family, str(nodes), memory, str(len(group)), *cells, _share(record.proven for record in group))
    if not table.row_count:
        table.add_row("none", *[""] * (len(table.columns) - 1))
    return table


def _ratio_cell(group: Sequence[Record], method: str) -> str:
    ratios = [ratio for record in group if (ratio := record.ratio(method)) is not None]
    none = sum(record.values.get(method) is None for record in group) / len(group)
    cell = f"{geometric_mean(ratios):.2f} ({max(ratios):.2f})" if ratios else "-"
    return f"{cell}, none {none:.0%}" if none else cell


def left_out(records: Sequence[Record]) -> str:
    one = sum(record.outcome == "one node" for record in records)
    none = sum(record.outcome in ("no plan", "gave up") for record in records)
    return f"{len(records)} instances; left out: {one} where one node holds the model, {none} without a plan."


# ---- time ----------------------------------------------------------------------------------------------------------


def times(measured: Measured) -> Table:
    table = Table(title="The planner's time", title_justify="left")
    for name in ("cluster", "nodes", "solves", "proven", "certified", "median", "p95", "max", "wanted", "within"):
        table.add_column(name, justify="left" if name == "cluster" else "right")
    records = [record for record in (*measured.published, *measured.heterogeneous) if record.outcome != "one node"]
    for (family, nodes), group in _grouped(records, lambda r: (r.family, r.nodes)):
        certified = [record.certified for record in group if record.certified is not None]
        wanted = WANTED_S.get(nodes) if nodes >= 20 else WANTED_S[20]
        table.add_row(
            family,
            str(nodes),
            str(len(group)),
            _share(record.proven for record in group),
            _share(certified) if certified else "",
            *_time_cells([record.solve_s for record in group], wanted),
        )
    for (change,), replans in _grouped(measured.replans, lambda r: (r.change,)):
        cells = _time_cells([replan.solve_s for replan in replans], REPLAN_WANTED_S)
        table.add_row(change, "20", str(len(replans)), _share(replan.proven for replan in replans), "", *cells)
    return table


def _time_cells(seconds: Sequence[float], wanted_s: float | None) -> list[str]:
    ordered = [float(np.percentile(seconds, percent)) for percent in (50, 95, 100)]
    cells = [f"{value * 1e3:.0f} ms" for value in ordered]
    if wanted_s is None:
        return [*cells, "", ""]
    return [*cells, f"{wanted_s * 1e3:.0f} ms", _share(value <= wanted_s for value in seconds)]


def naive_table(records: Sequence[Record]) -> Table:
    table = Table(title="Against the naive exact method, one after the other", title_justify="left")
    for name in ("nodes", "instances", "naive, median", "planner, median", "naive / planner, median", "least", "most"):
        table.add_column(name, justify="right")
    for (nodes,), group in _grouped(planned(records), lambda r: (r.nodes,)):
        pairs = [(record.naive_s, record.solve_s) for record in group if record.naive_s is not None]
        ratios = [one / other for one, other in pairs]
        naive_s, ours_s = (statistics.median(column) for column in zip(*pairs, strict=True))
        cells = (f"{value:.1f}" for value in (statistics.median(ratios), min(ratios), max(ratios)))
        table.add_row(str(nodes), str(len(pairs)), f"{naive_s * 1e3:.1f} ms", f"{ours_s * 1e3:.1f} ms", *cells)
    return table


def hard_table(records: Sequence[Record]) -> Table:
    table = Table(title="Hard instances", title_justify="left")
    for name in ("kind", "nodes", "blocks", "seed", "stages", "time", "limit", "gap", "best other method"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for record in records:
        known = [(value, method) for method, value in record.values.items() if value is not None]
        best = ""
        if known and record.bottleneck_s > 0:
            value, method = min(known)
            best = f"{value / record.bottleneck_s:.2f} ({method})"
        undone = record.outcome in ("no plan", "gave up")
        gap = record.outcome if undone else "proven" if record.proven else f"{record.gap:.1%}"
        cells = (record.nodes, record.blocks, record.seed, record.stages)
        seconds = f"{record.solve_s:.2f} s"
        table.add_row(record.memory, *map(str, cells), seconds, f"{record.limit_s:.0f} s", gap, best)
    return table


# ---- what is published ---------------------------------------------------------------------------------------------


def figures(records: Sequence[Record]) -> dict[str, float | int | None]:
    """The published figures as measured here, over instances for which all methods of the comparison have a plan."""
    gaps = [ratio - 1 for record in records if (ratio := record.ratio("seifer")) is not None]
    found: dict[str, float | int | None] = {"instances": len(records)}
    for method in METHODS[:-1]:
        pairs = [(record.values.get(method), record.values.get("seifer")) for record in records]
        ratios = [one / other for one, other in pairs if one is not None and other]
        found[f"{method} / seifer"] = geometric_mean(ratios) if ratios else None
        found[f"{method} / seifer, arithmetic"] = float(np.mean(ratios)) if ratios else None
    found["seifer gap, mean"] = float(np.mean(gaps)) if gaps else None
    found["seifer gap, worst"] = max(gaps, default=None)
    found["seifer optimal, share"] = sum(gap <= 1e-9 for gap in gaps) / len(gaps) if gaps else None
    return found


def verdicts(records: Sequence[Record]) -> list[str]:
    """In words, with what was measured next to what is published."""
    lines = ["What of SEIFER's published figures is seen here (its distribution, our models and implementations):"]
    kept = planned(records)
    groups = [("light models", [r for r in kept if not r.chain.startswith("synthetic")])]
    groups.append(("synthetic chain", [r for r in kept if r.chain.startswith("synthetic")]))
    groups.append(("all", kept))
    groups.append(("all, 50 nodes", [r for r in kept if r.nodes == 50]))
    for name, group in groups:
        found = figures(group)
        random, gap, arithmetic = (
            found[key] for key in ("random / seifer", "seifer gap, mean", "random / seifer, arithmetic")
        )
        first, best = found["greedy / seifer"], found["greedy xn / seifer"]
        if random is None or arithmetic is None or first is None or best is None or gap is None:
            lines.append(f"  {name}: nothing to compare")
            continue
        lines.append(
            f"  {name} ({found['instances']} instances): random takes {random:.1f}x SEIFER's bottleneck, "
            f"{arithmetic:.1f}x as an arithmetic mean (published: 10x, {_verdict(random >= RANDOM_FACTOR)} and "
            f"{_verdict(arithmetic >= RANDOM_FACTOR)}); SEIFER's is {_reduction(first)} than greedy's from one node "
            f"and {_reduction(best)} than greedy's from every node (published: 35 % less, "
            f"{_verdict(1 - 1 / first >= GREEDY_REDUCTION)} and {_verdict(1 - 1 / best >= GREEDY_REDUCTION)}); it is "
            f"{gap:.1%} above the optimum on average, {found['seifer gap, worst']:.0%} at worst (published: 9.2 %, "
            f"{'confirmed' if gap <= OPTIMUM_GAP else 'not reproduced: it is more'})"
        )
    return lines


def _verdict(reproduced: bool) -> str:
    return "reproduced" if reproduced else "not reproduced"


def _reduction(ratio: float) -> str:
    change = 1 - 1 / ratio
    return f"{change:.0%} less" if change >= 0 else f"{-change:.0%} more"


def _share(flags: Iterable[bool | None]) -> str:
    values = list(flags)
    return f"{sum(map(bool, values)) / len(values):.0%}" if values else ""


def _grouped(items: Iterable[Any], key: Callable[[Any], tuple[Any, ...]]) -> list[tuple[tuple[Any, ...], list[Any]]]:
    """In the order of first appearance."""
    groups: defaultdict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.items())
