"""What benchmarks on emulated clusters share: their options, the image, and what they write."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import document, harness
from bench.document import Busy, Figure
from bench.planner.plot import MissingPlotterError, load_plotter
from understudy.emulation import engine
from understudy.emulation.project import IMAGE
from understudy.emulation.rehearsal import build_image

PACKAGES = ("numpy", "onnx", "onnxruntime")


def add_options(parser: argparse.ArgumentParser) -> None:
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="little of everything")
    effort.add_argument("--full", action="store_true", help="everything: hours")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random; default: 0")
    parser.add_argument("--image", metavar="NAME", help="an image that is there; default: one is built")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it (needs matplotlib)")


def words(text: str) -> tuple[str, ...]:
    """Of an option such as `10mbit,wifi`, each once."""
    return tuple(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))


def check(options: argparse.Namespace, console: Console) -> None:
    """Before minutes of measuring, not after them."""
    if options.plot is not None:
        try:
            load_plotter()
        except MissingPlotterError as error:
            console.print(f"[red]{error}[/]")
            sys.exit(2)


async def prepared_image(given: str | None, say: Callable[[str], None]) -> str:
    """The image that all containers are made of.

    Raises:
        EmulationError: there is no engine, or the image cannot be built.
    """
    await engine.check_engine()
    if given is None:
        await build_image(None, say)
    return given or IMAGE


def write(
    options: argparse.Namespace, name: str, figures: Sequence[Figure], details: Mapping[str, Any], busy: Busy
) -> None:
    """The JSON, if it is wanted."""
    if options.json is not None:
        head = {"full": options.full, "seed": options.seed}
        written = document.document(
            name, figures, {**head, **details}, quick=options.quick, packages=PACKAGES, busy=busy
        )
        harness.write_json(options.json, written)


def show_figures(console: Console, figures: Sequence[Figure]) -> None:
    table = Table(title="figures", title_justify="left")
    for column in ("figure", "value", "wanted", "met", "note"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for figure in figures:
        value = "not known" if figure.value is None else f"{figure.value:.4g} {figure.unit}".strip()
        met = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[figure.met]
        table.add_row(figure.name, value, str(figure.wanted), met, figure.note)
    console.print(table)
