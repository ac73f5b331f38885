"""Who is alive: a heartbeat detector whose timeout adapts to the gaps that it observes.

A node is suspected when nothing was heard of it for

    timeout = clamp(mean gap + 6 * mean deviation, minimum, maximum)

with the mean and the mean deviation of the gaps as exponentially weighted averages (the estimator of TCP's
retransmission timer, RFC 6298, which serves the same purpose). The minimum is a multiple of the node's own interval.
Pure: time is a parameter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSettings:
    """Bounds of the timeout: `minimum_intervals` heartbeats, at least `minimum_s`, at most `maximum_s`."""

    minimum_intervals: float = 5.0
    minimum_s: float = 0.5
    maximum_s: float = 5.0
    deviations: float = 6.0
    gain: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What the detector knows of one node. Times in seconds of one monotonic clock."""

    last_heard_s: float
    interval_s: float
    mean_gap_s: float
    deviation_s: float = 0.0


def first_beat(now_s: float, interval_s: float) -> Pulse:
    return Pulse(last_heard_s=now_s, interval_s=interval_s, mean_gap_s=interval_s)


def beat(pulse: Pulse, now_s: float, interval_s: float, settings: DetectorSettings) -> Pulse:
    """The pulse after a heartbeat. Beats sent early because something changed only count as a sign of life."""
    gap = now_s - pulse.last_heard_s
    if gap < interval_s / 2:
        return replace(pulse, last_heard_s=now_s, interval_s=interval_s)
    error = gap - pulse.mean_gap_s
    return Pulse(
        last_heard_s=now_s,
        interval_s=interval_s,
        mean_gap_s=pulse.mean_gap_s + settings.gain * error,
        deviation_s=pulse.deviation_s + settings.gain * (abs(error) - pulse.deviation_s),
    )


def timeout_s(pulse: Pulse, settings: DetectorSettings) -> float:
    adaptive = pulse.mean_gap_s + settings.deviations * pulse.deviation_s
    lower = max(settings.minimum_s, settings.minimum_intervals * pulse.interval_s)
    return min(max(adaptive, lower), max(settings.maximum_s, lower))


def is_alive(pulse: Pulse, now_s: float, settings: DetectorSettings) -> bool:
    return now_s - pulse.last_heard_s <= timeout_s(pulse, settings)
