"""Which fault, when, for how long, and on whom: drawn from a seed, before anything is started."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.faults.faults import KINDS, Fault
from broker.errors import UnderstudyError

RECOVER_S = 2.5
"""After its repair a node counts as away for so long: it must start and load before others may go."""

FIRST_S = 1.0


class ScheduleError(UnderstudyError):
    """No such schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A fault to come. Seconds from the beginning of the run.

    Attributes:
        seed: of all else that the fault leaves to chance.
    """

    number: int
    kind: str
    at_s: float
    lasts_s: float
    victims: tuple[str, ...]
    seed: int

    @property
    def ends_s(self) -> float:
        return self.at_s + self.lasts_s

    def make(self) -> Fault:
        return KINDS[self.kind].make(self.victims, random.Random(self.seed))

    def __str__(self) -> str:
        who = f" {' '.join(self.victims)}" if self.victims else ""
        return f"#{self.number} {self.kind}{who} at {self.at_s:.2f} s for {self.lasts_s:.2f} s"


def make_schedule(
    *,
    seed: int,
    faults: int,
    every_s: float,
    nodes: Sequence[str],
    kinds: Sequence[str] = (),
    spared: Sequence[str] = (),
    allowed: Sequence[str] = (),
) -> list[Planned]:
    """So many faults, one about every `every_s`, so that some are there at once. At every moment at least one node is
    untouched. The same arguments give the same schedule.

    Args:
        kinds: those to choose from; none: all that are `allowed`.
        allowed: those that can be done to this pipeline; none: all that there are.
        spared: nodes that are never named. The head may be one of them, whatever is done to the head then.

    Raises:
        ScheduleError: there is no such kind, or not for this pipeline.
    """
    allowed = tuple(allowed) or tuple(KINDS)
    names = tuple(kinds) or allowed
    if unknown := sorted(set(names) - set(KINDS)):
        raise ScheduleError(f"no fault is called {', '.join(unknown)}; there are {', '.join(KINDS)}")
    if unfit := sorted(set(names) - set(allowed)):
        raise ScheduleError(f"{', '.join(unfit)}: not possible with this broker, its servers and this delivery")
    chance = random.Random(seed)
    weights = [KINDS[name].weight for name in names]
    planned: list[Planned] = []
    at_s = FIRST_S
    while len(planned) < faults:
        name = chance.choices(names, weights)[0]
        kind = KINDS[name]
        lasts_s = _duration(chance, kind.lasts_s)
        own_seed = chance.getrandbits(32)
        busy = [other for other in planned if other.ends_s + RECOVER_S > at_s]
        away = {victim for other in busy for victim in other.victims}
        free = [node for node in nodes if node not in away and node not in spared]
        room = len(nodes) - 1 - sum(KINDS[other.kind].nodes for other in busy)
        fits = kind.nodes <= min(room, len(free) if kind.names_nodes else room)
        if fits and not (kind.alone and any(KINDS[other.kind].alone for other in busy)):
            victims = tuple(sorted(chance.sample(free, kind.nodes))) if kind.names_nodes else ()
            planned.append(
                Planned(number=len(planned) + 1, kind=name, at_s=at_s, lasts_s=lasts_s, victims=victims, seed=own_seed)
            )
            at_s += every_s * chance.uniform(0.5, 1.5)
        else:
            at_s += 0.1
    return planned


def _duration(chance: random.Random, bounds: tuple[float, float]) -> float:
    """Between the bounds, as likely in each of their orders of magnitude: short ones find what long ones do not."""
    least, most = bounds
    return float(least * (most / least) ** chance.random())
