"""Routes as they travel: from a plan, and from a way around a failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.control import BlobRef
from planner.cluster import Cluster, NodeSpec
from planner.codec import CodecCost
from recovery.options import Placed, evaluate
from recovery.routes import bridge_route, part_ref, plan_route
from tests.unit.recovery_cases import ESTIMATES, EXIT, STAGES, STAND_IN, STANDBY

NAMES = [spot.part.name for spot in (*STAGES, STANDBY, STAND_IN, EXIT)]
MODELS = {name: BlobRef(sha256=f"{index:064x}", size_bytes=index) for index, name in enumerate(NAMES)}


def test_a_part_travels_with_its_name_its_blocks_and_its_own_model() -> None:
    ref = part_ref(STAND_IN.part, MODELS)
    assert (ref.part, ref.first_block, ref.end_block) == ("stand-in:2-4", 2, 4)
    assert ref.model == MODELS["stand-in:2-4"]


def test_a_plan_s_route_has_its_stages_and_answers_as_the_whole_network_does() -> None:
    made = plan_route(STAGES, MODELS, epoch=7, head="b", standby_head="c", expected_accuracy=0.9)
    assert [(hop.node, hop.part.part) for hop in made.hops] == [
        ("a", "stage:0-2"),
        ("b", "stage:2-4"),
        ("c", "stage:4-6"),
    ]
    assert (made.epoch, made.blocks, made.head, made.standby_head) == (7, 6, "b", "c")
    assert (made.technique, made.exit, made.expected_accuracy) == ("none", "", 0.9)


@pytest.mark.parametrize(
    ("spots", "technique", "exit_name"),
    [
        ((STAGES[0], STANDBY, STAGES[2]), "standby", ""),
        ((STAGES[0], STAND_IN, STAGES[2]), "stand-in", ""),
        ((STAGES[0], EXIT), "exit", "exit:2-6"),
    ],
    ids=["standby", "stand-in", "exit"],
)
def test_a_bridge_s_route_says_how_its_answers_come_about(
    spots: tuple[Placed, ...], technique: str, exit_name: str
) -> None:
    option = evaluate(spots, "a", ESTIMATES)
    made = bridge_route(option, MODELS, epoch=8, standby_head="")
    assert [hop.node for hop in made.hops] == [spot.node for spot in spots]
    assert (made.epoch, made.head, made.blocks) == (8, "a", 6)
    assert (made.technique, made.exit, made.expected_accuracy) == (technique, exit_name, option.accuracy)


def test_without_a_head_that_lives_the_first_hop_s_node_leads() -> None:
    made = bridge_route(evaluate((STAGES[0], EXIT), "", ESTIMATES), MODELS, epoch=8, standby_head="")
    assert made.head == "a"


def test_a_plan_s_route_has_its_codecs_and_none_before_the_first_stage() -> None:
    made = plan_route(
        STAGES,
        MODELS,
        epoch=7,
        head="b",
        standby_head="",
        expected_accuracy=0.9,
        codecs={0: "zstd", 2: "int8", 4: "none"},
    )
    assert [hop.codec for hop in made.hops] == ["none", "int8", "none"]


def test_a_bridge_uses_the_codec_that_is_quickest_between_the_nodes_that_are_left() -> None:
    work = (1e-3,) * 7
    codec = CodecCost(name="int8", ratio=(0.25,) * 7, encode_s_per_byte=work, decode_s_per_byte=work)
    slow_to_c = ((0.0, 1e9, 1.0), (1e9, 0.0, 1.0), (1e9, 1e9, 0.0))
    nodes = tuple(NodeSpec(name=name) for name in "abc")
    cluster = Cluster(nodes=nodes, bandwidth_bytes_per_s=slow_to_c)
    estimates = replace(ESTIMATES, chain=replace(ESTIMATES.chain, codecs=(codec,)), cluster=cluster, speeds={})

    def codecs(*spots: Placed) -> list[str]:
        option = evaluate(spots, "a", estimates)
        made = bridge_route(option, MODELS, epoch=8, standby_head="", codec=estimates.codec)
        return [hop.codec for hop in made.hops]

    assert codecs(STAGES[0], STANDBY, STAGES[2]) == ["none", "int8", "none"]  # a to c, and then within c
    assert codecs(*STAGES) == ["none", "none", "int8"]  # a to b is quick
