"""`understudy update`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.common import (
    BrokerOption,
    ControlBrokerOption,
    JsonOption,
    locate,
    locate_control,
    locate_operator,
    run,
)
from understudy.cli.quantities import duration_option


def update(
    pipeline: Annotated[str, typer.Argument(help="The pipeline's name.", show_default=False)],
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE|MODEL", help="A bundle, or an ONNX file.", show_default=False)
    ],
    broker: BrokerOption = None,
    control_broker: ControlBrokerOption = None,
    timeout: Annotated[str, typer.Option(help="How long it may take.")] = "120s",
    json_: JsonOption = False,
) -> None:
    """Serve another version of a model, while frames flow. If its stages cannot be loaded the one before goes on.

    Example: understudy update digits ./digits-v2
    """
    from understudy.bundles import open_bundle
    from understudy.controller import both_brokers
    from understudy.logs import set_up_logs
    from understudy.rollout import request_update
    from understudy.settings import read_settings

    settings = read_settings()
    set_up_logs(settings, default_level="warning")
    url, _ = locate(settings, broker, pipeline)
    control_url = locate_control(settings, broker, control_broker, pipeline)
    # Who updates offers the bundle's files to the controller, which a client may not.
    data_url = locate_operator(settings, url)
    is_model = bundle.suffix == ".onnx"
    opened = open_bundle(None if is_model else bundle, bundle if is_model else None)

    async def ask() -> None:
        async with both_brokers(data_url, control_url, name="understudy-update") as (data, control):
            seconds = duration_option("--timeout", timeout)
            epoch = await request_update(data, control, pipeline, opened, timeout_s=seconds)
        version = opened.manifest.version
        if json_:
            typer.echo(json.dumps({"pipeline": pipeline, "version": version, "epoch": epoch}))
        else:
            typer.echo(f"pipeline {pipeline} serves {opened.manifest.name} {version} from epoch {epoch} on")

    run(ask())
