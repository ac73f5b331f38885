"""Measures the ways between all nodes at a broker: finds them by their heartbeats, and tells them who measures when."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from broker import control, subjects
from broker.control import Beat, ProbeOrder, ProbeResult
from broker.errors import BrokerError, NoRespondersError, UnderstudyError, WireError
from broker.port import Broker, Message
from understudy.links import Pair, cluster_document, rounds

LISTEN_S = 1.0
"""How long to listen for nodes. Their heartbeats are 0.1 s apart unless somebody chose otherwise."""

NAMED_S = 10.0
"""How long to wait for a node that was named."""

ANSWER_S = 14.0
"""Beyond the time that is ordered: a node gives up before that by itself."""


class MeasureError(UnderstudyError):
    """There is nothing to measure, or nodes that were named are not there."""


@dataclass(slots=True, kw_only=True)
class Measured:
    """What came of it.

    Attributes:
        nodes: by name, as their heartbeats describe them.
        results: of the ways that were measured.
        failures: of those that were not, why.
        max_payload_bytes: the broker's limit.
    """

    nodes: Mapping[str, Beat]
    max_payload_bytes: int
    results: dict[Pair, ProbeResult] = field(default_factory=dict)
    failures: dict[Pair, str] = field(default_factory=dict)

    @property
    def silent(self) -> tuple[str, ...]:
        """The nodes of which no way was measured, neither from nor to them."""
        heard = {name for pair in self.results for name in pair}
        return tuple(name for name in self.nodes if name not in heard)

    def complaint(self) -> str:
        """What was not measured, and why: a line for each node that does not answer, and for each other way. Empty if
        nothing is missing."""
        lines = [f"node '{name}' did not answer" for name in self.silent]
        for (one, other), why in self.failures.items():
            if not {one, other} & set(self.silent):
                lines.append(f"{one} to {other} was not measured: {why}")
        return "\n".join(lines)

    def cluster(self, topology: str) -> dict[str, Any]:
        """What the cluster file says; without the nodes that did not answer.

        Raises:
            MeasureError: nothing was measured.
        """
        if not self.results:
            raise MeasureError(f"nothing was measured:\n{self.complaint()}")
        there = {name: beat.memory_bytes or None for name, beat in self.nodes.items() if name not in self.silent}
        return cluster_document(
            there,
            {pair: result.bytes_per_s for pair, result in self.results.items()},
            {pair: result.alone_bytes_per_s for pair, result in self.results.items()},
            topology=topology,
            overhead_s=statistics.median(result.overhead_s for result in self.results.values()),
            max_payload_bytes=self.max_payload_bytes,
        )


async def find_nodes(
    broker: Broker, names: Sequence[str] = (), *, pipeline: str | None = None, listen_s: float = LISTEN_S
) -> dict[str, Beat]:
    """The nodes at the broker by name, or those that are named; of a pipeline and free ones, where one is given.

    Raises:
        MeasureError: a node that was named is not heard, or fewer than two are there.
    """
    heard: dict[str, Beat] = {}
    all_there = asyncio.Event()

    async def on_beat(message: Message) -> None:
        try:
            beat = control.decode(message.data, Beat)
        except WireError:
            return  # the controllers log it
        wanted = beat.node in names if names else pipeline is None or beat.pipeline in ("", pipeline)
        if wanted and message.subject == subjects.beat(beat.node):
            heard[beat.node] = beat
        if names and len(heard) == len(set(names)):
            all_there.set()

    subscription = await broker.subscribe(subjects.BEATS, on_beat)
    try:
        async with asyncio.timeout(max(NAMED_S, listen_s) if names else listen_s):
            await all_there.wait()
    except TimeoutError:
        pass
    finally:
        await subscription.unsubscribe()
    missing = [name for name in names if name not in heard]
    if missing:
        raise MeasureError(f"no heartbeat of {', '.join(missing)} at {broker.url}: start it, or check the name")
    if len(heard) < 2:
        raise MeasureError(
            f"two or more nodes are needed, {len(heard)} heard at {broker.url}: "
            f"are they running, and is --control-broker the same as theirs?"
        )
    return dict(sorted(heard.items()))


async def measure(
    broker: Broker,
    nodes: Mapping[str, Beat],
    *,
    seconds: float,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Measured:
    """Measure every ordered pair, in rounds of disjoint pairs; of each pair first one direction, then the other.

    `broker` is a connection to the control account. A node that does not answer an order is not given another.
    """
    found = Measured(nodes=nodes, max_payload_bytes=broker.max_payload_bytes)
    gone: dict[str, str] = {}
    total = len(nodes) * (len(nodes) - 1)

    async def one_way(sender: str, receiver: str) -> None:
        pair = (sender, receiver)
        away = next((name for name in pair if name in gone), None)
        if away is not None:
            found.failures[pair] = gone[away]
        else:
            try:
                result = await _order(broker, sender, receiver, seconds)
            except UnderstudyError as error:
                found.failures[pair] = gone[sender] = str(error)
            else:
                if result.failure:
                    found.failures[pair] = result.failure
                else:
                    found.results[pair] = result
        on_progress(len(found.results) + len(found.failures), total)

    async def both_ways(one: str, other: str) -> None:
        await one_way(one, other)
        await one_way(other, one)

    for pairs in rounds(list(nodes)):
        async with asyncio.TaskGroup() as tasks:
            for one, other in pairs:
                tasks.create_task(both_ways(one, other), name=f"measure {one} {other}")
    return found


async def _order(broker: Broker, sender: str, receiver: str, seconds: float) -> ProbeResult:
    """Raises MeasureError where the node does not answer, or not what was asked for."""
    order = control.encode(ProbeOrder(to=receiver, seconds=seconds))
    try:
        answer = await broker.request(subjects.probe(sender), order, timeout_s=seconds + ANSWER_S)
        result = control.decode(answer.data, ProbeResult)
    except NoRespondersError as error:
        raise MeasureError(f"node '{sender}' is not there, or of an older version") from error
    except (BrokerError, WireError) as error:
        raise MeasureError(f"node '{sender}' does not answer: {error}") from error
    if (result.node, result.to) != (sender, receiver):
        raise MeasureError(f"node '{sender}' answers for another way")
    if not result.failure and not result.bytes_per_s > 0:
        raise MeasureError(f"node '{sender}' reports no rate")
    return result
