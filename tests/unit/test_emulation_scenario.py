"""What goes wrong in an emulation: files, and what they mean for the nodes that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from understudy.emulation.errors import EmulationError
from understudy.emulation.scenario import REPAIRS, Action, Scenario, Step, load_scenario, names, resolve
from understudy.quantities import ConfigError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "compose" / "scenarios"
PAGE = (ROOT / "docs" / "emulation.md").read_text()
NODES = ("node1", "node2", "node3", "node4")


def node(name: str, *stages: list[int], head: bool = False, alive: bool = True) -> dict[str, Any]:
    return {"name": name, "stages": list(stages), "head": head, "alive": alive}


STATUS = {
    "standby_head": "node4",
    "nodes": [node("node1", [4, 6]), node("node2", [0, 4], head=True), node("node3"), node("node4", [6, 9])],
}


@pytest.mark.parametrize("name", names(FOLDER))
def test_every_scenario_can_be_read_and_is_documented(name: str) -> None:
    scenario = load_scenario(name, FOLDER)
    assert scenario.name == name
    assert scenario.about.endswith(".")
    assert scenario.for_nodes(NODES)
    assert f"| `{name}` |" in PAGE


def test_what_a_scenario_takes_away_it_brings_back() -> None:
    for name in names(FOLDER):
        away: list[tuple[str, str]] = []
        for step in load_scenario(name, FOLDER).steps:
            if step.do in REPAIRS:
                away.append((step.who, REPAIRS[step.do]))
            elif not step.is_fault:
                away.remove((step.who, step.do))
        assert away == [], name


def test_the_page_names_every_action_and_key() -> None:
    assert [action for action in get_args(Action) if f"`{action}`" not in PAGE] == []
    assert [key for key in Step.model_fields if f"`{key}`" not in PAGE] == []


def test_an_unknown_name_is_answered_with_those_that_are_there() -> None:
    with pytest.raises(EmulationError, match=r"no scenario 'flood'; there are: cut, kill, "):
        load_scenario("flood", FOLDER)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("about: x\nsteps: [{do: explode, who: head}]", "steps.0.do"),
        ("about: x\nsteps: [{do: kill, who: head, wen: 3s}]", "'steps.0.wen' is not a setting; there are: after"),
        ("about: x\nsteps: [{do: slow, who: head}]", "slow needs a rate, a delay or a loss"),
        ("about: x\nsteps: [{do: kill, who: head, rate: 1mbit}]", "are of slow, not of kill"),
        ("about: x\nsteps: [{do: slow, who: head, rate: fast}]", "write 10mbit"),
        ("about: x\nsteps: [{after: 3, do: kill, who: head}]", "no known unit of time"),
    ],
)
def test_a_mistake_in_a_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"own\.yaml") as caught:
        load_scenario(str(file), FOLDER)
    assert said in str(caught.value)


def test_a_node_that_is_not_there_is_named_before_anything_is_started() -> None:
    scenario = Scenario(name="own", about="x", steps=(Step(do="kill", who="node9"),))
    with pytest.raises(EmulationError, match="scenario 'own': 'node9' is none of node1, node2"):
        scenario.for_nodes(NODES)


def test_each_is_a_step_for_every_node() -> None:
    scenario = Scenario(about="x", steps=(Step(do="restart", who="each", after="1s", healed=True),))
    steps = scenario.for_nodes(NODES)
    assert [step.who for step in steps] == list(NODES)
    assert all(step.healed and step.after == 1.0 for step in steps)


@pytest.mark.parametrize(("name", "most"), [("kill", 1), ("two", 2), ("three", 1), ("kill-hub", 0), ("rolling", 1)])
def test_how_many_nodes_are_away_at_the_same_time(name: str, most: int) -> None:
    assert load_scenario(name, FOLDER).most_away == most


@pytest.mark.parametrize(
    ("who", "name"),
    [("head", "node2"), ("standby-head", "node4"), ("middle", "node1"), ("node3", "node3"), ("hub", "hub")],
)
def test_roles_are_those_of_the_pipeline_at_the_moment(who: str, name: str) -> None:
    assert resolve(who, STATUS, {}) == name


def test_a_role_stays_with_the_node_that_had_it_first() -> None:
    assert resolve("head", STATUS, {"head": "node1"}) == "node1"


def test_another_node_is_one_that_nothing_has_happened_to() -> None:
    assert resolve("other", STATUS, {"middle": "node1"}) == "node4"
    with pytest.raises(EmulationError, match="no node has the role 'other'"):
        resolve("other", STATUS, {"middle": "node1", "standby-head": "node4"})
