"""`understudy status`."""

from __future__ import annotations

from typing import Annotated

import typer

from understudy.cli.common import BrokerOption, JsonOption, locate, run


def status(
    pipeline: Annotated[str | None, typer.Argument(help="The pipeline. Default: the one that runs here.")] = None,
    broker: BrokerOption = None,
    json_: JsonOption = False,
) -> None:
    """Show the nodes and stages of a pipeline, its throughput, and what is in flight.

    Example: understudy status

    Example: understudy status digits --broker nats://10.0.0.5:4222 --json
    """
    from understudy.settings import read_settings

    url, name = locate(read_settings(), broker, pipeline)
    run(_show(url, name, as_json=json_))


async def _show(url: str, pipeline: str | None, *, as_json: bool) -> None:
    import json

    from rich.console import Console

    from broker.connect import connect
    from understudy.discovery import find_pipeline
    from understudy.view import status_view

    broker = await connect(url, name="understudy-status")
    try:
        document = await find_pipeline(broker, pipeline)
    finally:
        await broker.close()
    if as_json:
        typer.echo(json.dumps(document))
    else:
        Console().print(status_view(document))
