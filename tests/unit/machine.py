"""A node's part as a head, and stages that answer when the test lets them."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from broker.activation import Activation
from broker.control import Assignment, FlowSettings
from broker.port import Broker
from stages.deployment import Deployment
from stages.fence import Confirm
from stages.flow import Flow
from stages.leadership import Leadership
from tests.unit.builders import BLOB, numbers, pipeline_spec, route, tensor

SPEC = pipeline_spec(tensor("x", None, None), tensor("y", None, 2))


def npy(value: float, width: int = 2) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, numbers(value, width=width))
    return buffer.getvalue()


class Machine:
    """A node with its own connection: its part as a head, and stages that answer while `works` is set."""

    def __init__(self, name: str, broker: Broker, executor: ThreadPoolExecutor, confirm: Confirm | None = None) -> None:
        self.name = name
        self.broker = broker
        self.lead = Leadership(node=name, broker=broker, executor=executor, confirm=confirm)
        self.works = asyncio.Event()
        self.works.set()
        self.sent: list[str] = []
        self.answers: set[asyncio.Task[None]] = set()

    async def send(self, message: Activation) -> None:
        self.sent += [frame.id for frame in message.frames]
        task = asyncio.create_task(self._answer(message))
        self.answers.add(task)
        task.add_done_callback(self.answers.discard)

    async def _answer(self, message: Activation) -> None:
        await self.works.wait()
        tensors = {"y": numbers(*range(len(message.frames)))}
        await self.lead.on_outcome(Activation(epoch=message.epoch, cut=1, frames=message.frames, tensors=tensors))

    async def follow(self, epoch: int, head: str, standby: str, *, drain: bool = False, before: str = "") -> None:
        """Hear that this epoch is active."""
        way = route(epoch, ("stage", "stage:0-1"), head=head, standby_head=standby)
        assignment = Assignment(pipeline="p", controller="c", spec=BLOB, route=way, flow=FlowSettings())
        deployment = Deployment(assignment=assignment, spec=SPEC, flow=Flow(window=64, batch=4), workers={})
        await self.lead.follow(deployment, send=self.send, drain=drain, previous_head=before)

    async def crash(self) -> None:
        """Whatever it held is gone, and it answers nobody."""
        for task in self.answers:
            task.cancel()
        await self.lead.stop()

    async def has_finished(self) -> bool:
        await self.lead.check()
        return self.lead.head is None
