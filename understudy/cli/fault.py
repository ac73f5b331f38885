"""`understudy fault`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.cli.common import BrokerOption, JsonOption, locate, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.registry import LocalRun
    from understudy.settings import Settings


class FaultAction(StrEnum):
    kill = "kill"
    pause = "pause"
    resume = "resume"


DONE = {"kill": "killed", "pause": "paused", "resume": "resumed"}


def fault(
    action: Annotated[
        FaultAction, typer.Argument(help="kill: as a crash (SIGKILL). pause: as a hang (SIGSTOP). resume: SIGCONT.")
    ],
    node: Annotated[
        str,
        typer.Argument(
            help="A node's name, or head: the node that hosts it now, or controller, or broker (of several: broker2)."
        ),
    ],
    pipeline: Annotated[str | None, typer.Option(help="Its pipeline. Default: the one that runs here.")] = None,
    broker: BrokerOption = None,
    json_: JsonOption = False,
) -> None:
    """Make a fault, to see what happens: kill, pause or resume one process of a pipeline on this machine.

    Only processes of the pipeline are touched, and only here. `understudy up` starts a killed broker again, and ends
    when its controller is killed; it does not start nodes again.

    Example: understudy fault kill node3

    Example: understudy fault pause head --pipeline digits

    Example: understudy fault kill broker2
    """
    from understudy.logs import set_up_logs
    from understudy.settings import read_settings

    settings = read_settings()
    set_up_logs(settings, default_level="warning")
    url, name = locate(settings, broker, pipeline)
    run(_fault(settings, url, name, action.value, node, as_json=json_))


async def _fault(settings: Settings, url: str, pipeline: str | None, action: Any, node: str, *, as_json: bool) -> None:
    import json
    import socket
    import time

    from understudy.fault import FaultError, find_node, find_role, inflict, is_role
    from understudy.registry import Registry

    runs = [run for run in Registry(settings.run_dir).all() if run.broker == url]
    if is_role(node):
        # Not asked of the controller: it, or its broker, may be what was paused.
        found = [run for run in runs if pipeline in (None, run.pipeline)]
        if len(found) > 1:
            raise FaultError(f"several pipelines run here: name one of {', '.join(run.pipeline for run in found)}")
        local = found[0] if found else None
        target = find_role(local, pipeline or "", node)
    else:
        document = await _ask(url, pipeline, runs)
        local = next((run for run in runs if run.pipeline == document["pipeline"]), None)
        target = find_node(document, node, local)
    inflict(target, action)
    at = time.time()
    if as_json:
        facts = {"pipeline": target.pipeline, "action": action, "role": target.role, "name": target.name}
        typer.echo(json.dumps({**facts, "pid": target.pid, "host": socket.gethostname(), "at": round(at, 6)}))
    else:
        typer.echo(f"{DONE[action]} {target} of pipeline '{target.pipeline}' (pid {target.pid})")


async def _ask(url: str, pipeline: str | None, local: Sequence[LocalRun]) -> dict[str, Any]:
    """The status document, which says where each node runs and as which process."""
    from broker.connect import connect
    from understudy.discovery import UnknownPipelineError, find_pipeline
    from understudy.fault import FaultError

    broker = await connect(url, name="understudy-fault")
    try:
        return await find_pipeline(broker, pipeline)
    except UnknownPipelineError as error:
        if not local:
            raise
        raise FaultError(
            f"the controller of pipeline '{pipeline or local[0].pipeline}' does not answer: "
            f"was it paused? `understudy fault resume controller`"
        ) from error
    finally:
        await broker.close()
