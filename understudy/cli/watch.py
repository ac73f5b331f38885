"""`understudy watch`."""

from __future__ import annotations

from collections import deque
from typing import Annotated

import typer

from understudy.cli.common import BrokerOption, locate, run

REFRESH_S = 0.5
RESULTS_SHOWN = 8


def watch(
    pipeline: Annotated[str | None, typer.Argument(help="The pipeline. Default: the one that runs here.")] = None,
    broker: BrokerOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print each result's JSON on a line, nothing else.")] = False,
) -> None:
    """Watch a pipeline: a live table of its nodes, and the results as they come. Ctrl-C ends it.

    Example: understudy watch digits

    Example: understudy watch digits --json | jq .label
    """
    from understudy.settings import read_settings

    url, name = locate(read_settings(), broker, pipeline)
    run(_results(url, name) if json_ else _table(url, name))


async def _results(url: str, pipeline: str | None) -> None:
    import asyncio

    from broker import subjects
    from broker.connect import connect
    from broker.port import Message
    from understudy.discovery import find_pipeline

    broker = await connect(url, name="understudy-watch")
    try:
        name = (await find_pipeline(broker, pipeline))["pipeline"]

        async def show(message: Message) -> None:
            typer.echo(bytes(message.data).decode(errors="replace"))

        await broker.subscribe(subjects.results_out(name), show)
        await asyncio.Event().wait()
    finally:
        await broker.close()


async def _table(url: str, pipeline: str | None) -> None:
    import asyncio

    from rich.live import Live
    from rich.text import Text

    from broker import subjects
    from broker.connect import connect
    from broker.errors import UnderstudyError
    from broker.port import Message
    from understudy.discovery import UnknownPipelineError, find_pipeline
    from understudy.result import parse_result
    from understudy.result_line import result_line
    from understudy.view import status_view

    lines: deque[str] = deque(maxlen=RESULTS_SHOWN)

    async def note(message: Message) -> None:
        try:
            lines.append(result_line(parse_result(message.data)))
        except UnderstudyError as error:
            lines.append(str(error))

    broker = await connect(url, name="understudy-watch")
    try:
        document = await find_pipeline(broker, pipeline)
        await broker.subscribe(subjects.results_out(document["pipeline"]), note)
        with Live(status_view(document), auto_refresh=False) as live:
            while True:
                live.update(status_view(document, footer=Text("\n".join(lines), style="dim")), refresh=True)
                await asyncio.sleep(REFRESH_S)
                try:
                    document = await find_pipeline(broker, document["pipeline"])
                except UnknownPipelineError:
                    document = {**document, "state": "gone", "reason": "the controller does not answer"}
    finally:
        await broker.close()
