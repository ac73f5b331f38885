"""`understudy events`."""

from __future__ import annotations

from typing import Annotated

import typer

from understudy.cli.common import BrokerOption, JsonOption, locate, run


def events(
    pipeline: Annotated[str | None, typer.Argument(help="The pipeline. Default: the one that runs here.")] = None,
    broker: BrokerOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens from now, until Ctrl-C.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Show what happened to a pipeline and what was done about it: failures, ways around them, new plans.

    With --follow: a line for each change from now on; with --json as well, one JSON document per line.

    Example: understudy events

    Example: understudy events digits --follow --json | jq .technique
    """
    from understudy.logs import set_up_logs
    from understudy.settings import read_settings

    settings = read_settings()
    set_up_logs(settings, default_level="warning")
    url, name = locate(settings, broker, pipeline)
    run(_follow(url, name, as_json=json_) if follow else _show(url, name, as_json=json_))


async def _show(url: str, pipeline: str | None, *, as_json: bool) -> None:
    import json

    from broker.connect import connect
    from understudy.discovery import find_pipeline
    from understudy.events import parse_episode, read_journal
    from understudy.eventview import print_journal

    broker = await connect(url, name="understudy-events")
    try:
        name = (await find_pipeline(broker, pipeline))["pipeline"]
        records = await read_journal(broker, name)
    finally:
        await broker.close()
    if as_json:
        typer.echo(json.dumps({"pipeline": name, "records": records}))
    else:
        print_journal([parse_episode(record) for record in records])


async def _follow(url: str, pipeline: str | None, *, as_json: bool) -> None:
    import json

    from rich.console import Console

    from broker.connect import connect
    from understudy.discovery import find_pipeline
    from understudy.events import EventError, follow, parse_episode
    from understudy.eventview import event_line

    console = Console(soft_wrap=True)
    broker = await connect(url, name="understudy-events")
    try:
        name = (await find_pipeline(broker, pipeline))["pipeline"]
        async with follow(broker, name) as news:
            typer.echo(f"following pipeline '{name}'; Ctrl-C ends it", err=True)
            async for document in news:
                if as_json:
                    typer.echo(json.dumps(document))  # which flushes, also into a pipe
                    continue
                try:
                    console.print(event_line(parse_episode(document)))
                except EventError as error:
                    typer.echo(str(error), err=True)
    finally:
        await broker.close()
