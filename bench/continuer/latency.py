"""Latency as predicted against latency as measured, per technique and network (CONTINUER, tables II and V)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.continuer.cases import Case, Network
from planner.latency import CALIBRATION_RUNS, Calibration, SessionLatency, StageRuns, typical
from planner.predictor import Predictor
from planner.profile import Profile
from stages.latency import LatencyModel, measure_sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One case. Seconds of one frame, computing alone.

    Attributes:
        predicted_s: from the profile; the network is none of what the profile was made from.
        low_s, high_s: its interval.
        calibrated_s: corrected by a few runs of what is loaded: the stages, and the parts that stand by.
        measured_s: of the other runs.
        repeat: relative difference of the same measurement from every other run, and from the rest.
    """

    network: str
    case: Case
    predicted_s: float
    low_s: float
    high_s: float
    calibrated_s: float
    measured_s: float
    repeat: float

    @property
    def error(self) -> float:
        return abs(self.predicted_s / self.measured_s - 1)

    @property
    def calibrated_error(self) -> float:
        return abs(self.calibrated_s / self.measured_s - 1)

    @property
    def covered(self) -> bool:
        return self.low_s <= self.measured_s <= self.high_s


def outcomes(
    subject: Network,
    profile: Profile,
    *,
    runs: int,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Outcome]:
    """Predict and run everything that the cases need. `runs` count beside those of the calibration."""
    model = LatencyModel(Predictor(profile))
    predicted = {name: model.session(session.model) for name, session in subject.sessions.items()}
    weights = model.blocks(subject.graph)
    measured = measure_sessions(subject.sessions, runs=CALIBRATION_RUNS + runs, on_progress=on_progress)
    # Among the others: where the machine becomes slower meanwhile, it does so for both.
    chosen = {number * (CALIBRATION_RUNS + runs) // CALIBRATION_RUNS for number in range(CALIBRATION_RUNS)}
    few = {name: [s for at, s in enumerate(values) if at in chosen] for name, values in measured.items()}
    truth = {name: [s for at, s in enumerate(values) if at not in chosen] for name, values in measured.items()}
    found = []
    for nodes, stages in subject.deployed.items():
        calibration = Calibration.of(weights, [_runs(span, predicted, few) for span in stages])
        loaded = {f"stage:{start}-{end}" for start, end in stages}
        factors = {
            name: typical(few[name]) / predicted[name].seconds
            if name in loaded or not name.startswith("stage:")
            else calibration.factor(*span_of(name))
            for name in subject.sessions
        }
        for case in subject.cases:
            if case.nodes == nodes:
                found.append(_outcome(subject.name, case, predicted, factors, truth))
    return found


def _runs(
    span: tuple[int, int], predicted: Mapping[str, SessionLatency], runs: Mapping[str, Sequence[float]]
) -> StageRuns:
    name = f"stage:{span[0]}-{span[1]}"
    return StageRuns(
        first_block=span[0], end_block=span[1], predicted_s=predicted[name].seconds, runs_s=tuple(runs[name])
    )


def _outcome(
    network: str,
    case: Case,
    predicted: Mapping[str, SessionLatency],
    factors: Mapping[str, float],
    truth: Mapping[str, Sequence[float]],
) -> Outcome:
    guesses = [predicted[name] for name in case.sessions]
    halves = [sum(typical(truth[name][start::2]) for name in case.sessions) for start in (0, 1)]
    seconds = sum(typical(truth[name]) for name in case.sessions)
    return Outcome(
        network=network,
        case=case,
        predicted_s=sum(guess.seconds for guess in guesses),
        low_s=sum(guess.low for guess in guesses),
        high_s=sum(guess.high for guess in guesses),
        calibrated_s=sum(predicted[name].seconds * factors[name] for name in case.sessions),
        measured_s=seconds,
        repeat=abs(halves[0] - halves[1]) / seconds,
    )


def span_of(session: str) -> tuple[int, int]:
    """The blocks of a session by its name, `stage:0-5`."""
    first, _, end = session.split(":")[1].partition("-")
    return int(first), int(end)
