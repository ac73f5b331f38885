"""`understudy demo`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from understudy.cli.common import JsonOption, run

MEMORY_SHARE = 0.4
"""Memory limit of each of the demo's nodes, as a share of what the whole model needs: it takes three at least."""


def demo(
    nodes: Annotated[int, typer.Option(min=1, max=64, help="Node processes.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long to stream frames.")] = 10.0,
    json_: JsonOption = False,
) -> None:
    """Run the main job and show it: a network cut into stages on several nodes, frames streamed through.

    Starts an embedded broker, node processes with too little memory for the whole network, and a controller; streams
    handwritten digits that the network has never seen; prints what was measured.

    Example: understudy demo --nodes 4 --seconds 10
    """
    from understudy.logs import set_up_logs
    from understudy.settings import read_settings

    settings = read_settings()
    set_up_logs(settings, default_level="error")
    run(_demo(settings, nodes, seconds, as_json=json_))


async def _demo(settings: Any, nodes: int, seconds: float, *, as_json: bool) -> None:
    import json

    from rich.console import Console

    from understudy.config import NodeConfig, UpConfig
    from understudy.controller import load_model
    from understudy.data import digits_bundle
    from understudy.demo import stream_demo, summary_view
    from understudy.local import LocalCluster

    console = Console(stderr=as_json)
    bundle = digits_bundle()
    chain = (await load_model(bundle)).chain()
    share = max(MEMORY_SHARE, 1.6 / nodes) if nodes > 1 else 1.0
    memory = int(share * chain.stage_memory_bytes(0, chain.blocks))
    names = tuple(NodeConfig(name=f"node{i}", memory=memory) for i in range(1, nodes + 1))
    console.print(f"starting a broker, {nodes} nodes and a controller ...")
    async with LocalCluster(UpConfig(nodes=names), pipeline="digits-demo", settings=settings) as cluster:
        outcome = await stream_demo(cluster, seconds, console)
    if as_json:
        typer.echo(json.dumps(outcome.document()))
    else:
        console.print("", summary_view(outcome), sep="\n")
    if outcome.errors or outcome.lost:
        raise typer.Exit(1)
