"""What CONTINUER's techniques run after the loss of a node: which sessions, for which network, pipeline and node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bench.subjects import MissingSubjectError, data_file
from stages.fitting import can_skip, fit_parts, part_of, skip_model
from stages.graph import ModelGraph
from stages.latency import Session, part_session, stage_session
from understudy.fitting import planned_stages

Technique = Literal["repartition", "exit", "skip", "stand-in"]
TECHNIQUES: tuple[Technique, ...] = ("repartition", "exit", "skip", "stand-in")

NETWORKS: Mapping[str, str] = {
    "ResNet-32": "resnet32_cifar10_jpeg.onnx",
    "MobileNetV2": "mobilenetv2_cifar10.onnx",
}
INPUTS = 64
"""Random inputs that parts are fitted to: what their weights are does not change how long they take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A frame's way after one node of a pipeline is lost.

    Attributes:
        nodes: of the pipeline; lost: which of its stages, from 0.
        sessions: names of what runs, one after the other.
    """

    technique: Technique
    nodes: int
    lost: int
    sessions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network and all its cases.

    Attributes:
        sessions: by name; `stage:0-5` is the stage of these blocks.
        deployed: by number of nodes, the stages of the pipeline that is calibrated.
    """

    name: str
    graph: ModelGraph
    sessions: Mapping[str, Session]
    deployed: Mapping[int, tuple[tuple[int, int], ...]]
    cases: tuple[Case, ...]


def network(name: str, nodes: Sequence[int], *, each_block: bool) -> Network:
    """The network with pipelines of so many nodes, split as the planner splits for equal ones.

    Args:
        each_block: also with a node for every block, as in the paper, where what keeps its shape can be skipped.

    Raises:
        MissingSubjectError: the network is not on this machine.
    """
    graph = ModelGraph.load(data_file(NETWORKS[name]))
    blocks = len(graph.blocks)
    deployed = {count: tuple(planned_stages(graph, [count], single=False)) for count in nodes}
    lost = sorted({span for stages in deployed.values() for span in stages})
    if each_block:
        deployed[blocks] = tuple((index, index + 1) for index in range(blocks))
    smaller = {count: tuple(planned_stages(graph, [count - 1], single=False)) for count in deployed}
    spans = sorted({span for stages in (*deployed.values(), *smaller.values()) for span in stages})
    sessions = {_stage(span): stage_session(graph, *span) for span in spans}
    sessions |= _parts(graph, lost) | _skips(graph, spans)
    cases: list[Case] = []
    for count, stages in deployed.items():
        for index, span in enumerate(stages):
            before, after = [_stage(s) for s in stages[:index]], [_stage(s) for s in stages[index + 1 :]]
            ways: dict[Technique, list[str] | None] = {
                "repartition": [_stage(s) for s in smaller[count]],
                "exit": _with(sessions, before, f"exit:{span[0]}-{blocks}", []),
                "skip": _with(sessions, before, f"skip:{span[0]}-{span[1]}", after),
                "stand-in": _with(sessions, before, f"stand-in:{span[0]}-{span[1]}", after),
            }
            cases += [
                Case(technique=technique, nodes=count, lost=index, sessions=tuple(way))
                for technique, way in ways.items()
                if way is not None
            ]
    return Network(name=name, graph=graph, sessions=sessions, deployed=deployed, cases=tuple(cases))


def _stage(span: tuple[int, int]) -> str:
    return f"stage:{span[0]}-{span[1]}"


def _with(sessions: Mapping[str, Session], before: list[str], name: str, after: list[str]) -> list[str] | None:
    """The way with the part of this name, or a variant of it; None where there is none."""
    found = next((known for known in sorted(sessions) if known == name or known.startswith(f"{name}:")), None)
    return None if found is None else [*before, found, *after]


def _parts(graph: ModelGraph, stages: Sequence[tuple[int, int]]) -> dict[str, Session]:
    """Exits and stand-ins for the stages, as a bundle has them, by name."""
    (source,) = graph.inputs
    random = np.random.default_rng(0).standard_normal((INPUTS, *source.example_shape[1:]), np.float32)
    exits = sorted({first for first, _ in stages if first > 0})
    found = {}
    for part in fit_parts(graph, random, stages=stages, exits=exits):
        record = part.record
        if record.technique in ("exit", "stand-in"):
            found[part_of(record).name] = part_session(graph, record.first_block, record.end_block, part.model)
    return found


def _skips(graph: ModelGraph, spans: Sequence[tuple[int, int]]) -> dict[str, Session]:
    """The identity in the place of what keeps its shape."""
    kept = [span for span in spans if can_skip(graph, *span)]
    return {
        f"skip:{first}-{end}": part_session(graph, first, end, skip_model(graph, first, end)) for first, end in kept
    }


def available() -> dict[str, Path]:
    """The networks that are on this machine. Raises MissingSubjectError where none is."""
    found, missing = {}, None
    for name, file in NETWORKS.items():
        try:
            found[name] = data_file(file)
        except MissingSubjectError as error:
            missing = error
    if not found and missing is not None:
        raise missing
    return found
