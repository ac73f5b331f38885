"""Who is alive: a detector of silences whose timeout adapts to the gaps that it observes.

A node is suspected when nothing was heard of it for

    timeout = clamp(max(mean + deviations * deviation, peak_factor * peak), minimum, maximum)

`mean` and `deviation` are exponentially weighted averages of the gaps and of their distance from the mean (the
estimator of TCP's retransmission timer, RFC 6298, which serves the same purpose). They follow the usual rhythm, and are
blind for what is rare: a machine whose cores are all busy keeps a ready process waiting for several intervals once in a
thousand times. So `peak` remembers the largest gap, and decays with a time constant of `peak_memory_s`. The minimum is
a multiple of the node's own interval. A broker that says that a node's connections are closed (`broker.presence`) is
believed at once, without a timeout (`gone`).

The detector must not take its own pauses for silence of others: while it waits for a core itself, their messages wait
for it. `OwnTime` is a clock that stands still meanwhile.

Pure: time is a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSettings:
    """How soon a silence makes suspicious.

    Attributes:
        minimum_intervals, minimum_s: the timeout is at least so many intervals of the node, and at least so long.
        maximum_s: it is at most so long, or the minimum if that is longer.
        deviations: how many mean deviations above the mean gap.
        gain: of the averages, per gap.
        peak_factor: how many times the largest gap of late.
        peak_memory_s: after so long without another one a large gap counts 1 / e of its length.
        gone_grace_s: so long after a broker said that a node has gone, what it still hears of it was sent before.
    """

    minimum_intervals: float = 5.0
    minimum_s: float = 0.5
    maximum_s: float = 5.0
    deviations: float = 6.0
    gain: float = 0.1
    peak_factor: float = 1.5
    peak_memory_s: float = 8.0
    gone_grace_s: float = 0.03


PULSE_DETECTOR = DetectorSettings(minimum_intervals=4.0, minimum_s=0.08, peak_factor=2.5, peak_memory_s=30.0)
"""For pulses every 20 ms (`stages.pulse`); bench/METHODOLOGY.md says how it was chosen."""

WRONG_WITHIN = 3.0
"""A suspicion was wrong where the silence ended before so many timeouts: late pulses look like that, outages do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What the detector knows of one node. Times in seconds of one monotonic clock, best of `OwnTime`."""

    last_heard_s: float
    interval_s: float
    mean_gap_s: float
    deviation_s: float = 0.0
    peak_gap_s: float = 0.0
    gone_s: float | None = None
    """When the broker said that it has gone; None: it has not, or was heard again since."""


def first_beat(now_s: float, interval_s: float) -> Pulse:
    """The pulse of a node that is new."""
    return Pulse(last_heard_s=now_s, interval_s=interval_s, mean_gap_s=interval_s)


def beat(pulse: Pulse, now_s: float, interval_s: float, settings: DetectorSettings) -> Pulse:
    """The pulse after a sign of life. One that came early, because something changed, counts as nothing more."""
    if pulse.gone_s is not None and now_s - pulse.gone_s <= settings.gone_grace_s:
        return pulse  # sent before: it overtook nobody, it was only read later
    if not is_alive(pulse, now_s, settings):
        return _back(pulse, now_s, interval_s, settings)
    if interval_s != pulse.interval_s:
        return _with_interval(pulse, now_s, interval_s)
    gap = now_s - pulse.last_heard_s
    if gap < interval_s / 2:
        return replace(pulse, last_heard_s=now_s)
    error = gap - pulse.mean_gap_s
    return replace(
        pulse,
        last_heard_s=now_s,
        mean_gap_s=pulse.mean_gap_s + settings.gain * error,
        deviation_s=pulse.deviation_s + settings.gain * (abs(error) - pulse.deviation_s),
        peak_gap_s=max(gap, pulse.peak_gap_s * math.exp(-gap / settings.peak_memory_s)),
    )


def gone(pulse: Pulse, now_s: float) -> Pulse:
    """The pulse after the broker said that the process has gone: suspected until it is heard again."""
    return replace(pulse, gone_s=now_s)


def timeout_s(pulse: Pulse, settings: DetectorSettings) -> float:
    """How long a silence may be."""
    usual = pulse.mean_gap_s + settings.deviations * pulse.deviation_s
    adaptive = max(usual, settings.peak_factor * pulse.peak_gap_s)
    lower = max(settings.minimum_s, settings.minimum_intervals * pulse.interval_s)
    return min(max(adaptive, lower), max(settings.maximum_s, lower))


def deadline_s(pulse: Pulse, settings: DetectorSettings) -> float:
    """When it will be suspected if nothing is heard of it; at once if it has gone."""
    return -math.inf if pulse.gone_s is not None else pulse.last_heard_s + timeout_s(pulse, settings)


def is_alive(pulse: Pulse, now_s: float, settings: DetectorSettings) -> bool:
    return pulse.gone_s is None and now_s - pulse.last_heard_s <= timeout_s(pulse, settings)


def _with_interval(pulse: Pulse, now_s: float, interval_s: float) -> Pulse:
    """The rhythm moves with the interval; how irregular it is stays."""
    longer = interval_s - pulse.interval_s
    return replace(
        pulse,
        last_heard_s=now_s,
        interval_s=interval_s,
        mean_gap_s=max(interval_s, pulse.mean_gap_s + longer),
        peak_gap_s=max(0.0, pulse.peak_gap_s + longer),
    )


def _back(pulse: Pulse, now_s: float, interval_s: float, settings: DetectorSettings) -> Pulse:
    """Heard again after a suspicion. Where that was wrong the next one must take longer: `peak_factor` times as long.
    A silence that lasted is no gap of the node's rhythm, and teaches nothing."""
    silence, allowed = now_s - pulse.last_heard_s, timeout_s(pulse, settings)
    wrong = pulse.gone_s is None and silence < WRONG_WITHIN * allowed
    return Pulse(
        last_heard_s=now_s,
        interval_s=interval_s,
        mean_gap_s=interval_s,
        deviation_s=pulse.deviation_s,
        peak_gap_s=max(pulse.peak_gap_s, allowed) if wrong else pulse.peak_gap_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTime:
    """The time that the detector was awake, next to the real one.

    `looked` moves it on at every message and at every tick, by the real time since the look before, but by
    `longest_step_s` at most. What is beyond that was a pause of the detector's own: it counts as silence of nobody.

    Attributes:
        longest_step_s: a little more than the time between two ticks.
        own_s: the time to hand to this module's functions. Starts as the real time, and falls behind it.
        looked_s, ticked_s: real time of the last look and of the last tick.
        on_time: whether the last tick was. After one that was not, messages wait to be handled: judge at the next.
    """

    longest_step_s: float
    own_s: float
    looked_s: float
    ticked_s: float
    on_time: bool = True


def own_time(now_s: float, longest_step_s: float) -> OwnTime:
    return OwnTime(longest_step_s=longest_step_s, own_s=now_s, looked_s=now_s, ticked_s=now_s)


def looked(time: OwnTime, now_s: float) -> OwnTime:
    """A message is there."""
    step = min(max(0.0, now_s - time.looked_s), time.longest_step_s)
    return replace(time, own_s=time.own_s + step, looked_s=max(now_s, time.looked_s))


def ticked(time: OwnTime, now_s: float) -> OwnTime:
    """The time has come to judge: do so if `on_time`."""
    on_time = now_s - time.ticked_s <= time.longest_step_s
    return replace(looked(time, now_s), ticked_s=now_s, on_time=on_time)


def paused(time: OwnTime, now_s: float) -> OwnTime:
    """Nothing can be heard: no time passes, for messages that come meanwhile either."""
    return replace(time, looked_s=max(now_s, time.looked_s), ticked_s=now_s)


class OwnClock:
    """`OwnTime` on a real clock. Call it for the time, in place of `time.monotonic`.

    `tick` must be called every `tick_s`: without it, this clock all but stands still. `pause` in its place has it stand
    still, until the next tick. `real` is the clock that it is made of.
    """

    def __init__(self, clock: Callable[[], float], *, tick_s: float, slack_s: float = 0.01) -> None:
        self.real = clock
        self._time = own_time(clock(), tick_s + slack_s)
        self._paused = False

    def __call__(self) -> float:
        self._time = paused(self._time, self.real()) if self._paused else looked(self._time, self.real())
        return self._time.own_s

    def pause(self) -> None:
        """What is silent now is silent for a reason that is not its own."""
        self._paused = True
        self()

    def tick(self) -> bool:
        """Whether the tick came on time, so that silences may be judged now."""
        now_s = self.real()
        if self._paused:
            self._time, self._paused = paused(self._time, now_s), False
            return False
        self._time = ticked(self._time, now_s)
        return self._time.on_time
