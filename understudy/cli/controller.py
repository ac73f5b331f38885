"""`understudy controller`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.common import (
    ControlBrokerOption,
    DeliveryOption,
    OwnBrokerOption,
    RecoveryOption,
    needed_broker,
    run,
)
from understudy.cli.quantities import duration_option


def controller(
    broker: OwnBrokerOption = None,
    control_broker: ControlBrokerOption = None,
    pipeline: Annotated[str | None, typer.Option(help="The pipeline's name. Default: the bundle's.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="The bundle to serve. Default: the digits bundle.")] = None,
    model: Annotated[Path | None, typer.Option(help="A bare ONNX model to serve in place of a bundle.")] = None,
    stages: Annotated[int | None, typer.Option(min=1, help="So many stages. Default: the planner chooses.")] = None,
    cluster: Annotated[
        Path | None, typer.Option(help="Speeds and links of the nodes (docs/planner.md). Default: all are equal.")
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Serve with these stages (`understudy plan --json`) while their nodes are there."),
    ] = None,
    expect: Annotated[int, typer.Option(min=1, help="Wait for so many nodes before the first plan.")] = 1,
    window: Annotated[int, typer.Option(min=0, help="Frames in flight; 0: chosen from the model's sizes.")] = 0,
    max_batch: Annotated[int, typer.Option(min=1, help="Frames in one message and one inference, at most.")] = 64,
    top_k: Annotated[int, typer.Option(min=1, help="Scores in a classifier's result.")] = 5,
    resend_after: Annotated[
        str, typer.Option(help="A frame that is away for so long, or longer where answers are, may be sent again.")
    ] = "5s",
    standby: Annotated[
        bool, typer.Option("--standby", help="Wait for the controller that serves to end, and take over.")
    ] = False,
    delivery: DeliveryOption = None,
    recovery: RecoveryOption = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for sub-models. Default: in ~/.cache/understudy.")] = None,
) -> None:
    """Run a controller: it plans the stages, gives them to the nodes, and watches over them.

    Example: understudy controller --broker nats://10.0.0.5:4222 --bundle ./resnet --stages 4 --expect 4
    """
    from broker.control import FlowSettings
    from broker.errors import UnderstudyError
    from broker.subjects import check_name
    from understudy.bundles import load_model, open_bundle
    from understudy.controller import ControllerSettings, run_controller
    from understudy.delivery import read_delivery
    from understudy.logs import set_up_logs
    from understudy.objectives import read_recovery
    from understudy.planfiles import load_cluster, load_plan
    from understudy.settings import read_settings

    if stages is not None and plan is not None:
        raise UnderstudyError("--stages and --plan are both given: a plan says how many stages there are")
    settings = read_settings()
    set_up_logs(settings, default_level="info")
    url = needed_broker(settings, broker)
    promised = read_delivery(delivery)
    flow = FlowSettings(
        window=window,
        max_batch=max_batch,
        top_k=top_k,
        resend_after_s=duration_option("--resend-after", resend_after),
        delivery=promised.mode,
        ordered=promised.ordered,
        store=promised.store,
    )

    async def serve() -> None:
        opened = open_bundle(bundle, model)
        name = check_name("pipeline", pipeline or opened.manifest.name)
        own = ControllerSettings(
            pipeline=name,
            broker=url,
            control_broker=control_broker or settings.control_broker,
            system_broker=settings.system_broker,
            stages=stages,
            cluster=None if cluster is None else load_cluster(cluster),
            plan=() if plan is None else load_plan(plan),
            policy=read_recovery(recovery).policy(expected_nodes=expect),
            standby=standby,
            cache=cache or settings.cache_dir / "controllers" / name,
            flow=flow,
        )
        await run_controller(own, opened, await load_model(opened))

    run(serve())
