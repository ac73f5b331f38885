"""The cluster that is emulated: what the planner reads, and what tc is told."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from planner.chain import Chain
from planner.cluster import Cluster, NodeSpec
from planner.plan import NoPlanError
from planner.solve import solve
from understudy.emulation.errors import EmulationError
from understudy.emulation.links import make_cluster, parse_rate, wifi_bytes_per_s, with_machines
from understudy.emulation.traffic import Link, commands
from understudy.planfiles import load_cluster

EXAMPLE = Path(__file__).parents[2] / "examples" / "cluster.yaml"

CHAIN = Chain(
    name="ten",
    cut_bytes=(1000,) * 11,
    block_memory_bytes=(100,) * 10,
    block_peak_bytes=(10,) * 10,
    block_flops=(1_000_000,) * 10,
)


@pytest.mark.parametrize(
    ("text", "bytes_per_s"), [("100mbit", 12.5e6), ("2.5 Gbit", 312.5e6), ("64kbit", 8e3), ("10MBIT", 1.25e6)]
)
def test_rates_are_read_as_tc_writes_them(text: str, bytes_per_s: float) -> None:
    assert parse_rate(text) == bytes_per_s


@pytest.mark.parametrize("text", ["", "fast", "100", "0mbit", "-1mbit", "10 mb"])
def test_what_is_no_rate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(EmulationError, match="10mbit"):
        parse_rate(text)


def test_a_mesh_has_the_rate_between_all_nodes_and_to_the_outside() -> None:
    cluster = make_cluster(nodes=3, topology="mesh", bandwidth="100mbit")
    assert cluster.names == ("node1", "node2", "node3")
    assert cluster.bandwidth_bytes_per_s == ((12.5e6,) * 3,) * 3
    assert cluster.source_bytes_per_s == cluster.sink_bytes_per_s == (12.5e6,) * 3


def test_a_star_has_the_rate_up_and_down() -> None:
    cluster = make_cluster(nodes=2, topology="star", bandwidth="10mbit")
    assert cluster.up_bytes_per_s == cluster.down_bytes_per_s == (1.25e6,) * 2
    assert cluster.bandwidth_bytes_per_s is None


def test_a_file_is_the_cluster_as_the_planner_reads_it() -> None:
    assert make_cluster(nodes=9, topology="mesh", bandwidth=str(EXAMPLE)) == load_cluster(EXAMPLE)


def test_what_is_neither_rate_nor_file_is_said() -> None:
    with pytest.raises(EmulationError, match=r"'nowhere.yaml' is neither a rate such as 100mbit, nor wifi, nor a"):
        make_cluster(nodes=2, topology="mesh", bandwidth="nowhere.yaml")


def test_wifi_is_slower_over_a_distance_as_its_source_has_it() -> None:
    assert wifi_bytes_per_s(150.0) == pytest.approx(math.log2(1 + 283_230 / 22_500) / 8 * 1e6)
    assert wifi_bytes_per_s(10.0) > wifi_bytes_per_s(20.0)


def test_wifi_chooses_the_same_places_for_the_same_seed_and_links_that_are_alike_in_both_directions() -> None:
    first, again, other = (make_cluster(nodes=6, topology="mesh", bandwidth="wifi", seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    rows = first.bandwidth_bytes_per_s or ()
    assert all(rows[u][v] == rows[v][u] for u in range(6) for v in range(u))
    assert len({rows[u][v] for u in range(6) for v in range(u)}) == 15


@pytest.mark.parametrize(("nodes", "lost"), [(1, 0), (2, 1), (5, 0), (5, 1), (8, 2), (20, 1)])
def test_memory_forces_a_split_and_lets_nodes_be_lost(nodes: int, lost: int) -> None:
    plain = make_cluster(nodes=nodes, topology="mesh", bandwidth="100mbit")
    cluster = with_machines(plain, CHAIN, memory_bytes=None, flops_per_s=1e9, lost=lost)
    left = cluster.subset(cluster.names[: nodes - lost])
    assert solve(CHAIN, left).stages
    if nodes - lost > 1:
        with pytest.raises(NoPlanError):
            solve(CHAIN, cluster.subset(cluster.names[:1]))


def test_what_a_file_says_of_a_machine_is_kept() -> None:
    said = NodeSpec(name="a", memory_bytes=5000, flops_per_s=7.0)
    cluster = Cluster(nodes=(said, NodeSpec(name="b")))
    made = with_machines(cluster, CHAIN, memory_bytes=2000, flops_per_s=1e9, lost=0)
    assert made.nodes == (said, NodeSpec(name="b", memory_bytes=2000, flops_per_s=1e9))


# ---- tc ------------------------------------------------------------------------------------------------------------


def test_every_receiver_has_a_class_and_a_bucket_of_its_own() -> None:
    lines = commands(
        [Link(address="10.0.0.1", bytes_per_s=1.25e6), Link(address="10.0.0.2", bytes_per_s=12.5e6)], netem=False
    )
    assert [line.split()[-1] for line in lines if line.startswith("filter")] == ["1:1", "1:2"]
    buckets = [line for line in lines if "tbf" in line]
    assert "parent 1:1" in buckets[0]
    assert "rate 10000000bit burst 16kb latency 20ms" in buckets[0]
    assert "rate 100000000bit burst 128kb latency 20ms" in buckets[1]
    assert any("match ip dst 10.0.0.2/32 flowid 1:2" in line for line in lines)


def test_handles_differ_also_for_many_receivers() -> None:
    links = [Link(address=f"10.0.0.{n}", bytes_per_s=1e6, delay_ms=1) for n in range(1, 66)]
    handles = [line.split("handle ")[1].split(":")[0] for line in commands(links, netem=True) if "handle" in line]
    assert len(set(handles)) == len(handles) == 1 + 2 * 65
    assert all(int(handle, 16) < 0x10000 for handle in handles)


def test_delay_and_loss_are_left_out_where_the_kernel_cannot() -> None:
    late = Link(address="10.0.0.1", bytes_per_s=1e6, delay_ms=50, loss_percent=1)
    assert not [line for line in commands([late], netem=False) if "netem" in line]
    assert any("netem delay 50ms loss 1% " in line for line in commands([late], netem=True))
    assert not [line for line in commands([replace(late, delay_ms=0, loss_percent=0)], netem=True) if "netem" in line]


def test_no_link_leaves_room_for_the_brokers_own_words() -> None:
    assert any("rate 64000bit" in line for line in commands([Link(address="10.0.0.1", bytes_per_s=0.0)], netem=False))
