"""The handful of figures that a benchmark is about, beside what was wanted of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """`wanted`: in words; `met`: None where nothing is wanted, or it could not be told."""

    name: str
    value: float | None
    unit: str
    wanted: str = ""
    met: bool | None = None
    note: str = ""


def show_figures(console: Console, figures: Sequence[Figure]) -> None:
    table = Table(title="figures", title_justify="left")
    for column in ("figure", "value", "wanted", "met", "note"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for figure in figures:
        value = "not known" if figure.value is None else f"{figure.value:.4g} {figure.unit}".strip()
        met = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[figure.met]
        table.add_row(figure.name, value, figure.wanted, met, figure.note)
    console.print(table)
