"""What the user wants of recovery, as it is written in the configuration file and on the command line."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recovery.decide import Policy
from recovery.objectives import Objectives, Weights
from recovery.options import LABELS, Label
from understudy.fields import Duration, DurationOrZero, SizeOrZero
from understudy.files import explain, read_option

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

CHOICES: tuple[Label, ...] = tuple(label for label in LABELS if label != "none")


class WeightsConfig(BaseModel):
    """How much each counts; only their proportion does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accuracy: Weight = Weights().accuracy
    latency: Weight = Weights().latency
    downtime: Weight = Weights().downtime


class RecoveryConfig(BaseModel):
    """`recovery:` of the configuration file; docs/recovery.md explains it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    max_latency: Duration | None = None
    max_downtime: Duration | None = None
    weights: WeightsConfig = WeightsConfig()
    techniques: tuple[str, ...] = CHOICES
    max_codec_loss: Annotated[float, Field(ge=0, le=1)] = 0.0
    spare_memory: SizeOrZero | None = None
    standby_head: bool = True
    heal_after: DurationOrZero = 0.0

    @field_validator("techniques")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in CHOICES]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is no technique: there are {', '.join(CHOICES)}")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.objectives()
        return self

    def objectives(self) -> Objectives:
        return Objectives(
            min_accuracy=self.min_accuracy,
            max_latency_s=self.max_latency,
            max_downtime_s=self.max_downtime,
            weights=Weights(
                accuracy=self.weights.accuracy, latency=self.weights.latency, downtime=self.weights.downtime
            ),
            techniques=frozenset(label for label in LABELS if label in self.techniques or label == "none"),
            max_codec_loss=self.max_codec_loss,
        )

    def policy(self, *, expected_nodes: int) -> Policy:
        return Policy(
            expected_nodes=expected_nodes,
            objectives=self.objectives(),
            spare_memory_bytes=self.spare_memory,
            standby_head=self.standby_head,
            heal_after_s=self.heal_after,
        )


def read_recovery(text: str | None) -> RecoveryConfig:
    """From JSON, or from a YAML file of that name; None: the defaults.

    Raises:
        ConfigError: not readable, or a wrong key or value; names each.
    """
    if text is None:
        return RecoveryConfig()
    raw, source = read_option(text, "--recovery", example="min_accuracy: 0.8")
    try:
        return RecoveryConfig.model_validate(raw)
    except ValidationError as error:
        raise explain(error, source, RecoveryConfig, {"weights": WeightsConfig}) from error
