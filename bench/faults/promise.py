"""What each way of delivery promises, as far as a stranger can see it: what the checker holds a pipeline to.

It does not depend on the broker: over MQTT the same is promised as on NATS, to who gives frames ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """
    Attributes:
        answered: every frame has an answer in the end. Otherwise, and while nothing is wrong, the newest of those that
            wait has one, and the publishers of the others are told; nobody publishes a frame again.
        answers_on_out: the most answers of one frame on the output subject.
    """

    answered: bool = True
    answers_on_out: int = 1


PROMISES: Mapping[str, Promise] = {
    "at-least-once": Promise(),
    "latest": Promise(answered=False),
    "durable": Promise(),  # what is stored; on the output subject: in the stream of results
}
"""By the name of the delivery."""
