"""`understudy node`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.common import ControlBrokerOption, OwnBrokerOption, needed_broker, run
from understudy.cli.quantities import duration_option, size_option


def node(
    name: Annotated[str, typer.Option(help="The node's name, unique in the cluster.")],
    broker: OwnBrokerOption = None,
    control_broker: ControlBrokerOption = None,
    pipeline: Annotated[str, typer.Option(help="Work for this pipeline alone. Default: for the first that asks.")] = "",
    memory: Annotated[str, typer.Option(help="What stages may use, such as 512MB. Default: no limit.")] = "0",
    threads: Annotated[int, typer.Option(min=1, help="Threads of one inference.")] = 1,
    provider: Annotated[
        list[str] | None,
        typer.Option(help="onnxruntime execution provider (CPU, CUDA, TensorRT, OpenVINO, ...); repeat, best first."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for sub-models. Default: in ~/.cache/understudy.")] = None,
    heartbeat: Annotated[str, typer.Option(help="Interval of heartbeats.")] = "100ms",
) -> None:
    """Run a node: it hosts the stages that a controller assigns to it.

    Example: understudy node --name kitchen --broker nats://10.0.0.5:4222 --memory 512MB
    """
    from broker.presence import connection_name
    from stages.node import Node, NodeSettings
    from understudy.controller import both_brokers
    from understudy.logs import set_up_logs
    from understudy.settings import read_settings

    settings = read_settings()
    set_up_logs(settings, default_level="info")
    url = needed_broker(settings, broker)
    own = NodeSettings(
        name=name,
        memory_bytes=size_option("--memory", memory),
        threads=threads,
        providers=tuple(provider or ("CPU",)),
        cache=cache or settings.cache_dir / "nodes" / name,
        pipeline=pipeline,
        heartbeat_s=duration_option("--heartbeat", heartbeat),
    )

    async def serve() -> None:
        control_url = control_broker or settings.control_broker
        async with both_brokers(url, control_url, name=connection_name(name, own.incarnation)) as (data, control):
            nodes.append(Node(own, data=data, control_broker=control))
            await nodes[0].run()

    def leave() -> bool:
        for one in nodes:
            one.leave()
        return bool(nodes)

    nodes: list[Node] = []
    run(serve(), leave=leave)
