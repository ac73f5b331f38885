from __future__ import annotations

import math
from typing import Any

import pytest

from planner.cluster import Cluster, ClusterError, NodeSpec
from tests.unit.planner_reference import full_mesh, make_cluster

STAR: dict[str, Any] = {"topology": "star", "up_bytes_per_s": (1.0, 2.0), "down_bytes_per_s": (3.0, 4.0)}


def test_a_node_without_a_limit_holds_anything_and_one_with_a_limit_up_to_it() -> None:
    assert NodeSpec(name="a").holds(10**18)
    assert NodeSpec(name="a", memory_bytes=5).holds(5)
    assert not NodeSpec(name="a", memory_bytes=5).holds(6)


def test_a_cluster_without_a_node_is_refused() -> None:
    with pytest.raises(ClusterError, match="the cluster has no node"):
        Cluster(nodes=())


def test_a_node_that_is_there_twice_is_named() -> None:
    with pytest.raises(ClusterError, match="node name 'b' is there twice"):
        Cluster(nodes=tuple(NodeSpec(name=name) for name in "abcb"))


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1 GB", True])
def test_an_impossible_memory_names_the_node(value: Any) -> None:
    with pytest.raises(ClusterError, match=rf"node 'pi': memory_bytes is {value!r}: it must be a number >= 0"):
        NodeSpec(name="pi", memory_bytes=value)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_an_impossible_speed_names_the_node(value: float) -> None:
    with pytest.raises(ClusterError, match=rf"node 'pi': flops_per_s is {value!r}: it must be more than 0"):
        NodeSpec(name="pi", flops_per_s=value)


def test_a_memory_beyond_floating_point_is_refused_as_a_cluster_error() -> None:
    with pytest.raises(ClusterError, match="memory_bytes"):
        NodeSpec(name="pi", memory_bytes=10**400)


@pytest.mark.parametrize("missing", ["up_bytes_per_s", "down_bytes_per_s"])
def test_a_star_needs_both_directions(missing: str) -> None:
    with pytest.raises(ClusterError, match="a star needs up_bytes_per_s and down_bytes_per_s"):
        make_cluster([1, 1], **{**STAR, missing: None})


def test_the_links_of_one_topology_are_refused_in_the_other() -> None:
    with pytest.raises(ClusterError, match="no bandwidth_bytes_per_s"):
        make_cluster([1, 1], **STAR, bandwidth_bytes_per_s=full_mesh(2, 1.0))
    with pytest.raises(ClusterError, match="a mesh has no up_bytes_per_s"):
        make_cluster([1, 1], up_bytes_per_s=(1.0, 1.0))


def test_an_unknown_topology_is_named() -> None:
    ring: Any = "ring"
    with pytest.raises(ClusterError, match="topology 'ring' is neither 'mesh' nor 'star'"):
        make_cluster([1], topology=ring)


@pytest.mark.parametrize("name", ["up_bytes_per_s", "down_bytes_per_s", "source_bytes_per_s", "sink_bytes_per_s"])
def test_a_row_of_the_wrong_length_is_named(name: str) -> None:
    with pytest.raises(ClusterError, match=f"{name} has 3 numbers, 2 are needed"):
        make_cluster([1, 1], **{**STAR, name: (1.0, 1.0, 1.0)})


def test_a_matrix_that_is_not_square_says_which_row() -> None:
    with pytest.raises(ClusterError, match="bandwidth_bytes_per_s has 1 rows, 2 are needed"):
        make_cluster([1, 1], bandwidth_bytes_per_s=((1.0, 1.0),))
    with pytest.raises(ClusterError, match=r"bandwidth_bytes_per_s\[1\] has 1 numbers, 2 are needed"):
        make_cluster([1, 1], bandwidth_bytes_per_s=((1.0, 1.0), (1.0,)))


@pytest.mark.parametrize("value", [-1.0, math.nan, "fast", None])
def test_an_impossible_bandwidth_is_named_with_its_place(value: Any) -> None:
    with pytest.raises(ClusterError, match=rf"bandwidth_bytes_per_s\[0\]\[1\] is {value!r}"):
        make_cluster([1, 1], bandwidth_bytes_per_s=((0.0, value), (1.0, 0.0)))
    with pytest.raises(ClusterError, match=rf"sink_bytes_per_s\[1\] is {value!r}"):
        make_cluster([1, 1], sink_bytes_per_s=(1.0, value))


@pytest.mark.parametrize(("name", "value"), [("message_overhead_s", -0.1), ("max_payload_bytes", 0)])
def test_an_impossible_overhead_or_payload_limit_is_named(name: str, value: float) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(ClusterError, match=f"{name} is {value!r}"):
        make_cluster([1], **wrong)


def test_a_subset_keeps_every_number_with_its_node_in_the_order_asked_for() -> None:
    mesh = make_cluster(
        [10, 11, 12],
        bandwidth_bytes_per_s=((0.0, 1.0, 2.0), (10.0, 0.0, 12.0), (20.0, 21.0, 0.0)),
        source_bytes_per_s=(5.0, 6.0, 7.0),
        message_overhead_s=0.5,
    ).subset(["n2", "n0"])
    assert [(node.name, node.memory_bytes) for node in mesh.nodes] == [("n2", 12), ("n0", 10)]
    assert mesh.bandwidth_bytes_per_s == ((0.0, 20.0), (2.0, 0.0))
    assert mesh.source_bytes_per_s == (7.0, 5.0)
    assert (mesh.sink_bytes_per_s, mesh.message_overhead_s) == (None, 0.5)
    star = make_cluster([1, 1], **STAR).subset(["n1"])
    assert (star.up_bytes_per_s, star.down_bytes_per_s) == ((2.0,), (4.0,))


def test_a_subset_with_a_node_that_is_not_there_names_it_and_those_that_are() -> None:
    with pytest.raises(ClusterError, match="node 'roof' is not in the cluster: there are n0, n1"):
        make_cluster([1, 1]).subset(["n0", "roof"])
