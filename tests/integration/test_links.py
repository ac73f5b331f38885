"""Links measured in passing, from the activations that cross them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import understudy
from broker.connect import connect
from broker.server import NatsServer
from tests.integration.harness import Shell, eventually
from tests.integration.relay import relay
from understudy.discovery import find_pipeline

SLOW_BYTES_PER_S = 4e6
FRAMES = 24
TRIES = 4
MODEL = Path(onnx.__file__).parent / "backend/test/data/light/light_squeezenet.onnx"


async def test_a_slow_link_shows_in_the_status_while_frames_flow(shell: Shell) -> None:
    """Node b stands behind a link of 4 MB/s, and gets activations of hundreds of kilobytes over it."""
    async with await NatsServer.start() as server, relay(server.port, SLOW_BYTES_PER_S) as port:
        with ExitStack() as stack:

            def start(*arguments: str) -> None:
                stack.enter_context(shell.start(*arguments, UNDERSTUDY_CONTROL_BROKER=server.control_url))

            start("controller", "--model", str(MODEL), "--pipeline", "s", "--broker", server.operator_url,
                  "--stages", "2", "--expect", "2", "--cache", str(shell.folder / "c"),
                  # b would hear the input as well, over the same link.
                  "--recovery", '{"standby_head": false}')  # fmt: skip
            for name, url in (
                ("a", server.operator_url),
                ("b", server.operator_url.replace(f":{server.port}", f":{port}")),
            ):
                start("node", "--name", name, "--broker", url, "--cache", str(shell.folder / name))
            broker = await connect(server.operator_url)
            try:
                document = await links_after_a_stream(broker, server.operator_url)
            finally:
                await broker.close()
    links = {node["name"]: node["links"] for node in document["nodes"]}
    assert [link["from"] for link in links["b"]] == ["a"]
    assert is_right(document)
    assert links["a"] == []  # results are small


async def links_after_a_stream(broker: Any, url: str) -> dict[str, Any]:
    """The status document when a link shows. What else this machine does for a moment disturbs what is measured: after
    more frames it is right."""

    async def look() -> dict[str, Any]:
        try:
            return await find_pipeline(broker, "s")
        except understudy.UnknownPipelineError:
            return {"state": "absent", "nodes": []}

    await eventually(look, lambda document: document["state"] == "running", within_s=60, what="the pipeline")
    image = np.random.default_rng(0).random((1, 3, 224, 224), dtype=np.float32)
    async with understudy.connect(url, "s", timeout_s=60) as client:
        for _ in range(TRIES):
            results = [result async for result in client.stream([image] * FRAMES, window=8)]
            assert [result.error for result in results] == [None] * FRAMES
            document = await eventually(look, shows, within_s=10, what="a link in the status")
            if is_right(document):
                break
    return document


def shows(document: dict[str, Any]) -> bool:
    return any(node["links"] for node in document["nodes"])


def is_right(document: dict[str, Any]) -> bool:
    rates = [link["bytes_per_s"] for node in document["nodes"] for link in node["links"] if node["name"] == "b"]
    return bool(rates) and SLOW_BYTES_PER_S / 1.3 < rates[0] < SLOW_BYTES_PER_S * 1.3
