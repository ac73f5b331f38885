"""`understudy broker-config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MQTT_PORT = 1883


def broker_config(
    pipeline: Annotated[str, typer.Option(help="The pipeline's name.")],
    nodes: Annotated[
        str, typer.Option(help="Names, such as a,b,c: a user for each. Default: one user for all nodes.")
    ] = "",
    host: Annotated[str, typer.Option(help="Where clients and nodes reach the server.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Its port.")] = 4222,
    mqtt: Annotated[bool, typer.Option("--mqtt", help="Clients may come by MQTT, on port 1883.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write it to a new file that only you can read, and print the URLs.")
    ] = None,
) -> None:
    """Print a configuration for a nats-server of your own: a user for each role, with fresh passwords, and their URLs.

    Example: understudy broker-config --pipeline shop --nodes kitchen,hall --host 10.0.0.5 --out nats.conf

    Example: understudy broker-config --pipeline shop > nats.conf
    """
    from understudy.brokerconfig import BrokerConfig, write_private

    names = tuple(name.strip() for name in nodes.split(",") if name.strip())
    config = BrokerConfig(pipeline=pipeline, nodes=names, host=host, port=port, mqtt_port=MQTT_PORT if mqtt else None)
    if out is None:
        typer.echo(config.render(), nl=False)
        return
    write_private(out, config.render())
    typer.echo(f"written to {out}: nats-server -c {out}")
    typer.echo(config.urls())
