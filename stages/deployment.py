"""What a node runs for one epoch: the parts that the route places on it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.activation import Activation
from broker.control import Assignment, Route
from stages.flow import Flow
from stages.spec import PipelineSpec
from stages.worker import StageWorker


@dataclass(slots=True, kw_only=True)
class Deployment:
    """Loaded parts of one epoch. Several epochs may be there at once while one replaces another."""

    assignment: Assignment
    spec: PipelineSpec
    flow: Flow
    workers: Mapping[int, StageWorker]
    """By the first block of the part, which is the cut that its activations come from."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        return self.assignment.epoch

    @property
    def route(self) -> Route:
        return self.assignment.route

    def start(self) -> None:
        for worker in self.workers.values():
            name = f"stage-{worker.first_block}-{worker.end_block}-epoch-{self.epoch}"
            self._tasks.append(asyncio.create_task(worker.run(), name=name))

    def accept(self, activation: Activation) -> bool:
        """Hand an activation to its stage; False where this node has no stage at that cut.

        Raises:
            WireError: the tensors are not those of the cut.
        """
        worker = self.workers.get(activation.cut)
        if worker is None:
            return False
        worker.accept(activation)
        return True

    def failed(self) -> BaseException | None:
        """The error that ended a stage's task, if one did: a defect, since frames' errors do not."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                return task.exception()
        return None

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
