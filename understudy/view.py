"""A status document as a rich table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from understudy.cli.units import format_bytes


def status_view(document: Mapping[str, Any], *, footer: RenderableType | None = None) -> Group:
    """Nodes in the order of their stages, then one line of totals."""
    table = Table(title=f"pipeline {document['pipeline']}  epoch {document['epoch']}", title_justify="left")
    for column in ("node", "pid", "blocks", "role"):
        table.add_column(column)
    for column in ("frames", "busy s", "rss", "stage limit"):
        table.add_column(column, justify="right")
    table.add_column("state")
    for node in sorted(document["nodes"], key=_order):
        table.add_row(*_row(node))
    totals = Text(
        f"{document['state']}  {document['frames_per_s']:.1f} frames/s  in flight {document['in_flight']}  "
        f"waiting {document['waiting']}  answered {document['answered']}  failed {document['failed']}"
    )
    codecs = ", ".join(f"cut {hop['cut']} to {hop['to']} {hop['codec']}" for hop in document.get("codecs", ()))
    if codecs:
        totals.append(f"\ncodecs: {codecs}")
    if document["reason"]:
        totals.append(f"\n{document['reason']}", style="yellow")
    return Group(table, totals, *([footer] if footer is not None else []))


def _order(node: Mapping[str, Any]) -> tuple[float, str]:
    return (node["stages"][0][0] if node["stages"] else float("inf"), node["name"])


def _row(node: Mapping[str, Any]) -> tuple[str | Text, ...]:
    blocks = ", ".join(f"{first}-{end - 1}" if end - first > 1 else str(first) for first, end in node["stages"])
    state = Text("alive", style="green") if node["alive"] else Text("gone", style="red")
    if node["failure"]:
        state = Text(node["failure"], style="red")
    return (
        node["name"],
        str(node["pid"]),
        blocks or "-",
        "head" if node["head"] else "stage" if blocks else "spare",
        str(node["frames"]),
        f"{node['busy_s']:.1f}",
        format_bytes(node["rss_bytes"]),
        format_bytes(node["memory_bytes"]) if node["memory_bytes"] else "-",
        state,
    )
