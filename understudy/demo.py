"""The demo's work: stream held-out digits through a pipeline, compare the answers with the labels, show it live."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from understudy.client import connect
from understudy.data import digits_frames
from understudy.local import LocalCluster
from understudy.result import Result
from understudy.result_line import result_line
from understudy.view import status_view

REFRESH_S = 0.25


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What the demo measured. Latencies are from the head's receipt of a frame to its result."""

    published: int = 0
    answered: int = 0
    right: int = 0
    errors: int = 0
    elapsed_s: float = 0.0
    expected_accuracy: float | None = None
    latencies_ms: list[float] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    last: str = ""

    @property
    def lost(self) -> int:
        return self.published - self.answered - self.errors

    def count(self, result: Result, label: int) -> None:
        if result.error is not None:
            self.errors += 1
        else:
            self.answered += 1
            self.right += result.class_index == label
            self.latencies_ms.append(result.latency_ms)
            self.expected_accuracy = result.expected_accuracy
        self.last = result_line(result)

    def document(self) -> dict[str, Any]:
        """The summary as JSON values."""
        median, p95 = _percentiles(self.latencies_ms)
        return {
            "published": self.published,
            "answered": self.answered,
            "lost": self.lost,
            "errors": self.errors,
            "accuracy": self.right / self.answered if self.answered else None,
            "expected_accuracy": self.expected_accuracy,
            "frames_per_s": self.answered / self.elapsed_s if self.elapsed_s else None,
            "latency_ms": {"median": median, "p95": p95},
            "stages": self.stages,
        }


async def stream_demo(cluster: LocalCluster, seconds: float, console: Console) -> Outcome:
    """Stream frames for `seconds`, with a live table where the console is a terminal."""
    outcome = Outcome()
    document = await cluster.status() or {}
    outcome.stages = [
        f"{node['name']}: blocks {first}-{end - 1}" for node in document["nodes"] for first, end in node["stages"]
    ]
    with Live(status_view(document), console=console, auto_refresh=False, transient=False) as live:
        refresh = asyncio.create_task(_refresh(cluster, live, outcome), name="demo-table")
        try:
            await _stream(cluster, seconds, outcome)
        finally:
            refresh.cancel()
            await asyncio.gather(refresh, return_exceptions=True)
    return outcome


async def _stream(cluster: LocalCluster, seconds: float, outcome: Outcome) -> None:
    frames, labels = digits_frames()
    sent: list[int] = []
    started = time.perf_counter()

    def endless() -> Iterator[bytes]:
        while time.perf_counter() - started < seconds:
            index = outcome.published % len(frames)
            outcome.published += 1
            sent.append(labels[index])
            yield frames[index]

    async with connect(cluster.broker_url, cluster.pipeline) as client:
        count = 0
        async for result in client.stream(endless()):
            outcome.count(result, sent[count])
            count += 1
    outcome.elapsed_s = time.perf_counter() - started


async def _refresh(cluster: LocalCluster, live: Live, outcome: Outcome) -> None:
    while True:
        document = await cluster.status()
        if document is not None:
            accuracy = outcome.right / outcome.answered if outcome.answered else 0.0
            footer = Text(f"accuracy so far {accuracy:.2%}   last: {outcome.last}", style="dim")
            live.update(status_view(document, footer=footer), refresh=True)
        await asyncio.sleep(REFRESH_S)


def summary_view(outcome: Outcome) -> Table:
    document = outcome.document()
    latency = document["latency_ms"]
    table = Table(title="summary", title_justify="left", show_header=False)
    table.add_row("stages", "\n".join(outcome.stages))
    table.add_row("frames", f"{outcome.published} published, {outcome.answered} answered, {outcome.lost} lost")
    if outcome.errors:
        table.add_row("errors", str(outcome.errors))
    if outcome.answered:
        table.add_row("accuracy", f"{document['accuracy']:.2%} measured, {outcome.expected_accuracy or 0:.2%} expected")
        table.add_row("throughput", f"{document['frames_per_s']:.0f} frames/s")
        table.add_row("latency", f"{latency['median']:.2f} ms median, {latency['p95']:.2f} ms p95")
    return table


def _percentiles(values: list[float]) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return (values[0], values[0]) if values else (None, None)
    return statistics.median(values), statistics.quantiles(values, n=20)[-1]
