"""A local cluster whose nodes can be killed, stopped and started again, and that says when it is ready for it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.errors import UnderstudyError
from understudy.config import UpConfig
from understudy.local import LocalCluster
from understudy.settings import Settings

POLL_S = 0.05
READY_S = 60.0
NODE = "node"


class NotReadyError(UnderstudyError):
    """The cluster did not become healthy again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The healthy state in which something is done to the cluster.

    Attributes:
        epoch: of the plan.
        stages: node to its blocks [first, end), in order.
        head: the node of the head.
        spares: node to the names of the parts that it has loaded besides.
    """

    epoch: int
    stages: Mapping[str, tuple[int, int]]
    head: str
    spares: Mapping[str, tuple[str, ...]]

    @property
    def exact_standbys(self) -> bool:
        """Whether all copies of stages are in full precision: quantised ones are named with a variant."""
        parts = [part for parts in self.spares.values() for part in parts]
        return all(part.count(":") == 1 for part in parts if part.startswith("standby:"))

    def role(self, node: str) -> str:
        first, end = self.stages[node]
        return f"{first}-{end}{' + head' if node == self.head else ''}"


class FaultyCluster(LocalCluster):
    """`kill` and `stop` return the moment just before the signal."""

    def __init__(self, config: UpConfig, *, pipeline: str, settings: Settings) -> None:
        super().__init__(config, pipeline=pipeline, settings=settings)
        self.names = tuple(node.name for node in config.nodes)
        self._arguments: dict[str, tuple[str, ...]] = {}

    @property
    def operator_urls(self) -> tuple[str, str | None]:
        """Of the data and of the control account."""
        return self._operator_url or self.broker_url, self._control_url

    def keep_logs(self, document: Mapping[str, Any] | None) -> Path:
        """Copy the logs of all processes, and the status document, to where they outlive this cluster."""
        kept = Path(tempfile.mkdtemp(prefix="understudy-bench-failed-"))
        for path in self._folder.glob("*.log"):
            shutil.copy(path, kept)
        (kept / "status.json").write_text(json.dumps(document, indent=2))
        return kept

    def signal(self, name: str, number: signal.Signals) -> float:
        pid = self.children[name].process.pid
        now_s = time.perf_counter()
        os.kill(pid, number)
        return now_s

    def kill(self, name: str) -> float:
        return self.signal(name, signal.SIGKILL)

    def stop(self, name: str) -> float:
        return self.signal(name, signal.SIGSTOP)

    async def start_again(self, name: str) -> None:
        """With the arguments that it had."""
        await self.children[name].process.wait()
        await self._spawn(name, self._arguments[name])

    async def ready(self) -> Ready:
        """Wait until every node has a stage of the plan that serves, all spares are loaded, and what to do about each
        failure is prepared.

        Raises:
            NotReadyError: that takes too long; says what is missing.
        """
        why = "the controller does not answer"
        try:
            async with asyncio.timeout(READY_S):
                while True:
                    document = await self.status()
                    if document is not None:
                        found, why = self._judge(document)
                        if found is not None:
                            return found
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            document = await self.status()
            raise NotReadyError(f"not ready after {READY_S:g} s: {why}; see {self.keep_logs(document)}") from None

    def record_of(self, document: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """The newest record of a failure of one of these nodes; empty if there is none."""
        wanted = set(names)
        for record in reversed(document["recoveries"]):
            if record["kind"] == "failure" and wanted & set(record["nodes"]):
                return dict(record)
        return {}

    async def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        self._arguments[name] = tuple(arguments)
        await super()._spawn(name, arguments)

    def _judge(self, document: Mapping[str, Any]) -> tuple[Ready | None, str]:
        """The state if it is ready, else what is missing."""
        epoch = document["epoch"]
        if document["state"] != "running":
            return None, str(document["reason"])
        nodes = {node["name"]: node for node in document["nodes"] if node["alive"]}
        missing = [name for name in self.names if name not in nodes or not nodes[name]["stages"]]
        missing += [name for name in self.names if name in nodes and nodes[name]["epoch"] != epoch]
        if missing:
            return None, f"{', '.join(sorted(set(missing)))} have no stage of epoch {epoch}"
        spares = {name: tuple(node["spares"]) for name, node in nodes.items() if node["spares"]}
        if not document["prepared"]:
            return None, f"spares are being loaded; so far: {spares}"
        stages = {name: tuple(nodes[name]["stages"][0]) for name in self.names}
        return Ready(
            epoch=epoch,
            stages=dict(sorted(stages.items(), key=lambda item: item[1])),
            head=next(name for name, node in nodes.items() if node["head"]),
            spares=spares,
        ), ""
