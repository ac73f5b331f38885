"""What a head counts, for its node's heartbeat."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.malformed import Malformed
from stages.results import Provenance

LATENCY_GAIN = 0.05


@dataclass(slots=True)
class HeadCounters:
    """Since the head began; the heartbeat reports them.

    Attributes:
        sent_again: frames that were sent to the stages a second time.
        superseded: frames that a newer one replaced before it was their turn (`latest` delivery).
        degraded: answers by another technique than `none`.
        answered_epoch: the newest epoch of which an answer was put out.
        latency_s: mean over the last answers of the newest epoch; 0: none yet.
        malformed: of the whole node.
    """

    answered: int = 0
    failed: int = 0
    sent_again: int = 0
    superseded: int = 0
    degraded: int = 0
    answered_epoch: int = 0
    latency_s: float = 0.0
    malformed: Malformed = field(default_factory=Malformed)

    def count_answer(self, provenance: Provenance, latency_s: float) -> None:
        self.answered += 1
        self.degraded += provenance.technique != "none"
        self.answered_epoch = max(self.answered_epoch, provenance.epoch)
        if provenance.epoch == self.answered_epoch:
            self.latency_s += (latency_s - self.latency_s) * (LATENCY_GAIN if self.latency_s else 1.0)
