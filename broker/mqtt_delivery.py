"""How each kind of message travels over MQTT: its quality of service (QoS), and whether the broker retains it.

QoS 1: the broker confirms the message; what is not confirmed when the connection is lost is sent again on the next one.
It may then arrive twice, so it is for what carries an id or an epoch. QoS 0: sent once, and not waited for.

Subscriptions of ours are QoS 0. Sessions are clean, so the other QoS would add nothing within a connection but an
acknowledgement per message; a stranger's own subscription may have QoS 1, and gets what was published so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from broker.dispatch import pattern


@dataclass(frozen=True, slots=True)
class Delivery:
    """`qos` 0 or 1."""

    qos: int
    retain: bool = False


_ONCE = Delivery(0)
_CONFIRMED = Delivery(1)

_TABLE = (
    # A frame that the broker has not taken is lost to the pipeline; its id tells the head of a second arrival.
    ("understudy.*.in", _CONFIRMED),
    # A subscriber with QoS 1 and a session of its own finds them also after it was away.
    ("understudy.*.out", _CONFIRMED),
    ("understudy.*.dead", _CONFIRMED),
    ("understudy.*.lead", _CONFIRMED),
    ("understudy.*.events", _CONFIRMED),
    ("understudy.*.handover.*", _CONFIRMED),
    # What a controller says: carries an epoch, and is repeated until a beat acknowledges it.
    ("understudy._.assign.*", _CONFIRMED),
    ("understudy._.spares.*", _CONFIRMED),
    # Retained: a node that was away for a moment hears of the route as soon as it has subscribed again.
    ("understudy._.activate.*", Delivery(1, retain=True)),
    ("understudy._.bye", _CONFIRMED),
    ("understudy._.confirm.*", _CONFIRMED),
    ("understudy._.update.*", _CONFIRMED),
    ("understudy._.gone.*", _CONFIRMED),
)
"""Everything else is QoS 0: activations (the head holds the frame), pulses and beats (the next one follows), blobs,
probes, requests and answers (whoever asks asks again)."""

_PATTERNS = tuple((pattern(subject), delivery) for subject, delivery in _TABLE)


@lru_cache(maxsize=4096)
def delivery_of(subject: str) -> Delivery:
    """How a message for this subject is published."""
    return next((delivery for known, delivery in _PATTERNS if known.fullmatch(subject)), _ONCE)
