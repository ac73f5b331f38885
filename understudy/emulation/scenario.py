"""What goes wrong, and when: small YAML files (compose/scenarios), and what they mean for the nodes that are there.

    about: A node in the middle of the pipeline crashes, and comes back.
    steps:
      - {after: 3s, do: kill, who: middle}
      - {after: 5s, do: start, who: middle}

A step begins `after` so long since the one before it, with `healed: true` since the pipeline was whole again after
that. `who` is a node's name, `hub`, `controller`, or a role: `head`, `standby-head`, `middle` (a node with a stage that
is neither), `other` (one more of those). A role means the same node throughout a scenario: the one that had it at the
first step that names it. `each` stands for all nodes, one step for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from understudy.emulation.errors import EmulationError
from understudy.emulation.links import parse_rate
from understudy.emulation.project import CONTROLLER, HUB
from understudy.fields import DurationOrZero
from understudy.files import explain, read_yaml

Action = Literal["kill", "start", "restart", "pause", "resume", "cut", "join", "slow", "restore", "kill-broker"]

ROLES = ("head", "standby-head", "middle", "other")
EACH = "each"

REPAIRS: Mapping[Action, Action] = {"kill": "start", "pause": "resume", "cut": "join", "slow": "restore"}
"""What takes back what."""

TAKES_AWAY: frozenset[Action] = frozenset({"kill", "restart", "pause", "cut"})
"""After these a node is away."""


def _rate(value: Any) -> float:
    try:
        return parse_rate(str(value))
    except EmulationError as error:
        raise ValueError(str(error)) from None


class Step(BaseModel):
    """One thing that is done to one container."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: DurationOrZero = 0.0
    do: Action
    who: str
    healed: bool = False
    rate: Annotated[float | None, BeforeValidator(_rate)] = None
    delay: DurationOrZero = 0.0
    loss: Annotated[float, Field(ge=0, le=100)] = 0.0

    @model_validator(mode="after")
    def _fits(self) -> Step:
        says = self.rate is not None or self.delay > 0 or self.loss > 0
        if self.do == "slow" and not says:
            raise ValueError("slow needs a rate, a delay or a loss (in percent)")
        if self.do != "slow" and says:
            raise ValueError(f"rate, delay and loss are of slow, not of {self.do}")
        return self

    @property
    def needs_netem(self) -> bool:
        return self.delay > 0 or self.loss > 0

    @property
    def is_fault(self) -> bool:
        return self.do not in REPAIRS.values()


class Scenario(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    about: str
    steps: tuple[Step, ...]

    def for_nodes(self, nodes: Sequence[str]) -> tuple[Step, ...]:
        """The steps with `each` spelled out.

        Raises:
            EmulationError: a name is not there.
        """
        steps: list[Step] = []
        for step in self.steps:
            if step.who == EACH:
                steps += [step.model_copy(update={"who": node}) for node in nodes]
            elif step.who in (*ROLES, *nodes, HUB, CONTROLLER):
                steps.append(step)
            else:
                known = ", ".join((*nodes, HUB, CONTROLLER, *ROLES, EACH))
                raise EmulationError(f"scenario '{self.name}': '{step.who}' is none of {known}")
        return tuple(steps)

    @property
    def most_away(self) -> int:
        """So many nodes are away at the same time, at most."""
        away: set[str] = set()
        most = 0
        for step in self.steps:
            if step.do in TAKES_AWAY and step.who not in (HUB, CONTROLLER):
                away.add(step.who)
            most = max(most, len(away))
            if not step.is_fault or step.do == "restart":
                away.discard(step.who)
        return most


def load_scenario(given: str, folder: Path | None) -> Scenario:
    """By its name in the folder of scenarios, or a file.

    Raises:
        EmulationError: there is none of that name; names those that are there.
        ConfigError: the file is wrong.
    """
    path = Path(given)
    if not path.suffix and folder is not None:
        path = folder / f"{given}.yaml"
    if not path.is_file():
        known = ", ".join(names(folder)) or "none: give a file"
        raise EmulationError(f"there is no scenario '{given}'; there are: {known}")
    raw = read_yaml(path)
    try:
        scenario = Scenario.model_validate(raw)
    except ValidationError as error:
        raise explain(error, str(path), Scenario, {"steps": Step}) from error
    return scenario.model_copy(update={"name": scenario.name or path.stem})


def names(folder: Path | None) -> list[str]:
    return [] if folder is None else sorted(path.stem for path in folder.glob("*.yaml"))


def resolve(who: str, status: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """The container that is meant: by its name, or by its role in the status document.

    Args:
        known: roles that were resolved before.

    Raises:
        EmulationError: no node has that role.
    """
    if who not in ROLES:
        return who
    if who in known:
        return known[who]
    alive = [node for node in status["nodes"] if node["alive"]]
    alive.sort(key=lambda node: (not node["stages"], node["stages"]))  # those with a stage, in the pipeline's order
    head = next((node["name"] for node in alive if node["head"]), None)
    standby = status.get("standby_head")
    if who == "head" and head is not None:
        return str(head)
    if who == "standby-head" and standby:
        return str(standby)
    taken = {head, *known.values()}
    working = [node["name"] for node in alive if node["stages"] and node["name"] not in taken]
    free = [name for name in working if name != standby] or working
    if who in ("middle", "other") and free:
        return str(free[(len(free) - 1) // 2])
    raise EmulationError(f"no node has the role '{who}': the pipeline has too few stages for this scenario")
