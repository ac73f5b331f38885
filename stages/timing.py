"""Times layers in onnxruntime on a machine that does other things as well.

A layer's seconds are (T - o) / R - s: T the seconds of a run of R copies of it in one session, o what a run costs
without any layer, s what it costs to drop what a copy has made. Sessions of several layers are run in turn, round by
round, and a reference layer before each: what slows the machine for longer than a round slows the reference too, and is
divided out. What strikes between the two only makes a run longer, so a low quantile of the corrected runs is taken and
not their mean. Each layer is estimated from the odd and from the even rounds as well: how far these are apart is the
repeatability of the measurement itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from stages.engine import Engine
from stages.errors import EngineError, ModelError
from stages.layermodels import layer_feeds, layer_model
from stages.layers import Layer, Operand, as_it_is
from stages.tensor import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

TARGET_S = 300e-6
"""A run of copies should take so long: much more than a session's own overhead."""

FAR_BYTES = 4 << 20
"""The weights of all copies together should be more than the caches that a core has for itself. Within a network a
layer finds its weights where all other layers have left them; with the same weights again and again layers would seem
faster than they are (measured: MobileNetV2's by 6 %, ResNet-32's by 3 %)."""

SMALL_BYTES = 4096
"""Weights that are so few take no time."""

MOST_S = 1.5e-3
"""So long a run may take for that."""

MAX_COPIES = 256
QUANTILE = 0.25
REPEATABLE = 0.01
"""Two halves of the rounds that agree so well need no more rounds."""

OPSETS = (("", 20),)
_SMALL = Operand(dtype="float32", shape=(1, 16, 32, 32))
EMPTY = Layer(
    op_type="Relu",
    domain="",
    attributes=(),
    inputs=(Operand(dtype="float32", shape=(1,)),),
    outputs=(Operand(dtype="float32", shape=(1,)),),
    opsets=OPSETS,
)
"""Nearly nothing: what a run of it takes is the session."""

REFERENCE = Layer(
    op_type="Conv",
    domain="",
    attributes=(("pads", (1, 1, 1, 1)),),
    inputs=(_SMALL, Operand(dtype="float32", shape=(16, 16, 3, 3), static=True)),
    outputs=(_SMALL,),
    opsets=OPSETS,
)
"""Small enough to be run before everything, and of the kind that networks spend their time with."""


WARM_RUNS = 4
"""After other sessions have run, caches settle in so many runs: MobileNetV2's layers took 117, 110 and 107 % of their
time after 1, 2 and 4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """How often layers are run: at least `least` rounds, and until the halves agree, at most `most`; in each round
    `warm` times to have its data in the caches again, then `runs` times, of which the fastest counts."""

    least: int = 8
    most: int = 32
    warm: int = WARM_RUNS
    runs: int = 2


QUICK = Rounds(least=4, most=8, warm=1, runs=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What one layer takes.

    Attributes:
        seconds: for one frame.
        spread: |odd - even| / seconds, the estimates of the two halves of the rounds.
        rounds: how many there were.
    """

    seconds: float
    spread: float
    rounds: int


@dataclass(slots=True, kw_only=True)
class _Trial:
    run: Callable[[], float]
    copies: int
    runs: list[float] = field(default_factory=list)
    references: list[float] = field(default_factory=list)


def estimate(runs: Sequence[float], references: Sequence[float], best_reference: float) -> tuple[float, float]:
    """Seconds of a run, and the spread, from runs and the reference's runs just before them, in seconds."""
    corrected = np.asarray(runs) * best_reference / np.asarray(references)
    seconds = float(np.quantile(corrected, QUANTILE))
    if len(corrected) < 2:
        return seconds, 1.0
    odd, even = (float(np.quantile(half, QUANTILE)) for half in (corrected[::2], corrected[1::2]))
    return seconds, abs(odd - even) / seconds


class LayerTimer:
    """Times layers with the engine's settings. The reference's best run so far is what all others are corrected to.

    Attributes:
        overhead_s: o, of a run without a layer.
        drop_s: s, of dropping what a copy has made.
        stage_s: the same in the engine that stages are run by, which looks after their tensors.
        reference_s: the reference's best run; give it back to go on with an earlier session's measurements.
    """

    def __init__(
        self,
        *,
        threads: int = 1,
        rounds: Rounds | None = None,
        reference_s: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Raises EngineError where onnxruntime cannot run the reference."""
        self._threads = threads
        self._rounds = rounds or Rounds()
        self._clock = clock
        self._reference = self._runner(REFERENCE, 4)
        self.reference_s = min([self._reference() for _ in range(50)] + ([reference_s] if reference_s else []))
        self.overhead_s, self.drop_s = self._overheads()
        self.stage_s = self._stage_overhead()

    def time(
        self, layers: Sequence[Layer], *, weight_bytes: int | None = None, rounds: Rounds | None = None
    ) -> list[Timing | None]:
        """What each of the layers takes; None for one that cannot be run by itself. The sessions of all of them are in
        memory at the same time: give a few dozen.

        Args:
            weight_bytes: of all weights of a layer's session; None: `FAR_BYTES`, if that does not take too long.
            rounds: None: the timer's own.
        """
        rounds = rounds or self._rounds
        trials = [self._trial(layer, weight_bytes) for layer in layers]
        open_trials = [trial for trial in trials if trial is not None]
        done = 0
        while open_trials and done < rounds.most:
            for trial in open_trials:
                reference = min(self._reference(), self._reference())
                self.reference_s = min(self.reference_s, reference)
                trial.references.append(reference)
                for _ in range(rounds.warm):
                    trial.run()
                trial.runs.append(min(trial.run() for _ in range(rounds.runs)))
            done += 1
            if done >= rounds.least and done % 2 == 0:
                open_trials = [trial for trial in open_trials if self._timing(trial).spread > REPEATABLE]
        return [None if trial is None else self._timing(trial) for trial in trials]

    def _timing(self, trial: _Trial) -> Timing:
        seconds, spread = estimate(trial.runs, trial.references, self.reference_s)
        without = seconds - self.overhead_s - trial.copies * self.drop_s
        # Less than nothing is noise of a layer that takes next to nothing.
        return Timing(seconds=max(without, 0.02 * seconds) / trial.copies, spread=spread, rounds=len(trial.runs))

    def _trial(self, layer: Layer, weight_bytes: int | None) -> _Trial | None:
        try:
            run = self._runner(layer, 1)
            once_s = max(min(run() for _ in range(3)) - self.overhead_s, 1e-7)
            copies = _copies(layer, once_s) if weight_bytes is None else round(weight_bytes / layer.weight_bytes)
            return _Trial(run=run if copies == 1 else self._runner(layer, copies), copies=copies)
        except (EngineError, ModelError):
            return None

    def _overheads(self) -> tuple[float, float]:
        """Of a session; and of dropping a result, which is half of a copy of nearly nothing: two nodes of a kind."""
        one, many = self._runner(EMPTY, 1), self._runner(EMPTY, 65)
        pairs = [(one(), many()) for _ in range(200)]
        first, last = (float(np.quantile(side, QUANTILE)) for side in zip(*pairs, strict=True))
        copy_s = max(0.0, (last - first) / 64)
        return max(0.0, first - copy_s), copy_s / 2

    def _stage_overhead(self) -> float:
        spec = TensorSpec(name="shape", dtype="int64", shape=(1,), example_shape=(1,))
        engine, feeds = Engine.load(layer_model(EMPTY), outputs=(spec,), threads=self._threads), layer_feeds(EMPTY)
        bare = self._runner(EMPTY, 1)

        def run() -> float:
            start = self._clock()
            engine.run(feeds)
            return self._clock() - start

        pairs = [(bare(), run()) for _ in range(200)]
        without, within = (float(np.quantile(side, QUANTILE)) for side in zip(*pairs, strict=True))
        return self.overhead_s + max(0.0, within - without)

    def _runner(self, layer: Layer, copies: int) -> Callable[[], float]:
        """A function that runs the layer's copies and returns the seconds; it has been run before."""
        feeds = layer_feeds(layer)
        try:
            session = ort.InferenceSession(
                layer_model(layer, copies=copies), as_it_is(self._threads), providers=["CPUExecutionProvider"]
            )
            names = [output.name for output in session.get_outputs()]
            session.run(names, feeds)
        except ModelError:
            raise
        except Exception as error:  # onnxruntime raises classes of its own that share no base
            raise EngineError(f"onnxruntime cannot run layer {layer.title}: {error}") from error
        return _timed(session, names, feeds, self._clock)


def _copies(layer: Layer, once_s: float) -> int:
    """How many, by the seconds of one."""
    wanted = TARGET_S / once_s
    if layer.weight_bytes > SMALL_BYTES:
        wanted = max(wanted, min(FAR_BYTES / layer.weight_bytes, MOST_S / once_s))
    return min(MAX_COPIES, max(1, round(wanted)))


def _timed(
    session: ort.InferenceSession, names: Sequence[str], feeds: dict[str, NDArray[Any]], clock: Callable[[], float]
) -> Callable[[], float]:
    def run() -> float:
        start = clock()
        session.run(names, feeds)
        return clock() - start

    return run
