"""`understudy plan`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.cli.common import JsonOption

if TYPE_CHECKING:
    from planner.chain import Chain
    from planner.plan import Plan, Stage

NO_PLAN = 3
"""Exit code where no plan fits."""


class Objective(StrEnum):
    bottleneck = "bottleneck"
    latency = "latency"


def plan(
    model: Annotated[Path | None, typer.Argument(metavar="BUNDLE|MODEL.onnx", help="What to split.")] = None,
    cluster: Annotated[Path | None, typer.Option("--cluster", help="The cluster (JSON or YAML).")] = None,
    chain: Annotated[Path | None, typer.Option("--chain", help="A chain (JSON) in place of a model.")] = None,
    stages: Annotated[int | None, typer.Option(min=1, help="So many stages. Default: the planner chooses.")] = None,
    objective: Annotated[Objective, typer.Option(help="What to minimise first.")] = Objective.bottleneck,
    time_limit: Annotated[float, typer.Option(min=0.0, help="Seconds until the best plan so far is returned.")] = 10.0,
    max_codec_loss: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Accuracy (0 to 1) that codecs on links may cost. 0: lossless ones alone."),
    ] = 0.0,
    json_: JsonOption = False,
) -> None:
    """Find the best split of a model over a cluster, and prove how good it is.

    Shows who sends what to whom and which step is the bottleneck. Exit code 3 if no plan fits, with the reason.

    Example: understudy plan resnet.onnx --cluster cluster.yaml

    Example: understudy plan --chain chain.json --cluster cluster.json --time-limit 10 --json
    """
    import json

    from broker.errors import UnderstudyError
    from planner.plan import NoPlanError
    from planner.solve import solve
    from understudy.planfiles import load_chain, load_cluster

    if cluster is None:
        raise UnderstudyError("no cluster is named: give --cluster cluster.yaml (docs/planner.md describes the file)")
    if (model is None) == (chain is None):
        raise UnderstudyError("give either a bundle or model, or --chain chain.json")
    machines = load_cluster(cluster)
    blocks = load_chain(chain) if chain is not None else _chain_of(model or Path())
    blocks = blocks.within(max_codec_loss)
    try:
        found = solve(blocks, machines, objective=objective.value, stages=stages, time_limit_s=time_limit)
    except NoPlanError as error:
        if json_:
            typer.echo(json.dumps({"stages": None, "reason": str(error)}))
        typer.echo(f"understudy: no plan: {error}", err=True)
        raise typer.Exit(NO_PLAN) from None
    if json_:
        typer.echo(json.dumps(document(found)))
    else:
        _print(found, blocks)


def document(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values."""
    return {
        "stages": [_stage(stage) for stage in plan.stages],
        "objective": plan.objective,
        "bottleneck_s": plan.bottleneck_s,
        "lower_bound_s": plan.lower_bound_s,
        "gap": plan.gap,
        "proven": plan.proven,
        "latency_s": plan.latency_s,
        "solve_s": plan.solve_s,
    }


def _stage(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = {"first_block": stage.first_block, "end_block": stage.end_block, "node": stage.node}
    return found if stage.codec == "none" else found | {"codec": stage.codec}


def _chain_of(model: Path) -> Chain:
    """The chain of a bundle (a folder) or of a bare model."""
    from stages.bundle import Bundle
    from stages.chain import chain_of
    from stages.graph import ModelGraph

    if model.is_dir():
        bundle = Bundle.load(model)
        return chain_of(ModelGraph.load(bundle.model_path, shapes=bundle.manifest.shapes), bundle.manifest)
    return ModelGraph.load(model).chain()


def _print(plan: Plan, chain: Chain) -> None:
    from rich.console import Console

    from understudy.planview import plan_view

    Console().print(plan_view(plan, chain))
