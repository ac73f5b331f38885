"""Fits every part that the given stages can have, and measures it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stages.calibration import CalibrationData
from stages.errors import ModelError
from stages.fitting.activations import Array, Sample, affordable, forward, single
from stages.fitting.chains import Chain, Planner, Step
from stages.fitting.exits import MAX_FEATURES, Look, fit_exit, is_classifier, looks
from stages.fitting.fragment import Fragment, make_model
from stages.fitting.measure import measure
from stages.fitting.parts import FittedPart, derived, fitted
from stages.fitting.quantise import Bits, quantised
from stages.fitting.skips import can_skip, skip_model
from stages.graph import ModelGraph

Data = Array | CalibrationData | Sample
Tell = Callable[[str], None]

FIT_IMAGES = 3000
SHARES = {"small": 0.18, "large": 0.35}
"""Arithmetic of a stand-in, relative to the blocks that it replaces."""


def fit_parts(
    graph: ModelGraph,
    calibration: Data,
    *,
    stages: Sequence[tuple[int, int]],
    exits: Sequence[int],
    held_out: Data | None = None,
    on_progress: Tell | None = None,
    on_note: Tell | None = None,
) -> list[FittedPart]:
    """Everything that can replace the stages: stand-ins, skips, standbys (whole, int8, int4), and exits at the cuts.

    No label is looked at for the fit: what the network itself computes is the target. A part that cannot be fitted is
    left out.

    Args:
        calibration: images (of arrays: the model's input, (N, ...)); more than 3,000 are not looked at.
        stages: runs of blocks [first, end).
        exits: cuts.
        held_out: images to measure the parts on, none of `calibration`; None: their accuracy stays unknown.
        on_progress: is told what is worked on.
        on_note: is told, in one line, why something was left out.

    Returns:
        In the order of first block, end, technique.

    Raises:
        CalibrationError, ModelError: the data or the model cannot be used at all.
    """
    sample = Sample.of(calibration, affordable(graph, FIT_IMAGES))
    parts = Fitter(graph, sample, on_progress, on_note).fit(stages, exits)
    if held_out is None or not is_classifier(graph):
        return parts
    return measure(graph, parts, held_out, on_progress=on_progress)[0]


def derive_parts(
    graph: ModelGraph, stages: Sequence[tuple[int, int]], *, on_note: Tell | None = None
) -> list[FittedPart]:
    """What can replace the stages without any data: copies (whole, int8, int4), and skips where shapes match.

    Args:
        on_note: is told, in one line, why something was left out.
    """
    return [part for stage in sorted(set(stages)) for part in _derive(graph, *stage, on_note or (lambda _text: None))]


def _derive(graph: ModelGraph, first: int, end: int, note: Tell) -> list[FittedPart]:
    made = [derived(graph, graph.submodel(first, end), "standby", first, end, "")]
    bits: Bits
    for bits in (8, 4):
        try:
            made.append(derived(graph, quantised(graph, first, end, bits), "standby", first, end, f"int{bits}"))
        except ModelError as error:
            note(f"no int{bits} standby of blocks {first}-{end}: {error}")
    if can_skip(graph, first, end):
        made.append(derived(graph, skip_model(graph, first, end), "skip", first, end, ""))
    return made


class Fitter:
    """Goes through the cuts once, from first to last, with the activations of the calibration images."""

    def __init__(self, graph: ModelGraph, sample: Sample, on_progress: Tell | None, on_note: Tell | None) -> None:
        if len(graph.inputs) != 1:
            raise ModelError(f"parts can be fitted for models of one input, '{graph.name}' has {len(graph.inputs)}")
        self._graph = graph
        self._planner = Planner(graph)
        self._inputs = sample.inputs
        self._progress = on_progress or (lambda _text: None)
        self._note = on_note or (lambda _text: None)

    def fit(self, stages: Sequence[tuple[int, int]], exits: Sequence[int]) -> list[FittedPart]:
        blocks = len(self._graph.blocks)
        bad = [stage for stage in stages if not 0 <= stage[0] < stage[1] <= blocks]
        bad += [(cut, blocks) for cut in exits if not 0 <= cut < blocks]
        if bad:
            raise ModelError(f"model '{self._graph.name}' has {blocks} blocks: {bad[0]} is not a run of them")
        parts = derive_parts(self._graph, stages, on_note=self._note)
        x, at = self._inputs, 0
        for first in sorted({*(first for first, _ in stages), *exits}):
            if any(single(self._graph, cut) is None for cut in (at, first)):
                self._note(f"nothing is fitted from cut {first} on: its activation is not one float32 tensor")
                continue
            x, at = forward(self._graph, at, first, x), first
            ends = sorted({end for start, end in stages if start == first})
            answers = self._answers(first, x) if first in exits else None
            for variant, share in SHARES.items():
                chain = Chain(self._graph, self._planner, x)
                parts += self._stand_ins(chain, variant, share, first, ends)
                if answers is not None and variant == "large":
                    parts += self._deep_exit(chain, share, first, x, answers)
            if answers is not None:
                parts += self._exits(first, x, answers)
        return sorted(parts, key=lambda part: (part.record.first_block, part.record.end_block, part.record.technique))

    def _stand_ins(self, chain: Chain, variant: str, share: float, first: int, ends: Sequence[int]) -> list[FittedPart]:
        graph, found = self._graph, []
        # A classifier's last stage is replaced by an exit: it may look at more than the network's own head does.
        for end in (end for end in ends if end < len(graph.blocks) or not is_classifier(graph)):
            steps = self._planner.steps(first, end, share)
            if steps is None:
                if variant == "large":
                    self._note(f"no stand-in for blocks {first}-{end}: no layer leads from its input to its output")
                continue
            self._progress(f"stand-in {first}-{end} {variant}")
            chain.extend(steps)
            cuts = graph.cuts[first].tensors, graph.cuts[end].tensors
            model = make_model(graph, chain.fragments, *cuts, name=f"stand-in {first}..{end}")
            found.append(fitted(model, "stand-in", first, end, variant))
        return found

    def _answers(self, cut: int, x: Array) -> Array | None:
        """The network's own; None where there can be no exit."""
        rank = len(self._graph.cuts[cut].tensors[0].example_shape)
        if not is_classifier(self._graph) or rank not in (2, 3, 4):
            self._note(f"no exit at cut {cut}: the model is no classifier, or the cut is of {rank} dimensions")
            return None
        return forward(self._graph, cut, len(self._graph.blocks), x)

    def _exits(self, cut: int, x: Array, answers: Array) -> list[FittedPart]:
        source = self._graph.cuts[cut].tensors[0]
        shallow = {
            "small": looks(source, 2, highest=False, spread=False),
            "medium": looks(source, 4, highest=True, spread=True),
        }
        return [self._exit(cut, variant, [], [look], x, answers) for variant, look in shallow.items()]

    def _deep_exit(self, chain: Chain, share: float, cut: int, x: Array, answers: Array) -> list[FittedPart]:
        """A stand-in for what is left of the network, and a classifier that looks at the end of each of its layers."""
        graph = self._graph
        ends = [
            at
            for at in range(len(graph.blocks) - 1, cut, -1)
            if (spec := single(graph, at)) is not None and len(spec.example_shape) == 4
        ]
        steps = next((found for end in ends if (found := self._planner.steps(cut, end, share)) is not None), None)
        if not steps:
            return []
        chain.extend(steps)
        return [self._exit(cut, "large", chain.fragments, _levels(graph, cut, steps), x, answers)]

    def _exit(
        self, cut: int, variant: str, before: list[Fragment], seen: list[Look], x: Array, answers: Array
    ) -> FittedPart:
        self._progress(f"exit {cut} {variant}")
        graph = self._graph
        source = graph.cuts[cut].tensors[0]
        fragments = fit_exit(graph, source, before, seen, x, answers)
        model = make_model(graph, fragments, (source,), graph.outputs, name=f"exit {cut}")
        return fitted(model, "exit", cut, len(graph.blocks), variant)


def _levels(graph: ModelGraph, cut: int, steps: Sequence[Step]) -> list[Look]:
    """The last ones first, until there is enough to look at."""
    seen: list[Look] = []
    total = 0
    for at in [step.end for step in reversed(steps)] + [cut]:
        look = Look(tensor=graph.cuts[at].tensors[0], grid=1, highest=False, spread=True)
        total += look.count
        if seen and total > MAX_FEATURES:
            break
        seen.append(look)
    return seen
