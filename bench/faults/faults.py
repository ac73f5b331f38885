"""What can go wrong. Each fault is made with whom it is done to, done with `inject` and undone with `repair`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.faults.cluster import PIPELINE, ChaosCluster
from bench.faults.link import Shape
from bench.faults.noise import Nonsense, babble, control_subjects, data_subjects, deaf, echoing, overhear
from bench.faults.servers import NatsServers, Server, ServersError, signal_server
from bench.faults.space import SmallDisk, SpaceError
from broker.cluster import MOST_SERVERS

CACHE_BYTES = 16 << 10
CLUSTER = (3, MOST_SERVERS)
STREAMS = (f"understudy_in_{PIPELINE}", f"understudy_out_{PIPELINE}")
OVERHEAR_S = 0.3
BABBLE_PER_S = 300.0


class SkippedError(Exception):
    """The fault cannot be made here; says why."""


class Fault(Protocol):
    """One fault. `inject` and `repair` are each called once, in this order."""

    async def inject(self, cluster: ChaosCluster) -> str:
        """Do it; says to whom it was done. Raises SkippedError where it cannot be done."""

    async def repair(self, cluster: ChaosCluster) -> None:
        """Undo it."""


@dataclass(slots=True, kw_only=True)
class Killed:
    """Processes end, and are started again. `roles`: names, or `head`, `standby-head`, `controller`."""

    roles: Sequence[str]
    names: list[str] = field(default_factory=list)

    async def inject(self, cluster: ChaosCluster) -> str:
        self.names = await _choose(cluster, self.roles)
        await asyncio.gather(*(cluster.kill(name) for name in self.names))
        return " ".join(self.names)

    async def repair(self, cluster: ChaosCluster) -> None:
        for name in self.names:
            await cluster.start_again(name)


@dataclass(slots=True, kw_only=True)
class Stopped:
    """Processes hang (SIGSTOP), and go on."""

    roles: Sequence[str]
    names: list[str] = field(default_factory=list)

    async def inject(self, cluster: ChaosCluster) -> str:
        self.names = await _choose(cluster, self.roles)
        for name in self.names:
            cluster.stop(name)
        return " ".join(self.names)

    async def repair(self, cluster: ChaosCluster) -> None:
        for name in self.names:
            cluster.go_on(name)


async def _choose(cluster: ChaosCluster, roles: Sequence[str]) -> list[str]:
    """The members to do it to: of those that are down already none, and never the last node that works."""
    names: list[str] = []
    for role in roles:
        name = await cluster.who_is(role)
        working = [other for other in cluster.node_names if cluster.members[other].works and other not in names]
        if name in cluster.node_names and name not in working:
            name = next(iter(working), name)
        if name in cluster.node_names and len(working) < 2:
            continue
        if name not in names and cluster.members[name].works:
            names.append(name)
    if not names:
        raise SkippedError("nobody is left to do it to")
    return names


@dataclass(slots=True, kw_only=True)
class ServerKilled:
    """A server ends, and is started again on the same port with the same store. `chance`, below 1, says which."""

    chance: float
    server: Server | None = None

    async def inject(self, cluster: ChaosCluster) -> str:
        number, self.server = _server(cluster, self.chance)
        await self.server.kill()
        return f"server {number}"

    async def repair(self, cluster: ChaosCluster) -> None:  # noqa: ARG002 - the port's
        if self.server is not None and not self.server.running:
            await self.server.restart()


@dataclass(slots=True, kw_only=True)
class LeaderKilled:
    """The server that leads in JetStream ends: all of it (`stream` is empty), or a stream of the data account."""

    stream: str
    server: Server | None = None

    async def inject(self, cluster: ChaosCluster) -> str:
        assert isinstance(cluster.servers, NatsServers)
        try:
            self.server = await cluster.servers.leader(self.stream)
        except ServersError as error:
            raise SkippedError(str(error)) from error
        await self.server.kill()
        return f"server {cluster.servers.each.index(self.server) + 1}, which leads {self.stream or 'JetStream'}"

    async def repair(self, cluster: ChaosCluster) -> None:  # noqa: ARG002 - the port's
        if self.server is not None and not self.server.running:
            await self.server.restart()


@dataclass(slots=True, kw_only=True)
class ServerStopped:
    """A server hangs, and goes on."""

    chance: float

    async def inject(self, cluster: ChaosCluster) -> str:
        number, server = _server(cluster, self.chance)
        signal_server(server, signal.SIGSTOP)
        return f"server {number}"

    async def repair(self, cluster: ChaosCluster) -> None:
        signal_server(_server(cluster, self.chance)[1], signal.SIGCONT)


def _server(cluster: ChaosCluster, chance: float) -> tuple[int, Server]:
    """One of them, and its number."""
    index = int(chance * len(cluster.servers.each))
    return index + 1, cluster.servers.each[index]


@dataclass(slots=True, kw_only=True)
class LinkChanged:
    """What is between a node and the server: cut, half cut, slow."""

    node: str
    shape: Shape

    async def inject(self, cluster: ChaosCluster) -> str:
        cluster.links[self.node].add(self.shape)
        return f"{self.node}, {self.shape}"

    async def repair(self, cluster: ChaosCluster) -> None:
        cluster.links[self.node].remove(self.shape)


@dataclass(slots=True, kw_only=True)
class AllDelayed:
    """Every message of every node takes so much longer, in each direction."""

    delay_s: float

    async def inject(self, cluster: ChaosCluster) -> str:
        for link in cluster.links.values():
            link.add(Shape(delay_s=self.delay_s))
        return f"all links, {self.delay_s * 1e3:.0f} ms"

    async def repair(self, cluster: ChaosCluster) -> None:
        for link in cluster.links.values():
            link.remove(Shape(delay_s=self.delay_s))


@dataclass(slots=True)
class Echo:
    """Every message is published a second time."""

    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def inject(self, cluster: ChaosCluster) -> str:
        await self.stack.enter_async_context(echoing(cluster.all_rights_urls))
        return "every subject"

    async def repair(self, cluster: ChaosCluster) -> None:  # noqa: ARG002 - the port's
        await self.stack.aclose()


@dataclass(slots=True, kw_only=True)
class Garbage:
    """Nonsense on every subject of both accounts."""

    seed: int
    tasks: list[asyncio.Task[int]] = field(default_factory=list)

    async def inject(self, cluster: ChaosCluster) -> str:
        chance = random.Random(self.seed)
        urls = cluster.all_rights_urls
        nonsense = Nonsense(chance, await overhear(urls, seconds=OVERHEAR_S))
        data = data_subjects(PIPELINE, cluster.node_names, 12, cluster.blobs())
        told = data, control_subjects(PIPELINE, cluster.node_names)
        for url, subjects in zip(urls if len(urls) > 1 else urls * 2, told, strict=True):
            work = babble(url, subjects, nonsense, chance, rate_per_s=BABBLE_PER_S)
            self.tasks.append(asyncio.create_task(work, name="chaos-garbage"))
        return f"every subject, {2 * BABBLE_PER_S:.0f} per s"

    async def repair(self, cluster: ChaosCluster) -> None:  # noqa: ARG002 - the port's
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@dataclass(slots=True)
class SlowConsumer:
    """Subscribers of the results that do not read."""

    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def inject(self, cluster: ChaosCluster) -> str:
        await self.stack.enter_async_context(deaf(cluster.url, f"understudy.{PIPELINE}.out"))
        return "two subscribers"

    async def repair(self, cluster: ChaosCluster) -> None:  # noqa: ARG002 - the port's
        await self.stack.aclose()


@dataclass(slots=True, kw_only=True)
class CacheBroken:
    """A process ends, what it has cached is damaged, and it is started again on that.

    `how`: `corrupt` (the files hold something else), `blocked` (there is a file where the folder was), `full` (no room
    on the disk).
    """

    role: str
    how: str
    seed: int
    name: str = ""

    async def inject(self, cluster: ChaosCluster) -> str:
        (self.name,) = await _choose(cluster, [self.role])
        cache = cluster.members[self.name].cache
        await cluster.kill(self.name)
        try:
            _mend(cluster, self.name)
            await asyncio.to_thread(self._break, cluster, cache)
        except SkippedError:
            await cluster.start_again(self.name)
            raise
        return f"{self.name}: {self.how}"

    async def repair(self, cluster: ChaosCluster) -> None:
        await cluster.start_again(self.name)

    def _break(self, cluster: ChaosCluster, cache: Path) -> None:
        if self.how == "corrupt":
            chance = random.Random(self.seed)
            for path in sorted(cache.iterdir()) if cache.is_dir() else ():
                if path.is_file():
                    path.write_bytes(chance.randbytes(chance.choice((0, 100, path.stat().st_size))))
            return
        shutil.rmtree(cache, ignore_errors=True)
        if self.how == "blocked":
            cache.write_bytes(b"in the way")
            return
        try:
            disk = SmallDisk.mount(cache, size_bytes=CACHE_BYTES)
        except SpaceError as error:
            raise SkippedError(str(error)) from error
        cluster.disks[self.name] = disk
        disk.fill()


def _mend(cluster: ChaosCluster, name: str) -> None:
    """Undo what was done to the cache of a process that has ended."""
    disk, cache = cluster.disks.pop(name, None), cluster.members[name].cache
    if disk is not None:
        disk.unmount()
    if cache.is_file():
        cache.unlink()


@dataclass(slots=True)
class StoreFull:
    """JetStream has no room: the lease of the controllers cannot be renewed."""

    async def inject(self, cluster: ChaosCluster) -> str:
        if cluster.store is None:
            raise SkippedError("JetStream's store is not on a small disk of its own: a mount is not allowed here")
        await asyncio.to_thread(cluster.store.fill)
        return "JetStream's store"

    async def repair(self, cluster: ChaosCluster) -> None:
        if cluster.store is not None:
            cluster.store.empty()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault, for the schedule.

    Attributes:
        make: with the victims that the schedule has drawn, and chance for all else.
        lasts_s: least and most.
        nodes: how many nodes it takes away while it lasts.
        names_nodes: whether the schedule draws which; otherwise the role says who at the time.
        weight: how often, relative to the others.
        alone: holds the broker: not beside another fault that does.
        jetstream: it is done to that, which MQTT has not.
        servers: the least and the most of them that it can be done to.
        deliveries: of pipelines that it can be done to; none: all.
    """

    make: Callable[[Sequence[str], random.Random], Fault]
    lasts_s: tuple[float, float]
    nodes: int = 0
    names_nodes: bool = False
    weight: float = 1.0
    alone: bool = False
    jetstream: bool = False
    servers: tuple[int, int] = (1, MOST_SERVERS)
    deliveries: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "node-killed": Kind(make=lambda who, _: Killed(roles=who), lasts_s=(0.3, 4), nodes=1, names_nodes=True, weight=3),
    "node-stopped": Kind(
        make=lambda who, _: Stopped(roles=who), lasts_s=(0.05, 5), nodes=1, names_nodes=True, weight=3
    ),
    "two-nodes-killed": Kind(make=lambda who, _: Killed(roles=who), lasts_s=(0.3, 4), nodes=2, names_nodes=True),
    "head-killed": Kind(make=lambda *_: Killed(roles=["head"]), lasts_s=(0.3, 4), nodes=1, weight=2),
    "head-stopped": Kind(make=lambda *_: Stopped(roles=["head"]), lasts_s=(0.05, 5), nodes=1, weight=3),
    "standby-head-killed": Kind(make=lambda *_: Killed(roles=["standby-head"]), lasts_s=(0.3, 4), nodes=1),
    "both-heads-killed": Kind(make=lambda *_: Killed(roles=["head", "standby-head"]), lasts_s=(0.3, 4), nodes=2),
    "controller-killed": Kind(make=lambda *_: Killed(roles=["controller"]), lasts_s=(0.3, 4), weight=2),
    "controller-stopped": Kind(make=lambda *_: Stopped(roles=["controller"]), lasts_s=(0.3, 6)),
    "head-and-controller-killed": Kind(make=lambda *_: Killed(roles=["head", "controller"]), lasts_s=(0.3, 4), nodes=1),
    "server-killed": Kind(
        make=lambda _, chance: ServerKilled(chance=chance.random()), lasts_s=(0.02, 2), weight=2, alone=True
    ),
    "server-stopped": Kind(make=lambda _, chance: ServerStopped(chance=chance.random()), lasts_s=(0.05, 4), alone=True),
    "link-cut": Kind(
        make=lambda who, _: LinkChanged(node=who[0], shape=Shape(up=False, down=False)),
        lasts_s=(0.1, 6),
        nodes=1,
        names_nodes=True,
        weight=3,
    ),
    "link-half-open": Kind(
        make=lambda who, chance: LinkChanged(node=who[0], shape=chance.choice((Shape(up=False), Shape(down=False)))),
        lasts_s=(0.1, 5),
        nodes=1,
        names_nodes=True,
        weight=2,
    ),
    "link-slow": Kind(
        make=lambda who, chance: LinkChanged(node=who[0], shape=Shape(bytes_per_s=chance.uniform(2e5, 2e6))),
        lasts_s=(1, 5),
        nodes=1,
        names_nodes=True,
    ),
    "all-delayed": Kind(make=lambda _, chance: AllDelayed(delay_s=chance.uniform(0.005, 0.2)), lasts_s=(1, 5)),
    "duplicates": Kind(make=lambda *_: Echo(), lasts_s=(1, 4)),
    "garbage": Kind(make=lambda _, chance: Garbage(seed=chance.getrandbits(32)), lasts_s=(1, 3)),
    "slow-consumer": Kind(make=lambda *_: SlowConsumer(), lasts_s=(2, 6)),
    "cache-corrupt": Kind(
        make=lambda who, chance: CacheBroken(role=who[0], how="corrupt", seed=chance.getrandbits(32)),
        lasts_s=(0.1, 1),
        nodes=1,
        names_nodes=True,
    ),
    "cache-blocked": Kind(
        make=lambda who, chance: CacheBroken(role=who[0], how="blocked", seed=chance.getrandbits(32)),
        lasts_s=(0.1, 1),
        nodes=1,
        names_nodes=True,
        weight=0.5,
    ),
    "cache-full": Kind(
        make=lambda who, chance: CacheBroken(role=who[0], how="full", seed=chance.getrandbits(32)),
        lasts_s=(0.1, 1),
        nodes=1,
        names_nodes=True,
        weight=0.5,
    ),
    "controller-cache-corrupt": Kind(
        make=lambda _, chance: CacheBroken(role="controller", how="corrupt", seed=chance.getrandbits(32)),
        lasts_s=(0.1, 1),
        weight=0.5,
    ),
    "store-full": Kind(make=lambda *_: StoreFull(), lasts_s=(2, 6), alone=True, jetstream=True, servers=(1, 1)),
    "leader-killed": Kind(
        make=lambda *_: LeaderKilled(stream=""),
        lasts_s=(0.02, 6),
        weight=2,
        alone=True,
        jetstream=True,
        servers=CLUSTER,
    ),
    "stream-leader-killed": Kind(
        make=lambda _, chance: LeaderKilled(stream=chance.choice(STREAMS)),
        lasts_s=(0.02, 6),
        weight=2,
        alone=True,
        jetstream=True,
        servers=CLUSTER,
        deliveries=("durable",),
    ),
}
"""Every kind, by its name."""


def possible(*, mqtt: bool = False, servers: int = 1, delivery: str = "at-least-once") -> tuple[str, ...]:
    """The kinds that can be done to such a pipeline."""
    return tuple(
        name
        for name, kind in KINDS.items()
        if not (mqtt and kind.jetstream)
        and kind.servers[0] <= servers <= kind.servers[1]
        and (not kind.deliveries or delivery in kind.deliveries)
    )
