"""The demo for people: the live table with a line on what happens, and the summary."""

from __future__ import annotations

import asyncio
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from understudy.demo import Demo, Outcome
from understudy.eventview import COLOURS
from understudy.local import LocalCluster
from understudy.timeline import Outage
from understudy.view import status_view

REFRESH_S = 0.25


async def run_live(demo: Demo, cluster: LocalCluster, console: Console) -> Outcome:
    """Run the demo, with a live table where the console is a terminal."""
    document = await cluster.status() or {}
    with Live(status_view(document), console=console, auto_refresh=False, transient=False) as live:
        refresh = asyncio.create_task(_refresh(demo, cluster, live), name="demo-table")
        try:
            return await demo.run()
        finally:
            refresh.cancel()
            await asyncio.gather(refresh, return_exceptions=True)
            if (last := await cluster.status()) is not None:
                live.update(status_view(last, footer=_footer(demo)), refresh=True)


async def _refresh(demo: Demo, cluster: LocalCluster, live: Live) -> None:
    while True:
        document = await cluster.status() or _silence(cluster)
        live.update(status_view(document, footer=_footer(demo)), refresh=True)
        await asyncio.sleep(REFRESH_S)


def _silence(cluster: LocalCluster) -> dict[str, Any]:
    """In place of a status document, while no controller answers."""
    return {
        "pipeline": cluster.pipeline,
        "epoch": "-",
        "nodes": [],
        "state": "no controller",
        "reason": "frames flow on meanwhile",
        "frames_per_s": 0.0,
        "in_flight": "-",
        "waiting": "-",
        "answered": "-",
        "failed": "-",
    }


def _footer(demo: Demo) -> Text:
    outcome = demo.outcome
    accuracy = outcome.timeline.right / outcome.answered if outcome.answered else 0.0
    text = Text(f"{outcome.answered} answers so far, {accuracy:.2%} right", style="dim")
    for outage in outcome.timeline.outages:
        text.append("\n").append_text(outage_line(outage))
    if demo.now:
        text.append(f"\n{demo.now} ...", style="dim")
    return text


def outage_line(outage: Outage) -> Text:
    """`node3 killed -> standby in 12.3 ms -> healed in 61.0 ms`, as far as it has come."""
    text = Text.assemble((f"{outage.node} killed", "bold red"))
    if outage.first_answer_s is None:
        return text.append(" -> ...")
    text.append(" -> ").append_text(_technique(outage)).append(f" in {outage.first_answer_s * 1e3:.1f} ms")
    if outage.technique == "repartition":
        return text
    if outage.healed_s is None:
        return text.append(" -> ...")
    return text.append(" -> ").append(f"healed in {outage.healed_s * 1e3:.1f} ms", style="green")


def _technique(outage: Outage) -> Text:
    name = "new plan" if outage.technique == "repartition" else outage.technique
    return Text(outage.exit or name, style=COLOURS.get(outage.technique, "blue"))


def summary_view(outcome: Outcome) -> Table:
    """What was measured, over all and around each failure."""
    document = outcome.document()
    latency = document["latency_ms"]
    table = Table(title="summary", title_justify="left", show_header=False)
    table.add_row("stages", "\n".join(outcome.stages))
    table.add_row(
        "frames",
        f"{outcome.published} published, {outcome.answered} answered, {outcome.lost} lost, "
        f"{outcome.twice} answered twice",
    )
    if outcome.errors:
        table.add_row("errors", str(outcome.errors))
    if outcome.answered:
        table.add_row("accuracy", f"{document['accuracy']:.2%} measured, {_share(outcome.expected_accuracy)} expected")
        table.add_row("throughput", f"{document['frames_per_s']:.0f} frames/s")
        table.add_row("latency", f"{latency['median']:.2f} ms median, {latency['p95']:.2f} ms p95")
    for outage in outcome.timeline.outages:
        table.add_section()
        table.add_row(f"{outage.node} killed", _outage_text(outage))
    return table


def _outage_text(outage: Outage) -> Text:
    if outage.first_answer_s is None:
        return Text("no answer since", style="red")
    lines = [
        Text.assemble(f"first answer {outage.first_answer_s * 1e3:.1f} ms after the kill, by ", _technique(outage)),
        Text(f"longest time without an answer {outage.pause_s * 1e3:.1f} ms"),
    ]
    if outage.bridged:
        shares = f"{_share(outage.measured)} right, {_share(outage.expected)} expected"
        lines.append(Text(f"{outage.bridged} frames answered by it: {shares}"))
    healed = "not healed" if outage.healed_s is None else f"full plan again after {outage.healed_s * 1e3:.1f} ms"
    return Text("\n").join([*lines, Text(healed)])


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2%}"
