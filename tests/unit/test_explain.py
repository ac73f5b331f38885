from __future__ import annotations

from typing import Any

import pytest

from planner.chain import Chain
from planner.cluster import Cluster
from planner.plan import NoPlanError
from planner.solve import solve
from tests.unit.planner_reference import full_mesh, make_chain, make_cluster

TWO = make_chain((1, 1, 1), memory=(6, 3), peak=(1, 1))


def reason(chain: Chain, cluster: Cluster, **options: Any) -> str:
    with pytest.raises(NoPlanError) as caught:
        solve(chain, cluster, **options)
    return str(caught.value)


@pytest.mark.parametrize("stages", [0, -1])
def test_no_stages_are_too_few(stages: int) -> None:
    assert reason(TWO, make_cluster([99]), stages=stages) == f"{stages} stages were asked for: at least 1 is needed"


def test_more_stages_than_nodes_say_how_many_there_are() -> None:
    assert reason(TWO, make_cluster([99]), stages=2) == "2 stages need 2 nodes, and there are 1"


def test_more_stages_than_blocks_say_how_many_cuts_are_possible() -> None:
    assert "can be cut into at most 2" in reason(TWO, make_cluster([99] * 3), stages=3)
    assert "has 1 block(s): it has no cut" in reason(make_chain((1, 1)), make_cluster([99] * 3), stages=2)


def test_a_block_that_fits_no_node_is_named_with_the_largest_node_and_the_missing_bytes() -> None:
    message = reason(TWO, make_cluster([4, 5]))
    assert message == ("block 0 of 'tiny' needs 7 bytes, and the largest node (n1) offers 5: 2 bytes are missing")


def test_too_little_memory_in_all_nodes_says_how_much_is_missing() -> None:
    chain = make_chain((1, 1, 1, 1), memory=(6, 6, 6))
    message = reason(chain, make_cluster([7, 7]))
    assert "needs 18 bytes in one piece, and 5 bytes are missing on each node" in message


def test_a_forced_number_of_stages_that_does_not_fit_is_named() -> None:
    assert "in exactly 1 stages fits the memory" in reason(TWO, make_cluster([8, 8]), stages=1)


def test_missing_links_are_told_from_missing_memory() -> None:
    assert "check the bandwidths of 0" in reason(TWO, make_cluster([7, 7], bandwidth_bytes_per_s=full_mesh(2, 0.0)))
    assert "the source and the sink" in reason(TWO, make_cluster([99], source_bytes_per_s=(0.0,)))
    assert "the source and the sink" in reason(TWO, make_cluster([99], sink_bytes_per_s=(0.0,)))


def test_missing_links_of_a_star_are_told_too() -> None:
    star = make_cluster([7, 7], topology="star", up_bytes_per_s=(0.0, 0.0), down_bytes_per_s=(1.0, 1.0))
    assert "check the bandwidths of 0" in reason(TWO, star)


def test_an_activation_above_the_brokers_limit_says_what_to_raise() -> None:
    chain = make_chain((1, 20, 1), memory=(6, 3))
    message = reason(chain, make_cluster([7, 7], max_payload_bytes=10, chunked=False))
    assert "larger than the broker's limit of 10 bytes: raise max_payload" in message


def test_nodes_without_memory_for_anything_miss_all_of_it() -> None:
    assert "7 bytes are missing" in reason(TWO, make_cluster([0, 0]))


def test_a_node_without_a_limit_is_not_said_to_lack_memory() -> None:
    chain = make_chain((0, 0, 0), memory=(5, 5))
    assert "9 bytes are missing" not in reason(chain, make_cluster([None, 1]), stages=2)


def test_memory_in_pieces_too_small_says_how_much_is_missing() -> None:
    chain = make_chain((0, 0, 0, 0), memory=(6, 6, 6))
    assert "bytes are missing" in reason(chain, make_cluster([10, 10]))


def test_a_large_activation_is_not_blamed_where_a_link_from_the_source_is_missing() -> None:
    chain = make_chain((1, 20, 1), memory=(3, 3))
    cluster = make_cluster([99, 99], source_bytes_per_s=(0.0, 0.0), max_payload_bytes=10, chunked=False)
    assert "source" in reason(chain, cluster)
