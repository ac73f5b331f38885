"""Routes as they travel: from a plan, and from a way around a failure."""

from __future__ import annotations

import pytest

from broker.control import BlobRef
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
