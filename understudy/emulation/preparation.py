"""What is known before anything is started: what is asked for, what is planned, and the files of the project."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from broker.server import ServerConfig
from planner.chain import Chain
from planner.cluster import Cluster
from planner.plan import NoPlanError, Plan, Stage
from planner.solve import price, solve
from stages.bundle import Bundle, write_bundle
from stages.chain import chain_of
from understudy.bundles import load_model, open_bundle
from understudy.emulation.errors import EmulationError
from understudy.emulation.links import check_names, payload_cluster, with_machines
from understudy.emulation.project import CONTROLLER, IMAGE, RESERVED, File, Layout, Place, Project, make_project
from understudy.emulation.report import Outcome
from understudy.emulation.samples import Samples, make_samples
from understudy.emulation.scenario import Scenario
from understudy.objectives import RecoveryConfig

MOST_WINDOW = 64
QUEUE_S = 2.0
PLAN_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a run is asked for. `frames`, `seconds`: at least so many, so long; `rate_per_s` 0: as fast as it goes;
    `window`: frames under way at most, 0: as many as the links can carry without a long queue.

    Attributes:
        plan: the stages to serve with; none: the controller plans.
        memory_bytes, cpus: of nodes of which the cluster does not tell them. No memory: so little that the network is
            split.
        image: one that is there, in place of building it.
    """

    cluster: Cluster
    bundle: Path | None = None
    model: Path | None = None
    plan: tuple[Stage, ...] = ()
    memory_bytes: int | None = None
    cpus: float = 1.0
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
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
    """What is known before anything is started. `folder` has the files of the project.

    Attributes:
        chain, seen: what the controller plans for, and with.
        plan: the one given, or the one that the controller should find.
    """

    folder: Path
    chain: Chain
    seen: Cluster
    plan: Plan
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
    chain = chain_of(graph, bundle.manifest).within(wishes.recovery.max_codec_loss)
    samples = await asyncio.to_thread(make_samples, bundle, graph)
    outcome = Outcome(cores=os.cpu_count() or 1, lossy=any(codec.accuracy_loss for codec in chain.codecs))
    cluster, cpus = _machines(wishes, chain, samples, outcome)
    layout = Layout(
        pipeline=bundle.manifest.name,
        cluster=cluster,
        cpus=cpus,
        served=("--bundle", "{here}/bundle", "--recovery", wishes.recovery.model_dump_json(exclude_unset=True)),
        plan=wishes.plan,
        mqtt=wishes.mqtt,
        image=wishes.image or IMAGE,
        place=place,
    )
    # As the controller will see it: it sends no activation in pieces.
    seen = replace(payload_cluster(cluster), max_payload_bytes=ServerConfig().max_payload_bytes, chunked=False)
    try:
        if wishes.plan:
            plan = price(chain, seen, wishes.plan)
        else:
            plan = await asyncio.to_thread(solve, chain, seen, time_limit_s=PLAN_S)
    except NoPlanError as error:
        raise EmulationError(f"no plan fits these nodes: {error}") from error
    outcome.planned_per_s = 1 / plan.bottleneck_s if plan.bottleneck_s else None
    outcome.window = wishes.window or choose_window(plan)
    project = make_project(layout)
    for path, file in project.files.items():
        _write(folder / path, file)
    return Prepared(
        folder=folder,
        chain=chain,
        seen=seen,
        plan=plan,
        layout=layout,
        project=project,
        samples=samples,
        outcome=outcome,
    )


def choose_window(plan: Plan) -> int:
    """Frames under way: half as many again as keep every step busy, and more only where they are through in a moment:
    what waits longer makes nothing faster."""
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
