"""Plans that are made before they are needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from planner.cluster import NodeSpec
from planner.plan import NoPlanError, Plan, Stage
from recovery.foresight import MOST_S, Foresight
from tests.unit.recovery_cases import specs

A, B, C = NODES = specs("a", "b", "c")


class Planner:
    """Puts everything on the first node; `cannot`: with these nodes there is no plan."""

    def __init__(self, cannot: Sequence[NodeSpec] = ()) -> None:
        self.asked: list[list[str]] = []
        self._cannot = set(cannot)

    def __call__(self, nodes: Sequence[NodeSpec], plans_before: int, *, quiet: bool = False) -> Plan:
        assert quiet
        self.asked.append([node.name for node in nodes])
        if set(nodes) == self._cannot:
            raise NoPlanError("too small")
        return Plan(stages=(Stage(first_block=0, end_block=plans_before, node=nodes[0].name),))


async def all_made() -> None:
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))


async def foreseen(foresight: Foresight, needed: Sequence[str], plan_s: float = 0.001) -> dict[str, str]:
    """By lost node, where its plan puts everything, when all plans are made."""
    foresight.begin(NODES, needed, plans_before=6, plan_s=plan_s)
    await all_made()
    return {lost: plan.stages[0].node for (lost,), plan in foresight.by_loss(NODES).items()}


async def test_a_plan_is_made_for_the_loss_of_each_node_that_is_needed() -> None:
    foresight = Foresight(Planner())
    assert await foreseen(foresight, ["a", "b"]) == {"a": "b", "b": "a"}
    plan = foresight.plan_for((C, A))
    assert plan is not None
    assert plan.stages == (Stage(first_block=0, end_block=6, node="a"),)
    assert foresight.plan_for((A, B)) is None


async def test_what_is_made_is_not_made_again_and_tells_no_news() -> None:
    planner = Planner()
    foresight = Foresight(planner)
    foresight.begin(NODES, ["a"], plans_before=6, plan_s=0.001)
    await all_made()
    assert foresight.is_news
    assert await foreseen(foresight, ["a", "b"]) == {"a": "b", "b": "a"}
    assert planner.asked == [["b", "c"], ["a", "c"]]
    assert await foreseen(foresight, ["a", "b"]) == {"a": "b", "b": "a"}
    assert not foresight.is_news
    assert planner.asked == [["b", "c"], ["a", "c"]]


async def test_what_is_under_way_is_not_begun_again() -> None:
    planner = Planner()
    foresight = Foresight(planner)
    for _ in range(3):
        foresight.begin(NODES, ["a", "b"], plans_before=6, plan_s=0.001)
        await asyncio.sleep(0)
    await all_made()
    assert planner.asked == [["b", "c"], ["a", "c"]]


async def test_what_is_for_other_nodes_is_forgotten() -> None:
    foresight = Foresight(Planner())
    await foreseen(foresight, ["a", "b"])
    assert await foreseen(foresight, ["b"]) == {"b": "a"}
    assert foresight.plan_for((B, C)) is None


async def test_where_there_is_no_plan_or_it_takes_too_long_there_is_none() -> None:
    assert await foreseen(Foresight(Planner(cannot=(A, C))), ["a", "b"]) == {"a": "b"}
    planner = Planner()
    assert await foreseen(Foresight(planner), ["a", "b"], plan_s=MOST_S) == {}
    assert planner.asked == []
