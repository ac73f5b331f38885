"""`understudy demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.common import JsonOption, run

HEADROOM = 1.3
"""Memory of the nodes that are left at the end, together, as a multiple of what the whole network needs."""

MOST_KILLS = 2

DEFAULT_RATE = 1000.0


def demo(
    nodes: Annotated[int, typer.Option(min=1, max=64, help="Node processes.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long to stream frames, at least.")] = 8.0,
    rate: Annotated[float, typer.Option(min=0, help="Frames per second; 0: as many as can be.")] = DEFAULT_RATE,
    kill: Annotated[bool, typer.Option("--kill/--no-kill", help="Kill nodes in mid-stream, or do not.")] = True,
    picture: Annotated[
        Path | None, typer.Option(help="Draw throughput and accuracy over time: a .png, .svg or .pdf file.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Run the main job and show it: a network cut into stages on several nodes, frames streamed through, nodes killed.

    Starts an embedded broker, node processes with too little memory for the whole network, and a controller; streams
    handwritten digits that the network has never seen; kills a node, and with four nodes or more a second one, which no
    standby may replace if the bundle has anything else; prints what was measured. Exit code 1 if a frame was lost or
    answered with an error.

    Example: understudy demo --nodes 4 --seconds 10 --picture demo.png
    """
    from understudy.logs import set_up_logs
    from understudy.settings import read_settings

    if picture is not None:
        from understudy.picture import check_picture

        check_picture(picture)
    settings = read_settings()
    set_up_logs(settings, default_level="error")
    kills = min(MOST_KILLS, max(0, nodes - 2)) if kill else 0
    run(_demo(settings, nodes, seconds, rate, kills, picture, as_json=json_))


async def _demo(
    settings: Any, nodes: int, seconds: float, rate: float, kills: int, picture: Path | None, *, as_json: bool
) -> None:
    import json

    from rich.console import Console

    from understudy.bundles import load_model
    from understudy.config import NodeConfig, UpConfig
    from understudy.data import digits_bundle
    from understudy.demo import FIRST_WISHES, Demo, Script
    from understudy.demoview import run_live, summary_view
    from understudy.local import LocalCluster

    console = Console(stderr=as_json)
    bundle = digits_bundle()
    chain = (await load_model(bundle)).chain()
    memory = int(HEADROOM / (nodes - kills) * chain.stage_memory_bytes(0, chain.blocks))
    names = tuple(NodeConfig(name=f"node{i}", memory=memory) for i in range(1, nodes + 1))
    lesser = any(part.technique != "standby" for part in bundle.manifest.parts)
    console.print(f"starting a broker, {nodes} nodes and a controller ...")
    config = UpConfig(nodes=names, recovery=FIRST_WISHES) if lesser and kills > 1 else UpConfig(nodes=names)
    async with LocalCluster(config, pipeline="digits-demo", settings=settings) as cluster:
        demo = Demo(cluster, Script(seconds=seconds, rate=rate, kills=kills, lesser=lesser))
        outcome = await run_live(demo, cluster, console)
    drawn = None if picture is None else _draw(outcome, picture, console)
    if as_json:
        typer.echo(json.dumps({**outcome.document(), "picture": drawn}))
    else:
        console.print("", summary_view(outcome), sep="\n")
        if drawn is not None:
            console.print(f"throughput and accuracy over time: {drawn}", soft_wrap=True)
    if outcome.errors or outcome.lost:
        raise typer.Exit(1)


def _draw(outcome: Any, path: Path, console: Any) -> str | None:
    """The picture's path; None where there is no matplotlib, which is said."""
    from understudy.picture import PictureError, draw

    try:
        draw(outcome.timeline, path, f"{outcome.answered} frames answered, {outcome.lost} lost, {outcome.twice} twice")
    except PictureError as error:
        console.print(f"no picture: {error}", soft_wrap=True)
        return None
    return str(path)
