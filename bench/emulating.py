"""What benchmarks on emulated clusters share: their options, the image, and what they write."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.table import Table

from bench import document, harness
from bench.document import Busy, BusyMeter, Figure
from bench.plotter import can_plot
from understudy.emulation import engine
from understudy.emulation.project import IMAGE
from understudy.emulation.rehearsal import build_image

R = TypeVar("R")

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


async def prepared_image(given: str | None, say: Callable[[str], None]) -> str:
    """The image that all containers are made of.

    Raises:
        EmulationError: there is no engine, or the image cannot be built.
    """
    await engine.check_engine()
    if given is None:
        await build_image(None, say)
    return given or IMAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark(Generic[R]):
    """What makes one of them: how it measures, and what of it is shown, written and drawn.

    Attributes:
        good: whether every answer was right, and something was measured.
    """

    name: str
    measure: Callable[[argparse.Namespace, str, Path, Callable[[str], None]], Awaitable[R]]
    show: Callable[[Console, R], None]
    figures: Callable[[R], Sequence[Figure]]
    details: Callable[[R], Mapping[str, Any]]
    plot: Callable[[R, Path], None]
    good: Callable[[R], bool]


def run(benchmark: Benchmark[R], options: argparse.Namespace) -> int:
    """The exit code."""
    console = harness.terminal(190)
    if not can_plot(options.plot, console):
        return 2
    say, meter = harness.teller(console), BusyMeter()

    async def measured(folder: Path) -> bool:
        image = await prepared_image(options.image, say)
        found = await benchmark.measure(options, image, folder, say)
        benchmark.show(console, found)
        write(options, benchmark.name, benchmark.figures(found), benchmark.details(found), meter.read())
        if options.plot is not None:
            benchmark.plot(found, options.plot)
        return benchmark.good(found)

    with harness.scratch() as (folder, _):
        code = harness.run(measured(folder), console)
    say("done")
    return code


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
