"""Which pipelines a broker carries: every controller answers on the status subject."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from broker import subjects
from broker.errors import UnderstudyError
from broker.port import Broker, Message

LISTEN_S = 1.0
"""How long to wait for controllers that do not answer, before saying that there are none."""


class UnknownPipelineError(UnderstudyError):
    """No controller serves a pipeline of that name at this broker."""


async def find_pipeline(broker: Broker, pipeline: str | None, *, listen_s: float = LISTEN_S) -> dict[str, Any]:
    """The status document of a pipeline, or of the only one if `pipeline` is None.

    Raises:
        UnknownPipelineError: there is none, or several and no name was given; names those that are there.
    """
    found = await statuses(broker, until=pipeline, listen_s=listen_s)
    if pipeline is None and len(found) == 1:
        return next(iter(found.values()))
    if pipeline is not None and pipeline in found:
        return found[pipeline]
    names = ", ".join(sorted(found)) or "none"
    if pipeline is None and found:
        raise UnknownPipelineError(f"several pipelines run at {broker.url}: name one of {names}")
    wanted = "no pipeline runs" if pipeline is None else f"pipeline '{pipeline}' does not run"
    raise UnknownPipelineError(
        f"{wanted} at {broker.url} (pipelines there: {names}): start it with `understudy up`, or check the name"
    )


async def statuses(
    broker: Broker, *, until: str | None = None, listen_s: float = LISTEN_S
) -> dict[str, dict[str, Any]]:
    """Status documents by pipeline, as they come within `listen_s`; returns early when `until` has answered."""
    found: dict[str, dict[str, Any]] = {}
    enough = asyncio.Event()

    async def on_answer(message: Message) -> None:
        if not message.data:
            enough.set()  # the broker says that nobody listens
            return
        try:
            document = json.loads(bytes(message.data))
            found[document["pipeline"]] = document
        except (ValueError, KeyError, TypeError):
            return
        if document["pipeline"] == until:
            enough.set()

    inbox = broker.new_inbox()
    subscription = await broker.subscribe(inbox, on_answer)
    try:
        await broker.publish(subjects.STATUS, b"", reply=inbox)
        async with asyncio.timeout(listen_s):
            await enough.wait()
    except TimeoutError:
        pass
    finally:
        await subscription.unsubscribe()
    return found
