"""`understudy broker-config`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from understudy.brokerconfig import BrokerConfig

NATS_PORT = 4222
MQTT_PORT = 1883


class Server(StrEnum):
    NATS = "nats-server"
    MOSQUITTO = "mosquitto"


def broker_config(
    pipeline: Annotated[str, typer.Option(help="The pipeline's name.")],
    server: Annotated[Server, typer.Option("--for", help="The broker.")] = Server.NATS,
    nodes: Annotated[
        str, typer.Option(help="Names, such as a,b,c: a user for each. Default: one user for all nodes.")
    ] = "",
    host: Annotated[str, typer.Option(help="Where clients and nodes reach the server.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Its port. Default: 4222, mosquitto's 1883.")
    ] = None,
    mqtt: Annotated[
        bool, typer.Option("--mqtt", help="Clients may come to the nats-server by MQTT too, on port 1883.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write it to a new file that only you can read, and print the URLs.")
    ] = None,
) -> None:
    """Print a configuration for a broker of your own: a user for each role, with fresh passwords, and their URLs.

    mosquitto has files for passwords and rights beside it: --out says where.

    Example: understudy broker-config --pipeline shop --nodes kitchen,hall --host 10.0.0.5 --out nats.conf

    Example: understudy broker-config --pipeline shop > nats.conf

    Example: understudy broker-config --pipeline shop --for mosquitto --out mosquitto.conf
    """
    from broker.errors import UnderstudyError
    from understudy.brokerconfig import MosquittoConfig, NatsConfig, write_private

    names = tuple(name.strip() for name in nodes.split(",") if name.strip())
    config: BrokerConfig
    if server is Server.NATS:
        mqtt_port = MQTT_PORT if mqtt else None
        config = NatsConfig(pipeline=pipeline, nodes=names, host=host, port=port or NATS_PORT, mqtt_port=mqtt_port)
        if out is None:
            typer.echo(config.render(), nl=False)
            return
    else:
        if mqtt:
            raise UnderstudyError("--mqtt is for a nats-server: mosquitto speaks nothing else")
        if out is None:
            raise UnderstudyError("mosquitto reads passwords and rights from files of their own: add --out FILE")
        config = MosquittoConfig(pipeline=pipeline, nodes=names, host=host, port=port or MQTT_PORT)
    write_private(config.files(out))
    typer.echo(f"written to {out}: {server} -c {out}")
    typer.echo(config.urls())
