"""One HTML page of all benchmarks that ran: figures, plots, the machine. It needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.document import Figure
from bench.suite import Ran
from broker.errors import UnderstudyError

TEMPLATE = Path(__file__).with_name("page.html")


class MissingTemplatesError(UnderstudyError):
    """jinja2 is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the documents say of it; packages of all of them."""

    facts: Mapping[str, str]
    packages: Mapping[str, str]


def load_environment() -> Any:
    """jinja2's, where everything is escaped.

    Raises:
        MissingTemplatesError: it is not installed; says how to get it.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingTemplatesError("the report needs jinja2: pip install jinja2") from error
    made = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"value": value_text, "wanted": wanted_text, "share": share_text, "picture": data_url}
    return made


def render(runs: Sequence[Ran], titles: Mapping[str, str], *, command: str, began: datetime, seconds: float) -> str:
    """The page. `titles`: what each benchmark is about."""
    figures = [figure for ran in runs if ran.document is not None for figure in ran.document.figures]
    noisy = [ran for ran in runs if ran.document and ran.document.busy and not ran.document.busy.quiet]
    return str(
        load_environment()
        .from_string(TEMPLATE.read_text())
        .render(
            runs=runs,
            titles=titles,
            command=command,
            began=began.strftime("%Y-%m-%d %H:%M"),
            minutes=seconds / 60,
            machine=machine_of(runs),
            noisy=noisy,
            met=sum(figure.met is True for figure in figures),
            missed=sum(figure.met is False for figure in figures),
            plain=sum(figure.met is None for figure in figures),
        )
    )


def machine_of(runs: Sequence[Ran]) -> Machine:
    facts: dict[str, str] = {}
    packages: dict[str, str] = {}
    for ran in runs:
        told = dict(ran.document.machine) if ran.document is not None else {}
        packages |= told.pop("packages", None) or {}
        facts |= {name: str(fact) for name, fact in told.items() if fact and not isinstance(fact, dict)}
    return Machine(facts=facts, packages=dict(sorted(packages.items(), key=lambda item: item[0].lower())))


def value_text(figure: Figure) -> str:
    """Three digits that count, more only before the point."""
    value = figure.value
    if value is None:
        return "–"  # noqa: RUF001 - a dash that is as wide as a digit
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def wanted_text(figure: Figure) -> str:
    text = "" if figure.wanted is None else str(figure.wanted)
    return text.replace("<=", "≤").replace(">=", "≥")


def share_text(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.0%}"


def data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
