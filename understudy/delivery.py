"""What is promised of frames, as it is written in the configuration file and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from broker.control import Delivery, StoreSettings
from understudy.fields import Duration, Size
from understudy.files import explain, read_option

MODES = ("at-least-once", "latest", "durable")


class DeliveryConfig(BaseModel):
    """`delivery:` of the configuration file; docs/delivery.md explains it. A mode alone stands for its defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Delivery = "at-least-once"
    ordered: bool = False
    input_limit: Size = StoreSettings().input_bytes
    result_limit: Size = StoreSettings().result_bytes
    result_age: Duration = StoreSettings().result_age_s
    replicas: Annotated[int, Field(ge=1, le=5)] = StoreSettings().replicas
    folder: Path | None = None
    sync_interval: Duration | Literal["always"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _mode_alone(cls, value: Any) -> Any:
        return {"mode": value} if isinstance(value, str) else value

    @property
    def sync(self) -> str:
        """As nats-server takes it; empty: not given."""
        if self.sync_interval is None or isinstance(self.sync_interval, str):
            return self.sync_interval or ""
        return f"{self.sync_interval * 1e3:.0f}ms"

    @property
    def store(self) -> StoreSettings:
        return StoreSettings(
            input_bytes=self.input_limit,
            result_bytes=self.result_limit,
            result_age_s=self.result_age,
            replicas=self.replicas,
        )


def read_delivery(text: str | None) -> DeliveryConfig:
    """From a mode's name, from JSON, or from a YAML file of that name; None: the default.

    Raises:
        ConfigError: not readable, or a wrong key or value; names each.
    """
    if text is None:
        return DeliveryConfig()
    raw, source = read_option(text, "--delivery", names=MODES, example="mode: durable")
    try:
        return DeliveryConfig.model_validate(raw)
    except ValidationError as error:
        raise explain(error, source, DeliveryConfig, {}) from error
