"""A broker, the roles one by one, and a stream of digits through them that a stranger counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from broker.connect import connect
from broker.server import NatsServer
from tests.integration.conftest import Digits
from tests.integration.harness import Shell, eventually
from tests.integration.stranger import stranger
from tests.integration.test_recovery import Stream
from tests.integration.test_roles import Cluster, hosts
from understudy.discovery import statuses

FINISH_S = 15.0


@asynccontextmanager
async def open_cluster(shell: Shell, *, url: str | None = None) -> AsyncIterator[Cluster]:
    """A nats-server (or the broker at `url`); roles are added by the test, and end with it."""
    async with await NatsServer.start() as server:
        observer = await connect(url or server.operator_url, name="observer")

        async def look() -> dict[str, Any]:
            return (await statuses(observer, until="digits")).get("digits", {})

        try:
            with ExitStack() as stack:
                yield Cluster(shell, url or server.operator_url, look, stack)
        finally:
            await observer.close()


@asynccontextmanager
async def streaming(url: str, digits: Digits, *, meet: Any = stranger) -> AsyncIterator[Stream]:
    """Frames flow until the end of the block; then each must have one answer. `meet`: who publishes them."""
    async with meet(url, "digits") as own:
        stream = Stream(own, digits)
        publishing = asyncio.create_task(stream.publish_for_ever())
        try:
            await stream.answers(50)
            yield stream
            assert not publishing.done()
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
        async with asyncio.timeout(FINISH_S):
            await stream.finish()
        # What would be answered twice is, by now: a frame that was published later has come through.
        await own.answer(digits.frames[0], "the end")
        stream.labels["the end"] = digits.labels[0]
        once(stream)


def once(stream: Stream) -> None:
    """Each frame has one answer, that is none of an error, and was published once."""
    counted = Counter(result["id"] for result in stream.own.results)
    assert set(stream.labels) - set(counted) == set()
    assert {frame_id: count for frame_id, count in counted.items() if count != 1} == {}
    assert [result["error"] for result in stream.own.results if result["error"]] == []
    assert stream.again == 0


def right(stream: Stream, results: list[dict[str, Any]], *, shift: int = 0) -> float:
    """The share of answers that are right, where class c is answered as class c + shift."""
    correct = sum(result["class_index"] == (stream.labels[result["id"]] + shift) % 10 for result in results)
    return correct / max(1, len(results))


def nodes_of(result: dict[str, Any]) -> set[str]:
    return {hop["node"] for hop in result["path"]}


def head_of(document: dict[str, Any]) -> str:
    return next(str(node["name"]) for node in document["nodes"] if node["alive"] and node["head"])


async def prepared(cluster: Cluster, *names: str, within_s: float = FINISH_S) -> dict[str, Any]:
    """The status, once the pipeline runs on exactly these nodes and is ready for a failure."""

    def is_ready(document: dict[str, Any]) -> bool:
        runs = document.get("state") == "running" and hosts(document) == set(names)
        return runs and document["prepared"] and document["technique"] == "none"

    document: dict[str, Any] = await eventually(
        cluster.look, is_ready, within_s=within_s, what=f"a pipeline on {', '.join(names)} that is ready for a failure"
    )
    return document
