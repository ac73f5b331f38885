"""The journal for people: a table of the records, and one line for each change of one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from understudy.events import Episode

TABLE_WIDTH = 116
"""Columns that the table takes; in a narrower terminal each record is a paragraph."""

COLOURS = {"none": "green", "standby": "cyan", "stand-in": "yellow", "skip": "yellow", "exit": "magenta"}


def journal_view(episodes: Sequence[Episode], *, width: int) -> RenderableType:
    """The records, the oldest first."""
    if not episodes:
        return Text("nothing has happened yet")
    return _table(episodes) if width >= TABLE_WIDTH else Group(*(_paragraph(episode) for episode in episodes))


def print_journal(episodes: Sequence[Episode]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH + 24)
    console.print(journal_view(episodes, width=console.width))


def _table(episodes: Sequence[Episode]) -> Table:
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        header_style="bold",
        caption="milliseconds from the controller's notice; accuracy, latency, downtime: estimated / measured",
        caption_justify="left",
    )
    table.add_column("when", no_wrap=True)
    table.add_column("what", min_width=14, overflow="fold")
    table.add_column("answered by", min_width=11, overflow="fold")
    for heading in ("silent", "decided", "routed", "answer", "healed", "accuracy", "latency", "downtime"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("again", "degraded"):
        table.add_column(heading, justify="right", no_wrap=True)
    for episode in episodes:
        times = (episode.silence_ms, episode.decided_ms, episode.routed_ms, episode.first_answer_ms, episode.healed_ms)
        table.add_row(
            _clock(episode.at),
            what(episode),
            _answered_by(episode),
            *(_ms(value) for value in times),
            _accuracy(episode),
            _pair(episode.estimated_latency_ms, episode.latency_ms),
            _pair(episode.estimated_downtime_ms, episode.downtime_ms),
            *((str(episode.sent_again), str(episode.degraded)) if episode.kind == "failure" else ("", "")),
        )
    return table


def _paragraph(episode: Episode) -> Text:
    text = Text.assemble((f"{_clock(episode.at)}  {what(episode)}", "bold"), "  ", _answered_by(episode), "\n")
    times = {
        "silent before": episode.silence_ms,
        "decided": episode.decided_ms,
        "routed": episode.routed_ms,
        "first answer": episode.first_answer_ms,
        "healed": episode.healed_ms,
    }
    known = [f"{name} {_ms(value)}" for name, value in times.items() if value is not None]
    text.append(f"  {', '.join(known) or 'nothing yet'} ms\n")
    if episode.accuracy is not None or episode.estimated_latency_ms is not None:
        text.append(
            f"  estimated / measured: accuracy {_accuracy(episode)}, "
            f"latency {_pair(episode.estimated_latency_ms, episode.latency_ms)} ms, "
            f"downtime {_pair(episode.estimated_downtime_ms, episode.downtime_ms)} ms\n"
        )
    if episode.kind == "failure":
        text.append(f"  {episode.sent_again} frames sent again, {episode.degraded} degraded\n")
    return text


def event_line(episode: Episode) -> Text:
    """What this change of the record is about."""
    since_ms = {
        "detected": 0.0,
        "bridged": episode.routed_ms,
        "answering": episode.first_answer_ms,
        "healed": episode.healed_ms,
    }.get(episode.stage)
    when = _clock(episode.at + (since_ms or 0.0) / 1e3, digits=3)
    return Text.assemble((f"{when}  #{episode.number} ", "dim"), what(episode), "  ", _said(episode))


def _said(episode: Episode) -> Text:
    match episode.stage:
        case "bridged":
            text = Text.assemble("-> ", _answered_by(episode), f" routed in {_ms(episode.routed_ms)} ms")
            if episode.accuracy is not None:
                text.append(f", {_accuracy(episode)} expected")
            return text
        case "answering":
            estimate = episode.estimated_downtime_ms
            expected = "" if estimate is None else f" ({_ms(estimate)} ms expected)"
            return Text(f"-> first answer in {_ms(episode.first_answer_ms)} ms{expected}")
        case "healed":
            frames = f": {episode.sent_again} frames sent again, {episode.degraded} degraded"
            healed = f"-> healed in {_ms(episode.healed_ms)} ms" if episode.kind == "failure" else "-> in force"
            return Text(healed + (frames if episode.kind == "failure" else f" in {_ms(episode.healed_ms)} ms"))
        case "detected":
            silence = "" if episode.silence_ms is None else f"last heard {_ms(episode.silence_ms)} ms before"
            return Text(silence)
        case _:
            return Text(episode.stage)


def what(episode: Episode) -> str:
    """`node3 disconnected`; `new plan (start)`."""
    nodes = ", ".join(episode.nodes)
    if episode.kind == "failure":
        return f"{nodes} {episode.cause}"
    return f"new plan: {episode.cause}" + (f" {nodes}" if nodes and episode.cause != "start" else "")


def _answered_by(episode: Episode) -> Text:
    """The technique, the exit, and which objectives are not kept."""
    if episode.kind != "failure":
        return Text("")
    name = "waits for a new plan" if episode.technique == "repartition" else episode.technique
    text = Text(episode.exit or name, style=COLOURS.get(episode.technique, "red"))
    if episode.violated:
        text.append(f" (not kept: {', '.join(episode.violated)})", style="red")
    return text


def _clock(seconds: float, digits: int = 0) -> str:
    moment = datetime.fromtimestamp(seconds)
    return moment.strftime("%H:%M:%S") + (f".{moment.microsecond // 1000:03d}" if digits else "")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{abs(value):.1f}" if abs(value) < 999.5 else f"{value:.0f}"


def _accuracy(episode: Episode) -> str:
    return "-" if episode.accuracy is None else f"{episode.accuracy:.2%}"


def _pair(estimated: float | None, measured: float | None) -> str:
    return "-" if estimated is None and measured is None else f"{_ms(estimated)} / {_ms(measured)}"
