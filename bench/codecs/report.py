"""Tables and JSON of what `bench.codecs` measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.codecs.measure import CODECS, MAX_LOSS, CutResult, Measured, PlanResult, lossy_half
from bench.document import Figure, at_least, figure
from stages.manifest import CodecLoss

HEADLINE_MBIT_PER_S = 100
"""Links up to this are slow."""


def show(console: Console, measured: Sequence[Measured]) -> None:
    for one in measured:
        console.print()
        console.print(_cuts(one))
        console.print(_together(one))
        console.print(_plans(one))


def details(measured: Sequence[Measured]) -> dict[str, Any]:
    """Everything as JSON values; METHODOLOGY.md lists the fields."""
    return {"networks": {one.name: _network(one) for one in measured}}


def headlines(measured: Sequence[Measured]) -> list[Figure]:
    """Of each network: what `int8` costs, and what the planner expects of codecs on slow links."""
    found = []
    for one in measured:
        loss = one.at_all["int8"]
        note = f"{one.images} images, 95 % interval {100 * loss.low:+.2f} to {100 * loss.high:+.2f}"
        found.append(figure(f"{one.name}: loss with int8 at every cut", 100 * loss.value, "points", note=note))
        for plan in one.plans:
            if plan.max_loss is not None and plan.mbit_per_s <= HEADLINE_MBIT_PER_S:
                name = f"{one.name}: frames/s at {plan.mbit_per_s:g} Mbit/s, {_allowed(plan)} / no codec"
                found.append(at_least(name, _gain(one, plan), 1.0, note=f"predicted; {', '.join(plan.codecs)}"))
    return found


def _allowed(plan: PlanResult) -> str:
    return {None: "none", 0.0: "lossless"}.get(plan.max_loss, f"loss <= {100 * MAX_LOSS:g} points")


def _gain(one: Measured, plan: PlanResult) -> float:
    """Frames per second, relative to the plan without codecs on the same links."""
    base = next(other for other in one.plans if other.mbit_per_s == plan.mbit_per_s and other.max_loss is None)
    return base.bottleneck_s / plan.bottleneck_s


def _network(one: Measured) -> dict[str, Any]:
    return {
        "images": one.images,
        "accuracy": one.accuracy,
        "cuts": [_cut(result) for result in one.cuts],
        "plan_cuts": list(one.plan_cuts),
        "loss_at_plan": {codec: loss.model_dump() for codec, loss in one.at_plan.items()},
        "loss_at_all": {codec: loss.model_dump() for codec, loss in one.at_all.items()},
        "plans": [asdict(plan) for plan in one.plans],
    }


def _cut(result: CutResult) -> dict[str, Any]:
    return {
        "codec": result.codec,
        "cut": result.cut,
        "size_bytes": result.size_bytes,
        "ratio": result.cost.ratio,
        "encode_us": result.encode_s * 1e6,
        "decode_us": result.decode_s * 1e6,
        "break_even_mbit_per_s": mbit_per_s(result.break_even_bytes_per_s),
        "loss": None if result.loss is None else result.loss.model_dump(),
    }


def mbit_per_s(bytes_per_s: float) -> float:
    return bytes_per_s * 8 / 1e6


def _cuts(one: Measured) -> Table:
    table = Table(
        title=f"{one.name}: share of the bytes, us to encode + decode, break-even Mbit/s (change of accuracy, points)",
        title_justify="left",
    )
    table.add_column("cut", justify="right")
    table.add_column("bytes", justify="right")
    for codec in CODECS:
        table.add_column(codec, justify="right")
    for cut in sorted({result.cut for result in one.cuts}):
        row = {result.codec: result for result in one.cuts if result.cut == cut}
        table.add_row(str(cut), str(row[CODECS[0]].size_bytes), *(_cell(row[codec]) for codec in CODECS))
    return table


def _cell(result: CutResult) -> str:
    text = f"{result.cost.ratio:.2f}  {result.encode_s * 1e6:.0f}+{result.decode_s * 1e6:.0f}"
    text += f"  {mbit_per_s(result.break_even_bytes_per_s):.0f}"
    return text if result.loss is None else f"{text} ({_points(result.loss)})"


def _points(loss: CodecLoss) -> str:
    return f"{0 - 100 * loss.value:+.2f}"


def _together(one: Measured) -> Table:
    table = Table(
        title=f"{one.name}: change of accuracy in points on {one.images} images (95 % interval), healthy "
        f"{one.accuracy:.2%}",
        title_justify="left",
    )
    cuts = ", ".join(map(str, one.plan_cuts))
    for column in ("codec", f"at the cuts of 4 equal stages ({cuts})", "at every cut at once"):
        table.add_column(column)
    for codec in sorted({lossy_half(codec) for codec in CODECS} & set(one.at_all)):
        table.add_row(codec, _interval(one.at_plan[codec]), _interval(one.at_all[codec]))
    return table


def _interval(loss: CodecLoss) -> str:
    return f"{_points(loss)} ({0 - 100 * loss.high:+.2f} to {0 - 100 * loss.low:+.2f})"


def _plans(one: Measured) -> Table:
    table = Table(
        title=f"{one.name}: what the planner makes of it, 4 nodes as fast as this machine, predicted",
        title_justify="left",
    )
    for column in ("Mbit/s", "codecs allowed", "codec of each link"):
        table.add_column(column)
    for column in ("frames/s", "latency ms", "times as many"):
        table.add_column(column, justify="right")
    for plan in one.plans:
        table.add_row(
            f"{plan.mbit_per_s:g}",
            _allowed(plan),
            ", ".join(plan.codecs),
            f"{1 / plan.bottleneck_s:.1f}",
            f"{plan.latency_s * 1e3:.1f}",
            f"{_gain(one, plan):.2f}",
        )
    return table
