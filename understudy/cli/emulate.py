"""`understudy emulate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.common import JsonOption, RecoveryOption, run

if TYPE_CHECKING:
    from understudy.emulation.preparation import Wishes
    from understudy.emulation.report import Outcome

INTERRUPTED = 130


class Topology(StrEnum):
    mesh = "mesh"
    star = "star"


def emulate(
    nodes: Annotated[int, typer.Option(min=1, max=64, help="Nodes. A cluster file has its own.")] = 5,
    topology: Annotated[
        Topology | None,
        typer.Option(help="mesh: a broker on every node. star: one for all. Default: mesh, with --mqtt star."),
    ] = None,
    bandwidth: Annotated[
        str,
        typer.Option(metavar="RATE|wifi|FILE", help="Of each link: 10mbit, ...; by distance; or a cluster file."),
    ] = "100mbit",
    bundle: Annotated[Path | None, typer.Option(help="The bundle to serve. Default: the digits bundle.")] = None,
    model: Annotated[Path | None, typer.Option(help="A bare ONNX model to serve in place of a bundle.")] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Serve with these stages (`understudy plan --json`). Default: the controller plans."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="For stages on each node, such as 64MB. Default: too little for the whole network."),
    ] = None,
    cpus: Annotated[float, typer.Option(min=0.05, help="Cores of this machine for each node.")] = 1.0,
    recovery: RecoveryOption = None,
    fault: Annotated[
        str | None, typer.Option(metavar="SCENARIO", help="What goes wrong: kill, pause, cut, ... or a YAML file.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Stream for so long, at least.")] = 20.0,
    frames: Annotated[int, typer.Option(min=0, help="Stream so many frames, at least.")] = 0,
    rate: Annotated[float, typer.Option(min=0, help="Frames per second; 0: as many as can be.")] = 20.0,
    window: Annotated[int, typer.Option(min=0, help="Frames under way, at most; 0: by the plan.")] = 0,
    mqtt: Annotated[bool, typer.Option("--mqtt", help="One mosquitto in place of nats-servers.")] = False,
    seed: Annotated[int, typer.Option(help="Of the places that wifi chooses.")] = 0,
    image: Annotated[str | None, typer.Option(help="An image that is there. Default: one is built.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the containers running, and say how to remove them.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(help="Write the Compose project to this folder, and start nothing.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Emulate a cluster of small machines with Docker Compose, stream frames through it, and let things go wrong.

    Each node is a container with the memory, the cores and the links of its machine: those that the planner plans with.
    Every answer is compared with what the whole network says in one piece. Exit code 0 if every frame was answered
    once, rightly or labelled as degraded, and 1 if not.

    Example: understudy emulate

    Example: understudy emulate --nodes 8 --bandwidth wifi --fault kill

    Example: understudy emulate --topology star --bandwidth cluster.yaml --model resnet.onnx --rate 0 --json

    Example: understudy emulate --mqtt --fault two

    Example: understudy emulate --fault kill --recovery '{"techniques": ["exit", "repartition"]}'
    """
    from understudy.cli.quantities import size_option
    from understudy.emulation.links import make_cluster
    from understudy.emulation.preparation import Wishes, sources_folder
    from understudy.emulation.scenario import load_scenario
    from understudy.logs import set_up_logs
    from understudy.objectives import read_recovery
    from understudy.planfiles import load_plan
    from understudy.settings import read_settings

    set_up_logs(read_settings(), default_level="error")
    chosen = topology or (Topology.star if mqtt else Topology.mesh)
    sources = sources_folder()
    scenarios = None if sources is None else sources / "compose" / "scenarios"
    cluster = make_cluster(nodes=nodes, topology=chosen.value, bandwidth=bandwidth, seed=seed)
    scenario = None if fault is None else load_scenario(fault, scenarios)
    if scenario is not None:
        scenario.for_nodes(cluster.names)  # a wrong name is better told before anything is built
    wishes = Wishes(
        cluster=cluster,
        bundle=bundle,
        model=model,
        plan=() if plan is None else load_plan(plan),
        memory_bytes=None if memory is None else size_option("--memory", memory),
        cpus=cpus,
        recovery=read_recovery(recovery),
        scenario=scenario,
        frames=frames,
        seconds=seconds,
        rate_per_s=rate,
        window=window,
        mqtt=mqtt,
        keep=keep,
        image=image,
        sources=sources,
    )
    outcomes: list[Outcome] = []
    try:
        run(_write(wishes, write) if write is not None else _rehearse(wishes, outcomes))
    except typer.Exit:
        # It was interrupted, and not every frame was looked at.
        raise typer.Exit(INTERRUPTED) from None
    if write is None:
        _report(outcomes[0], as_json=json_)


async def _rehearse(wishes: Wishes, outcomes: list[Outcome]) -> None:
    from understudy.emulation.rehearsal import rehearse

    outcomes.append(await rehearse(wishes, lambda line: typer.echo(line, err=True)))


async def _write(wishes: Wishes, folder: Path) -> None:
    from understudy.emulation.errors import EmulationError
    from understudy.emulation.preparation import prepare
    from understudy.emulation.project import Place

    if (folder / "cluster.yaml").exists():
        raise EmulationError(f"{folder} holds a project already: choose another folder")
    await prepare(wishes, folder, Place())
    typer.echo(f"written: docker compose -f {folder / 'compose.yaml'} up")


def _report(outcome: Outcome, *, as_json: bool) -> None:
    import json

    from understudy.emulation.report import text

    document = outcome.document()
    typer.echo(json.dumps(document) if as_json else text(document))
    if not outcome.kept:
        raise typer.Exit(1)
