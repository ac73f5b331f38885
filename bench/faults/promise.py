"""What each way of delivery promises, as far as a stranger can see it: what the checker holds a pipeline to.

The place for others (live video): one more `Promise`. For a broker that nats-py cannot speak to, the
checker needs another connection beside `bench.faults.checker.Checker`; the tally does not know which it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """
    Attributes:
        answered: every frame has an answer in the end.
        publishes_again: the publisher has to publish again under the same id what nothing came of.
        answers_on_out: the most answers of one frame on the output subject.
    """

    answered: bool = True
    publishes_again: bool = True
    answers_on_out: int = 1


PROMISES: Mapping[str, Promise] = {
    "at-least-once": Promise(),
    "durable": Promise(publishes_again=False),  # what is stored; on the output subject: in the stream of results
}
"""By the name of the delivery."""
