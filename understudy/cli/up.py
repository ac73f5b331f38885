"""`understudy up`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.common import ControlBrokerOption, DeliveryOption, JsonOption, run

DEFAULT_NODES = 4


def up(
    config: Annotated[Path | None, typer.Option("--config", help="A configuration file (YAML).")] = None,
    bundle: Annotated[Path | None, typer.Option(help="The bundle to serve. Default: the digits bundle.")] = None,
    model: Annotated[Path | None, typer.Option(help="A bare ONNX model to serve in place of a bundle.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="So many nodes, named node1, node2, ... Default: 4.")] = None,
    stages: Annotated[int | None, typer.Option(min=1, help="So many stages. Default: the planner chooses.")] = None,
    cluster: Annotated[
        Path | None, typer.Option(help="Speeds and links of the nodes (docs/planner.md). Default: all are equal.")
    ] = None,
    pipeline: Annotated[str | None, typer.Option(help="The pipeline's name. Default: the bundle's.")] = None,
    broker: Annotated[
        str | None,
        typer.Option("--broker", help="Use this broker (nats:// or mqtt://). Default: an embedded nats-server."),
    ] = None,
    control_broker: ControlBrokerOption = None,
    servers: Annotated[
        int | None, typer.Option(min=1, max=9, help="So many embedded brokers, as one cluster. Default: 1.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the embedded broker, of several the first. 0: a free one."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Name or address at which the embedded broker listens. Default: 127.0.0.1, this machine."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="The embedded broker's certificate (PEM), for this host: TLS alone is spoken.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The key of the certificate.")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Who signed the certificate, where systems do not trust them anyway.")
    ] = None,
    delivery: DeliveryOption = None,
    mqtt_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Have the embedded broker take MQTT clients too, on this port."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Run a whole pipeline on this machine: broker, one process per node, controller. Ctrl-C stops it.

    Prints one line when frames can be published. Options overrule the configuration file, which overrules the
    environment.

    Example: understudy up --nodes 4

    Example: understudy up --config cluster.yaml --port 4222

    Example: understudy up --nodes 6 --servers 3

    Example: understudy up --host broker.example --port 4222 --tls-cert server.pem --tls-key server.key --tls-ca ca.pem

    Example: understudy up --broker mqtt://localhost
    """
    from understudy.config import load_config, make_config
    from understudy.delivery import read_delivery
    from understudy.logs import set_up_logs
    from understudy.settings import read_settings

    settings = read_settings()
    set_up_logs(settings, default_level="warning")
    raw: dict[str, Any] = {} if config is None else load_config(config)
    given = {
        "bundle": bundle,
        "model": model,
        "nodes": nodes,
        "stages": stages,
        "cluster": cluster,
        "pipeline": pipeline,
        "broker": broker,
        "control_broker": control_broker,
        "servers": servers,
        "port": port,
        "host": host,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tls_ca": tls_ca,
        "delivery": None if delivery is None else read_delivery(delivery),
        "mqtt_port": mqtt_port,
    }
    if bundle is not None or model is not None:
        raw = {key: value for key, value in raw.items() if key not in ("bundle", "model")}
    raw |= {key: value for key, value in given.items() if value is not None}
    if "broker" not in raw and settings.broker is not None:
        raw |= {"broker": settings.broker, "control_broker": raw.get("control_broker", settings.control_broker)}
    if "nodes" not in raw and stages is not None:
        raw["nodes"] = max(DEFAULT_NODES, stages)
    run(_serve(make_config(raw, "options" if config is None else str(config)), settings, as_json=json_))


async def _serve(config: Any, settings: Any, *, as_json: bool) -> None:
    from understudy.bundles import check_stages, load_model, open_bundle
    from understudy.local import LocalCluster

    # Checked here as well as in the controller: a wrong model is better told before six processes are started.
    opened = open_bundle(config.bundle, config.model)
    check_stages(await load_model(opened), config.stages)
    name = config.pipeline or opened.manifest.name
    async with LocalCluster(config, pipeline=name, settings=settings) as cluster:
        document = await cluster.status()
        _say_ready(document or {}, cluster, as_json=as_json)
        try:
            await cluster.wait_for_death()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None


def _say_ready(document: dict[str, Any], cluster: Any, *, as_json: bool) -> None:
    import json

    from broker.url import redact

    mqtt = None if cluster.mqtt_url is None else redact(cluster.mqtt_url)
    if as_json:
        typer.echo(json.dumps(document if mqtt is None else document | {"mqtt": mqtt}))
        return
    stages = sum(1 for node in document.get("nodes", ()) if node["stages"])
    nodes = len(document.get("nodes", ()))
    urls = redact(cluster.broker_url) if mqtt is None else f"{redact(cluster.broker_url)} and {mqtt}"
    typer.echo(f"ready: pipeline '{cluster.pipeline}' in {stages} stages on {nodes} nodes, broker {urls}")
