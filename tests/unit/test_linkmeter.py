"""The passive link meter: a simulated link, with clocks that differ."""

from __future__ import annotations

import random

import pytest

from stages.linkmeter import MAX_SAMPLES, MIN_SAMPLES, LinkMeter

OFFSET_S = 1234.5
"""How much the sender's clock is ahead."""


def stream(
    meter: LinkMeter, *, rate: float, every_s: float, size_bytes: int, count: int, jitter_s: float = 0.0
) -> None:
    """Messages of one sender over a link that carries one after the other."""
    chance = random.Random(1)
    free_s = 0.0
    for number in range(count):
        sent_s = number * every_s
        free_s = max(free_s, sent_s) + size_bytes / rate
        arrived_s = free_s + chance.uniform(0, jitter_s)
        meter.observe("a", sent_s=sent_s + OFFSET_S, arrived_s=arrived_s, size_bytes=size_bytes)


@pytest.mark.parametrize("rate", [1.25e6, 12.5e6, 125e6])
def test_a_busy_link_shows_its_rate_whatever_the_clocks_say(rate: float) -> None:
    meter = LinkMeter()
    size = 600_000
    stream(meter, rate=rate, every_s=0.4 * size / rate, size_bytes=size, count=50, jitter_s=0.1 * size / rate)
    assert meter.bytes_per_s()["a"] == pytest.approx(rate, rel=0.1)


def test_a_link_that_is_never_busy_shows_nothing() -> None:
    meter = LinkMeter()
    stream(meter, rate=12.5e6, every_s=0.1, size_bytes=600_000, count=200)
    assert meter.bytes_per_s() == {}


def test_few_messages_and_small_messages_show_nothing() -> None:
    meter = LinkMeter()
    stream(meter, rate=1e6, every_s=0.0, size_bytes=600_000, count=MIN_SAMPLES)
    assert meter.bytes_per_s() == {}
    stream(meter, rate=1e6, every_s=0.0, size_bytes=1000, count=200)
    assert meter.bytes_per_s() == {}


def test_a_link_that_changes_is_followed() -> None:
    meter = LinkMeter()
    stream(meter, rate=1e6, every_s=0.0, size_bytes=100_000, count=100)
    stream(meter, rate=9e6, every_s=0.0, size_bytes=100_000, count=MAX_SAMPLES + 2)
    assert meter.bytes_per_s()["a"] == pytest.approx(9e6, rel=0.01)


def test_a_clock_that_is_set_back_harms_nothing() -> None:
    meter = LinkMeter()
    stream(meter, rate=1e6, every_s=0.05, size_bytes=100_000, count=20)
    meter.observe("a", sent_s=0.0, arrived_s=1e9, size_bytes=100_000)
    assert meter.bytes_per_s()["a"] == pytest.approx(1e6, rel=0.01)


def test_a_sender_that_is_paced_by_the_answers_keeps_the_link_busy_too() -> None:
    """A window of 4: each message is sent when the fourth before it has arrived, as fast as they arrive."""
    meter = LinkMeter()
    size, rate, window = 100_000, 1e6, 4
    arrivals: list[float] = []
    for number in range(60):
        sent_s = arrivals[number - window] if number >= window else 0.0
        arrivals.append(max(sent_s, arrivals[-1] if arrivals else 0.0) + size / rate)
        meter.observe("a", sent_s=sent_s + OFFSET_S, arrived_s=arrivals[-1], size_bytes=size)
    assert meter.bytes_per_s()["a"] == pytest.approx(rate, rel=0.01)
