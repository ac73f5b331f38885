"""Measuring all ways: rounds of disjoint pairs, the star's least squares, cluster files, nodes that do not answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import control, subjects
from broker.connect import connect
from broker.control import Beat, ProbeOrder, ProbeResult
from broker.port import Broker, Message
from tests.unit.builders import beat
from understudy.links import Pair, cluster_document, fit_star, rounds
from understudy.measure import Measured, MeasureError, find_nodes, measure
from understudy.planfiles import load_cluster

# ---- rounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [*range(2, 14), 20, 51])
def test_everybody_meets_everybody_once_and_nobody_is_in_two_pairs_of_a_round(count: int) -> None:
    names = [f"n{i}" for i in range(count)]
    schedule = rounds(names)
    assert len(schedule) == (count if count % 2 else count - 1)
    for pairs in schedule:
        assert len(pairs) == count // 2
        assert max(Counter(name for pair in pairs for name in pair).values()) == 1
    met = Counter(frozenset(pair) for pairs in schedule for pair in pairs)
    assert set(met.values()) == {1}
    assert len(met) == count * (count - 1) // 2


def test_one_node_and_none_have_nobody_to_meet() -> None:
    assert [pair for pairs in rounds(["a"]) for pair in pairs] == []
    assert rounds([]) == []


# ---- the star ------------------------------------------------------------------------------------------------------


def star_rates(up: Mapping[str, float], down: Mapping[str, float]) -> dict[Pair, float]:
    return {(u, v): 1 / (1 / up[u] + 1 / down[v]) for u, v in permutations(up, 2)}


def slower_links(up: Mapping[str, float], down: Mapping[str, float]) -> dict[Pair, float]:
    return {(u, v): min(up[u], down[v]) for u, v in permutations(up, 2)}


speeds = st.floats(1e4, 1e9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(speeds, speeds), min_size=2, max_size=8))
def test_the_times_of_all_pairs_of_a_star_are_found_again(links: list[tuple[float, float]]) -> None:
    names = [f"n{i}" for i in range(len(links))]
    truth = star_rates(
        dict(zip(names, (up for up, _ in links), strict=True)),
        dict(zip(names, (down for _, down in links), strict=True)),
    )
    up, down = fit_star(names, truth, {})
    assert all(speed > 0 for speed in (*up, *down))
    found = star_rates(dict(zip(names, up, strict=True)), dict(zip(names, down, strict=True)))
    # A pair may be bounded by the floor: no link is a thousand times faster than the fastest pair.
    assert all(found[pair] == pytest.approx(truth[pair], rel=0.005) for pair in truth)


def test_the_links_themselves_are_found_where_up_and_down_are_alike_on_average() -> None:
    speed = {"a": 1e6, "b": 12.5e6, "c": 50e6, "d": 3e6}
    up, down = fit_star(list(speed), star_rates(speed, speed), {})
    assert up == pytest.approx(list(speed.values()), rel=1e-3)
    assert down == pytest.approx(list(speed.values()), rel=1e-3)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(speeds, speeds), min_size=3, max_size=8))
def test_the_rate_of_a_stream_tells_the_uplinks_from_the_downlinks(links: list[tuple[float, float]]) -> None:
    names = [f"n{i}" for i in range(len(links))]
    up = dict(zip(names, (up for up, _ in links), strict=True))
    down = dict(zip(names, (down for _, down in links), strict=True))
    streams = slower_links(up, down)
    fitted = fit_star(names, star_rates(up, down), streams)
    found = slower_links(*(dict(zip(names, speeds, strict=True)) for speeds in fitted))
    assert all(found[pair] == pytest.approx(streams[pair], rel=0.02) for pair in streams)


def test_slow_downlinks_behind_fast_uplinks_are_found_where_nodes_differ() -> None:
    up = {"a": 50e6, "b": 40e6, "c": 10e6}
    down = {"a": 1e6, "b": 2e6, "c": 5e6}
    fitted = fit_star(list(up), star_rates(up, down), slower_links(up, down))
    assert fitted[0] == pytest.approx(list(up.values()), rel=1e-2)
    assert fitted[1] == pytest.approx(list(down.values()), rel=1e-2)


def test_noise_of_ten_percent_is_averaged_out() -> None:
    names = [f"n{i}" for i in range(10)]
    speed = {name: 1e6 * (i + 1) for i, name in enumerate(names)}
    truth = star_rates(speed, speed)
    noisy = {pair: rate * (1.1 if i % 2 else 0.9) for i, (pair, rate) in enumerate(truth.items())}
    up, down = fit_star(names, noisy, noisy)
    found = star_rates(dict(zip(names, up, strict=True)), dict(zip(names, down, strict=True)))
    assert all(found[pair] == pytest.approx(truth[pair], rel=0.08) for pair in truth)


def test_a_star_whose_pairs_fit_no_model_still_gives_links_that_are_positive() -> None:
    odd = {("a", "b"): 1e9, ("b", "a"): 1e3, ("a", "c"): 1e3, ("c", "a"): 1e9, ("b", "c"): 1e9, ("c", "b"): 1e9}
    up, down = fit_star(["a", "b", "c"], odd, odd)
    assert all(0 < speed < 1e13 for speed in (*up, *down))


def test_a_node_without_a_measured_pair_has_no_link() -> None:
    truth = star_rates({"a": 1e6, "b": 1e6}, {"a": 1e6, "b": 1e6})
    up, down = fit_star(["a", "b", "c"], truth, {("a", "b"): 2e6})
    assert (up[2], down[2]) == (0.0, 0.0)
    assert up[:2] == pytest.approx([1e6, 1e6])
    assert fit_star(["a", "b"], {}, {}) == ([0.0, 0.0], [0.0, 0.0])


# ---- cluster files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", ["mesh", "star"])
def test_the_file_is_one_that_the_planner_reads(topology: str, tmp_path: Path) -> None:
    speed = {"a": 2e6, "b": 7e6, "c": 7e6}
    rates = star_rates(speed, speed)
    del rates["a", "c"]
    document = cluster_document(
        {"a": 64 << 20, "b": None, "c": 1},
        dict.fromkeys(rates, 123_456_789.0) if topology == "mesh" else slower_links(speed, speed),
        rates,
        topology=topology,
        overhead_s=0.000123456,
        max_payload_bytes=8 << 20,
    )
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(document))
    cluster = load_cluster(path)
    assert [node.memory_bytes for node in cluster.nodes] == [64 << 20, None, 1]
    assert cluster.topology == topology
    assert cluster.message_overhead_s == 0.000123
    assert cluster.max_payload_bytes == 8 << 20
    if topology == "mesh":
        fast = 123_500_000
        assert cluster.bandwidth_bytes_per_s == ((0, fast, 0), (fast, 0, fast), (fast, fast, 0))
    else:
        assert cluster.up_bytes_per_s == pytest.approx((2e6, 7e6, 7e6), rel=0.01)


# ---- nodes ---------------------------------------------------------------------------------------------------------


class Nodes:
    """Answer orders after a moment; those in `broken` answer with a failure, those in `silent` not at all."""

    def __init__(self, broker: Broker, names: str, *, silent: str = "", broken: str = "") -> None:
        self.broker = broker
        self.beats: dict[str, Beat] = {name: beat(name, memory_bytes=1000) for name in names}
        self.silent, self.broken = silent, broken
        self.busy: Counter[str] = Counter()
        self.most_busy = 0
        self.at_once = 0
        self.orders: list[Pair] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        for name in self.beats:
            if name not in self.silent:
                await self.broker.subscribe(subjects.probe(name), self._on_order)

    async def _on_order(self, message: Message) -> None:
        task = asyncio.create_task(self._measure(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _measure(self, message: Message) -> None:
        node, to = message.subject.rpartition(".")[2], control.decode(message.data, ProbeOrder).to
        self.orders.append((node, to))
        self.busy.update((node, to))
        self.most_busy = max(self.most_busy, *self.busy.values())
        self.at_once = max(self.at_once, sum(self.busy.values()) // 2)
        for _ in range(5):
            await asyncio.sleep(0)
        self.busy.subtract((node, to))
        failure = "it broke" if node in self.broken or to in self.silent else ""
        rate = 0.0 if failure else 1e6
        result = ProbeResult(
            node=node,
            to=to,
            bytes_per_s=rate,
            alone_bytes_per_s=rate / 2,
            overhead_s=0.001,
            size_bytes=1,
            failure=failure,
        )
        await self.broker.publish(message.reply, control.encode(result))


async def measured(names: str, **kind: str) -> tuple[Measured, Nodes, list[tuple[int, int]]]:
    broker = await connect("memory://nodes")
    nodes = Nodes(broker, names, **kind)
    progress: list[tuple[int, int]] = []
    try:
        await nodes.start()
        found = await measure(
            broker, nodes.beats, seconds=0.1, on_progress=lambda done, total: progress.append((done, total))
        )
    finally:
        await broker.close()
    return found, nodes, progress


@pytest.mark.parametrize("names", ["ab", "abc", "abcdefg", "abcdefgh"])
async def test_every_ordered_pair_is_measured_and_no_node_is_in_two_measurements_at_once(names: str) -> None:
    found, nodes, progress = await measured(names)
    assert Counter(nodes.orders) == Counter(permutations(names, 2))
    assert nodes.most_busy == 1
    assert nodes.at_once == len(names) // 2
    assert set(found.results) == set(permutations(names, 2))
    assert (found.failures, found.silent, found.complaint()) == ({}, (), "")
    assert progress == [(done + 1, len(progress)) for done in range(len(names) * (len(names) - 1))]
    assert found.cluster("mesh")["nodes"] == [
        {"name": name, "memory_bytes": 1000, "flops_per_s": None} for name in names
    ]


async def test_a_node_that_does_not_answer_is_named_and_the_others_are_reported() -> None:
    found, _, _ = await measured("abcd", silent="c")
    assert found.silent == ("c",)
    assert found.complaint() == "node 'c' did not answer"
    assert set(found.results) == set(permutations("abd", 2))
    assert set(found.failures) == {pair for pair in permutations("abcd", 2) if "c" in pair}
    cluster = found.cluster("mesh")
    assert [node["name"] for node in cluster["nodes"]] == ["a", "b", "d"]
    assert cluster["bandwidth_bytes_per_s"] == [[0, 10**6, 10**6], [10**6, 0, 10**6], [10**6, 10**6, 0]]


async def test_a_way_that_fails_is_named_and_is_no_link() -> None:
    found, _, _ = await measured("abc", broken="b")
    assert found.silent == ()
    assert sorted(found.complaint().splitlines()) == [f"b to {name} was not measured: it broke" for name in "ac"]
    assert found.cluster("mesh")["bandwidth_bytes_per_s"] == [[0, 10**6, 10**6], [0, 0, 0], [10**6, 10**6, 0]]


async def test_nothing_measured_is_an_error_that_names_everybody() -> None:
    found, _, _ = await measured("ab", silent="ab")
    with pytest.raises(MeasureError, match=r"nothing was measured:\nnode 'a' did not answer\nnode 'b' did not answer"):
        found.cluster("mesh")


# ---- finding nodes -------------------------------------------------------------------------------------------------


async def heard(beats: list[Beat], names: list[str], **kind: object) -> dict[str, Beat]:
    """What `find_nodes` finds while these heartbeats go on."""
    broker = await connect("memory://nodes")

    async def send() -> None:
        while True:
            await broker.publish("understudy._.beat.garbage", b"\xc1")
            await broker.publish("understudy._.beat.impostor", control.encode(beat("victim")))
            for one in beats:
                await broker.publish(subjects.beat(one.node), control.encode(one))
            await asyncio.sleep(0.01)

    sending = asyncio.create_task(send())
    try:
        return await find_nodes(broker, names, listen_s=0.4, **kind)  # type: ignore[arg-type]
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await broker.close()


async def test_nodes_are_found_by_their_heartbeats_in_order_of_their_names() -> None:
    assert list(await heard([beat("b"), beat("a"), beat("c", pipeline="other")], [])) == ["a", "b", "c"]


async def test_of_a_pipeline_its_own_nodes_and_free_ones_are_measured() -> None:
    beats = [beat("b", pipeline="mine"), beat("a"), beat("c", pipeline="other")]
    assert list(await heard(beats, [], pipeline="mine")) == ["a", "b"]


async def test_those_that_are_named_are_measured_and_no_others() -> None:
    assert list(await heard([beat("b"), beat("a"), beat("c")], ["c", "a"])) == ["a", "c"]


async def test_a_node_that_is_named_and_not_heard_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.measure.NAMED_S", 0.1)
    with pytest.raises(MeasureError, match="no heartbeat of ghost, spook at memory://nodes"):
        await heard([beat("a"), beat("b")], ["a", "ghost", "spook"])


async def test_fewer_than_two_nodes_are_an_error_that_says_what_may_be_wrong() -> None:
    with pytest.raises(MeasureError, match=r"two or more nodes are needed, 1 heard.*--control-broker"):
        await heard([beat("a")], [])
