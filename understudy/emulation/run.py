"""A cluster of containers that is up: frames are streamed through it, and a scenario is carried out meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from broker.cluster import is_mesh
from broker.connect import connect as connect_broker
from broker.errors import BrokerError
from broker.port import Broker
from planner.plan import Stage
from understudy.client import connect
from understudy.demo import stage_lines
from understudy.discovery import UnknownPipelineError, statuses
from understudy.emulation import load
from understudy.emulation.disturbance import Fault
from understudy.emulation.engine import Stack
from understudy.emulation.errors import EmulationError
from understudy.emulation.preparation import Prepared, Wishes
from understudy.emulation.project import CONTROLLER, HUB, Layout, links_of
from understudy.emulation.report import Outcome
from understudy.emulation.scenario import REPAIRS, TAKES_AWAY, Step, resolve
from understudy.emulation.stream import Stream
from understudy.emulation.traffic import Link, commands
from understudy.events import EventError, parse_episode, read_journal

READY_S = 240.0
WHOLE_S = 60.0
ROLE_S = 10.0
FRAME_S = 90.0
"""A frame without an answer for so long, and for three times as long as the plan takes for a full window, is lost."""

LOOK_S = 0.2
AFTER_S = 2.0
"""How long to stream on after the last step has healed."""

BROKER_AGAIN_S = 1.0
MESH_S = 1.0
_BEYOND_BYTES_PER_S = 1.25e9

Say = Callable[[str], None]


@dataclass(slots=True)
class Run:
    """A cluster that is up, or coming up."""

    prepared: Prepared
    wishes: Wishes
    stack: Stack
    say: Say
    _away: set[str] = field(default_factory=set)
    _roles: dict[str, str] = field(default_factory=dict)
    _broker: Broker | None = None

    @property
    def layout(self) -> Layout:
        return self.prepared.layout

    @property
    def outcome(self) -> Outcome:
        return self.prepared.outcome

    async def open(self) -> None:
        """Connect, and wait until every node is there and all spares are loaded.

        Raises:
            EmulationError: a container has ended; or it takes too long. Says what is missing.
        """
        missing = "no broker answers"
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s:
            if ended := await self.stack.ended():
                name, words = next(iter(ended.items()))
                raise EmulationError(f"the container of {name} has ended: {words or 'it said nothing'}")
            with contextlib.suppress(BrokerError):
                self._broker = self._broker or await connect_broker(
                    self.prepared.project.client_url, name="understudy-emulate"
                )
                document = await self._status()
                missing = self._missing(document) or await self._unconnected()
                if not missing:
                    self.outcome.stages = stage_lines(document or {"nodes": []})
                    return
            await asyncio.sleep(LOOK_S)
        words = await self.stack.last_words(self.layout.container(CONTROLLER))
        raise EmulationError(f"not ready after {READY_S:g} s: {missing}; the controller says: {words}")

    async def _unconnected(self) -> str:
        """Brokers send to their neighbours alone: until all have found each other, activations get lost."""
        url = self.prepared.project.system_url
        if not self.layout.mesh or url is None:
            return ""
        system = await connect_broker(url, name="understudy-emulate-system")
        try:
            whole = await is_mesh(system, len(self.layout.cluster.nodes) + 1, listen_s=MESH_S)
        finally:
            await system.close()
        return "" if whole else "the brokers have not found each other"

    async def close(self) -> None:
        if self._broker is not None:
            await self._broker.close()

    async def served(self) -> tuple[int, tuple[Stage, ...]]:
        """The plan's epoch and stages, as the controller says. Raises EmulationError where it does not answer."""
        document = await self._status()
        if document is None:
            raise EmulationError("the controller does not say which stages it has deployed")
        placed = [(first, end, node["name"]) for node in document["nodes"] for first, end in node["stages"]]
        stages = tuple(Stage(first_block=first, end_block=end, node=name) for first, end, name in sorted(placed))
        return document["epoch"], stages

    async def play(self) -> None:
        """Stream, and carry out the scenario meanwhile."""
        wishes = self.wishes
        await self._stream(self.outcome, self._direct, rate_per_s=wishes.rate_per_s, window=self.outcome.window)
        await self._read_journal()

    async def stream(self, seconds: float, window: int, *, frames: int = 0) -> Outcome:
        """Stream at full rate with so many frames under way, at least so long and so many; all are answered at the end.
        Nothing goes wrong on purpose."""

        async def wait(stream: Stream) -> None:
            await asyncio.sleep(seconds)
            await stream.published_at_least(frames)

        outcome = Outcome(cores=self.outcome.cores, planned_per_s=self.outcome.planned_per_s, window=window)
        await self._stream(outcome, wait, rate_per_s=0.0, window=window)
        return outcome

    async def _stream(
        self, outcome: Outcome, until: Callable[[Stream], Awaitable[None]], *, rate_per_s: float, window: int
    ) -> None:
        assert self._broker is not None  # noqa: S101 - open comes first
        url, pipeline = self.prepared.project.client_url, self.layout.pipeline
        over = asyncio.Event()
        before = load.cpu_times()

        async def end(stream: Stream) -> None:
            try:
                await until(stream)
            finally:
                over.set()
                outcome.streamed_s = stream.now_s
                outcome.cpu_busy = load.busy_share(before, load.cpu_times())

        try:
            async with connect(url, pipeline, timeout_s=_frame_s(outcome)) as client:
                stream = Stream(client, self.prepared.samples.samples, outcome, rate_per_s=rate_per_s, window=window)
                await stream.listen(self._broker, pipeline)
                async with asyncio.TaskGroup() as group:
                    group.create_task(stream.run(over.is_set), name="stream")
                    group.create_task(end(stream), name="scenario")
        except UnknownPipelineError as error:
            raise EmulationError(str(error)) from error
        except ExceptionGroup as group_error:
            raise _first_of(group_error) from None

    async def _read_journal(self) -> None:
        assert self._broker is not None  # noqa: S101 - open comes first
        try:
            records = await read_journal(self._broker, self.layout.pipeline)
            self.outcome.episodes = [parse_episode(record) for record in records]
        except (BrokerError, EventError) as error:
            self.outcome.notes.append(f"the controller's journal is missing: {error}")

    async def _direct(self, stream: Stream) -> None:
        scenario = self.wishes.scenario
        async with asyncio.TaskGroup() as group:
            for step in () if scenario is None else scenario.for_nodes(self.layout.cluster.names):
                if step.healed:
                    await self._until_whole()
                await asyncio.sleep(step.after)
                asked_at = time.time()
                await self._do(step, stream)
                # Beside what follows: the next step may be due at once, and the engine forgets its events soon.
                group.create_task(self._set_moment(len(self.outcome.faults) - 1, asked_at), name="moment")
        if scenario is not None:
            await self._until_whole()
            await asyncio.sleep(AFTER_S)
        await asyncio.sleep(max(0.0, self.wishes.seconds - stream.now_s))
        await stream.published_at_least(self.wishes.frames)

    # ---- one step ----------------------------------------------------------------------------------------------

    async def _do(self, step: Step, stream: Stream) -> None:
        name = await self._resolve(step.who)
        fault = Fault(action=step.do, who=name, at_s=stream.now_s)
        self.outcome.faults.append(fault)
        self.say(f"{stream.now_s:6.1f} s  {step.do} {name}")
        note = await self._carry_out(step, name)
        self.outcome.faults[-1] = replace(fault, note=note)

    async def _set_moment(self, number: int, asked_at: float) -> None:
        """A fault began when the engine had done it, not when it was asked to."""
        fault = self.outcome.faults[number]
        with contextlib.suppress(EmulationError):
            if (at := await self.stack.moment(fault.action, fault.who, since=asked_at)) is not None:
                self.outcome.faults[number] = replace(fault, at_s=at - self.outcome.began_at)

    async def _carry_out(self, step: Step, name: str) -> str:
        """A note, where it could not be done as asked."""
        if step.do in TAKES_AWAY:
            self._away.add(name)
        note = ""
        match step.do:
            case "kill" | "start" | "restart" | "pause":
                await self.stack.do(step.do, name)
            case "resume":
                await self.stack.do("unpause", name)
            case "cut":
                await self.stack.cut(name)
            case "join":
                await self.stack.join(name)
                await self._restore(name)
            case "slow":
                note = await self._slow(step, name)
            case "restore":
                await self._restore(name)
            case "kill-broker":
                await self._kill_broker(name)
        if step.do in (*REPAIRS.values(), "restart"):
            self._away.discard(name)
        return note

    async def _slow(self, step: Step, name: str) -> str:
        """Everything that leaves the node."""
        netem = step.needs_netem and await self.stack.has_netem(name)
        known = links_of(self.layout, name)
        links = []
        for peer in self.layout.names:
            if peer == name:
                continue
            own = known.get(peer) or Link(address=self.layout.address(peer), bytes_per_s=_BEYOND_BYTES_PER_S)
            rate = own.bytes_per_s if step.rate is None else min(step.rate, own.bytes_per_s)
            links.append(replace(own, bytes_per_s=rate, delay_ms=step.delay * 1e3, loss_percent=step.loss))
        await self.stack.shape(name, commands(links, netem=netem))
        return "" if netem or not step.needs_netem else "no delay and no loss: this kernel has no netem"

    async def _restore(self, name: str) -> None:
        await self.stack.shape(name, commands(list(links_of(self.layout, name).values()), netem=False))

    async def _kill_broker(self, name: str) -> None:
        if name == HUB and self.layout.mqtt:
            await self.stack.restart_hub(BROKER_AGAIN_S)
        elif name == HUB or self.layout.mesh:
            await self.stack.kill_broker(name)
        else:
            raise EmulationError(f"in a star {name} has no broker of its own: use the scenario kill-hub")

    async def _resolve(self, who: str) -> str:
        deadline_s = time.monotonic() + ROLE_S
        while True:
            try:
                name = resolve(who, await self._status() or {"nodes": []}, self._roles)
            except EmulationError:
                # While a fault is bridged a node may have every role.
                if time.monotonic() > deadline_s:
                    raise
                await asyncio.sleep(LOOK_S)
            else:
                self._roles[who] = name
                return name

    # ---- what is known of it -----------------------------------------------------------------------------------

    async def _status(self) -> dict[str, Any] | None:
        assert self._broker is not None  # noqa: S101 - open comes first
        with contextlib.suppress(BrokerError):
            return (await statuses(self._broker, until=self.layout.pipeline)).get(self.layout.pipeline)
        return None

    async def _until_whole(self) -> None:
        """Or until that has taken too long, which is noted."""
        deadline_s = time.monotonic() + WHOLE_S
        while missing := self._missing(await self._status()):
            if time.monotonic() > deadline_s:
                self.outcome.notes.append(f"not whole again after {WHOLE_S:g} s: {missing}")
                return
            await asyncio.sleep(LOOK_S)

    def _missing(self, document: Mapping[str, Any] | None) -> str:
        if document is None:
            return "the controller does not answer"
        alive = {node["name"] for node in document["nodes"] if node["alive"]}
        absent = sorted(set(self.layout.cluster.names) - self._away - alive)
        if absent:
            return f"{', '.join(absent)} not there"
        if document["state"] != "running":
            return str(document["reason"])
        if document["technique"] != "none":
            return f"answers come by {document['technique']}"
        return "" if document["prepared"] else "spares are being loaded"


def _frame_s(outcome: Outcome) -> float:
    """How long an answer may take: also where a full window is under way, three times what the plan takes for it."""
    planned_per_s = outcome.planned_per_s
    return FRAME_S if planned_per_s is None else max(FRAME_S, 3 * outcome.window / planned_per_s)


def _first_of(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
