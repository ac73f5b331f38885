"""A whole run: make the project, start it, stream frames, let things go wrong, and tell what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from broker.cluster import is_mesh
from broker.connect import connect as connect_broker
from broker.errors import BrokerError
from broker.folder import TemporaryFolder
from broker.port import Broker
from planner.chain import Chain
from planner.cluster import Cluster
from planner.plan import NoPlanError, Plan
from planner.solve import solve
from stages.bundle import Bundle, write_bundle
from understudy.bundles import load_model, open_bundle
from understudy.client import connect
from understudy.demo import stage_lines
from understudy.discovery import UnknownPipelineError, statuses
from understudy.emulation import engine, load
from understudy.emulation.engine import Stack
from understudy.emulation.errors import EmulationError
from understudy.emulation.links import check_names, with_machines
from understudy.emulation.project import (
    CONTROLLER,
    HUB,
    IMAGE,
    RESERVED,
    File,
    Layout,
    Place,
    Project,
    links_of,
    make_project,
)
from understudy.emulation.report import Fault, Outcome
from understudy.emulation.samples import Samples, make_samples
from understudy.emulation.scenario import REPAIRS, TAKES_AWAY, Scenario, Step, resolve
from understudy.emulation.stream import Stream
from understudy.emulation.traffic import Link, commands

READY_S = 240.0
WHOLE_S = 60.0
FRAME_S = 90.0
LOOK_S = 0.2
MOST_WINDOW = 64
QUEUE_S = 2.0
AFTER_S = 2.0
"""How long to stream on after the last step has healed."""

BROKER_AGAIN_S = 1.0
MESH_S = 1.0
_PREFIX = "understudy-emulation-"
_KEPT_PREFIX = "understudy-kept-"
"""Another one: folders of the first are removed with the process that made them, or by the next one."""

_BEYOND_BYTES_PER_S = 1.25e9

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a run is asked for. `frames`, `seconds`: at least so many, so long; `rate_per_s` 0: as fast as it goes;
    `window`: frames under way at most, 0: as many as the links can carry without a long queue.

    Attributes:
        memory_bytes, cpus: of nodes of which the cluster does not tell them. No memory: so little that the network is
            split.
        image: one that is there, in place of building it.
    """

    cluster: Cluster
    bundle: Path | None = None
    model: Path | None = None
    memory_bytes: int | None = None
    cpus: float = 1.0
    scenario: Scenario | None = None
    frames: int = 0
    seconds: float = 20.0
    rate_per_s: float = 20.0
    window: int = 0
    mqtt: bool = False
    keep: bool = False
    image: str | None = None
    sources: Path | None = None

    def __post_init__(self) -> None:
        if self.mqtt and self.cluster.topology == "mesh":
            raise EmulationError("MQTT brokers form no mesh: --mqtt is for a star")
        check_names(self.cluster.names, RESERVED)


@dataclass(slots=True, kw_only=True)
class Prepared:
    """What is known before anything is started. `folder` has the files of the project."""

    folder: Path
    layout: Layout
    project: Project
    samples: Samples
    outcome: Outcome


def sources_folder() -> Path | None:
    """Where the image is built from: the checkout that this package is part of."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "compose" / "Dockerfile").is_file() else None


async def prepare(wishes: Wishes, folder: Path, place: Place) -> Prepared:
    """Write the project's files to a folder.

    Raises:
        EmulationError, ModelError, ConfigError: it cannot be emulated; says why.
    """
    bundle = await asyncio.to_thread(_copy_bundle, open_bundle(wishes.bundle, wishes.model), folder / CONTROLLER)
    graph = await load_model(bundle)
    chain = graph.chain()
    samples = await asyncio.to_thread(make_samples, bundle, graph)
    outcome = Outcome(cores=os.cpu_count() or 1)
    cluster, cpus = _machines(wishes, chain, samples, outcome)
    layout = Layout(
        pipeline=bundle.manifest.name,
        cluster=cluster,
        cpus=cpus,
        served=("--bundle", "{here}/bundle"),
        mqtt=wishes.mqtt,
        image=wishes.image or IMAGE,
        place=place,
    )
    try:
        plan = await asyncio.to_thread(solve, chain, cluster, time_limit_s=3.0)
    except NoPlanError as error:
        raise EmulationError(f"no plan fits these nodes: {error}") from error
    outcome.planned_per_s = 1 / plan.bottleneck_s if plan.bottleneck_s else None
    outcome.window = wishes.window or choose_window(plan)
    project = make_project(layout)
    for path, file in project.files.items():
        _write(folder / path, file)
    return Prepared(folder=folder, layout=layout, project=project, samples=samples, outcome=outcome)


def choose_window(plan: Plan) -> int:
    """Frames under way: half as many again as keep every step busy, and more only where they are through in a moment.
    What waits for many seconds is sent again, by those who cannot know that it is only waiting, and makes a slow link
    slower."""
    if plan.bottleneck_s <= 0:
        return MOST_WINDOW
    busy = math.ceil(1.5 * plan.latency_s / plan.bottleneck_s) + 1
    return min(MOST_WINDOW, max(busy, int(QUEUE_S / plan.bottleneck_s)))


def _machines(wishes: Wishes, chain: Chain, samples: Samples, outcome: Outcome) -> tuple[Cluster, dict[str, float]]:
    """The cluster with memory and speed of every node, and the cores that make a container as fast as its node."""
    core_flops_per_s = max(1.0, sum(chain.block_flops)) / samples.seconds
    cluster = with_machines(
        wishes.cluster,
        chain,
        memory_bytes=wishes.memory_bytes,
        flops_per_s=wishes.cpus * core_flops_per_s,
        lost=0 if wishes.scenario is None else min(2, max(1, wishes.scenario.most_away)),
    )
    cpus: dict[str, float] = {}
    for node in cluster.nodes:
        wanted = (node.flops_per_s or core_flops_per_s) / core_flops_per_s
        cpus[node.name] = min(float(outcome.cores), max(0.01, wanted))
        if wanted > outcome.cores * 1.01:
            outcome.notes.append(
                f"{node.name} would need {wanted:.1f} cores for its speed, and this machine has {outcome.cores}: "
                f"it is slower than planned"
            )
    return cluster, cpus


def _copy_bundle(opened: Bundle, parent: Path) -> Bundle:
    """Where the controller's user can read it."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / "bundle"
    if opened.folder is None:
        write_bundle(folder, opened.manifest, model_path=opened.model_path)
    else:
        shutil.copytree(opened.folder, folder)
    for path in (parent, folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Bundle.load(folder)


def _write(path: Path, file: File) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o755)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(path, flags, 0o600 if file.private else 0o644), "w", encoding="utf-8") as out:
        out.write(file.text)


async def rehearse(wishes: Wishes, say: Say) -> Outcome:
    """Everything, from the image to the removal of the last container.

    Raises:
        EmulationError: there is no engine, or the cluster does not come up.
    """
    await engine.check_engine()
    if wishes.image is None:
        sources = wishes.sources or sources_folder()
        if sources is None:
            raise EmulationError("the image is built from the sources, which are not here: use a checkout, or --image")
        say("building the image (minutes the first time, seconds when only the code has changed) ...")
        await engine.build(sources, IMAGE, index_url=os.environ.get("PIP_INDEX_URL"))
    if wishes.keep:
        return await _rehearse(wishes, Path(tempfile.mkdtemp(prefix=_KEPT_PREFIX)), say)
    with TemporaryFolder.make(_PREFIX) as parent:
        return await _rehearse(wishes, parent.path, say)


async def _rehearse(wishes: Wishes, parent: Path, say: Say) -> Outcome:
    """In a folder of its name, which the containers' files are mounted from."""
    place = Place(name=f"understudy-{secrets.token_hex(4)}", subnet=await _free_subnet(), port=_free_port())
    folder = parent / place.name
    folder.mkdir()
    prepared = await prepare(wishes, folder, place)
    layout, outcome = prepared.layout, prepared.outcome
    began_s = time.monotonic()
    async with AsyncExitStack() as stack:
        containers = await stack.enter_async_context(Stack(layout, folder, keep=wishes.keep))
        remove = f"docker compose -p {layout.name} down --volumes"
        stack.callback(say, f"kept: {folder}; {remove}" if wishes.keep else "removing the containers ...")
        say(f"starting {len(layout.cluster.nodes)} nodes ({layout.cluster.topology}), a controller and a hub ...")
        await containers.start()
        run = Run(prepared, wishes, containers, say)
        stack.push_async_callback(run.close)
        await run.open()
        outcome.ready_s = time.monotonic() - began_s
        say(f"ready after {outcome.ready_s:.0f} s; streaming frames ...")
        await run.play()
    return outcome


async def _free_subnet() -> str:
    used = await engine.used_subnets()
    free = (f"10.{second}.{third}" for second in (213, 214, 215) for third in range(256))
    return next(subnet for subnet in free if subnet not in used)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


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
    _over: bool = False

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

    async def play(self) -> None:
        """Stream, and carry out the scenario meanwhile."""
        assert self._broker is not None  # noqa: S101 - open comes first
        url, pipeline = self.prepared.project.client_url, self.layout.pipeline
        try:
            async with connect(url, pipeline, timeout_s=FRAME_S) as client:
                stream = Stream(
                    client,
                    self.prepared.samples.samples,
                    self.outcome,
                    rate_per_s=self.wishes.rate_per_s,
                    window=self.outcome.window,
                )
                await stream.listen(self._broker, pipeline)
                before = load.cpu_times()
                async with asyncio.TaskGroup() as group:
                    group.create_task(stream.run(lambda: self._over), name="stream")
                    group.create_task(self._direct(stream), name="scenario")
                self.outcome.cpu_busy = load.busy_share(before, load.cpu_times())
        except UnknownPipelineError as error:
            raise EmulationError(str(error)) from error
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None

    async def _direct(self, stream: Stream) -> None:
        try:
            scenario = self.wishes.scenario
            for step in () if scenario is None else scenario.for_nodes(self.layout.cluster.names):
                if step.healed:
                    await self._until_whole()
                await asyncio.sleep(step.after)
                await self._do(step, stream)
            if scenario is not None:
                await self._until_whole()
                await asyncio.sleep(AFTER_S)
            await asyncio.sleep(max(0.0, self.wishes.seconds - stream.now_s))
            await stream.published_at_least(self.wishes.frames)
        finally:
            self._over = True

    # ---- one step ----------------------------------------------------------------------------------------------

    async def _do(self, step: Step, stream: Stream) -> None:
        name = await self._resolve(step.who)
        fault = Fault(action=step.do, who=name, at_s=stream.now_s)
        self.outcome.faults.append(fault)
        self.say(f"{stream.now_s:6.1f} s  {step.do} {name}")
        note = await self._carry_out(step, name)
        self.outcome.faults[-1] = replace(fault, note=note)

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
        document = await self._status()
        deadline_s = time.monotonic() + WHOLE_S
        while document is None and time.monotonic() < deadline_s:
            await asyncio.sleep(LOOK_S)
            document = await self._status()
        name = resolve(who, document or {"nodes": []}, self._roles)
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
