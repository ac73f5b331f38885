"""matplotlib, for the pictures of `--plot`: it is needed for them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console


class MissingPlotterError(Exception):
    """matplotlib is not installed."""


def load_plotter() -> Any:
    """matplotlib.pyplot, drawing to files. Raises MissingPlotterError."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingPlotterError("--plot needs matplotlib: pip install matplotlib") from error
    return plt


def can_plot(path: Path | None, console: Console) -> bool:
    """Whether what `--plot` asks for can be drawn; if not, says why. Asked before minutes of measuring, not after."""
    if path is not None:
        try:
            load_plotter()
        except MissingPlotterError as error:
            console.print(f"[red]{error}[/]")
            return False
    return True
