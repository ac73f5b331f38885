"""The configuration file of `understudy up`, and its units. pydantic checks it; docs/configuration.md describes it.

pipeline: digits
bundle: ./digits
nodes:
  - {name: a, memory: 256 MB}
  - {name: b, memory: 1 GiB, threads: 2, providers: [CUDA, CPU]}
stages: 2
heartbeat: 100ms
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from broker.cluster import MOST_SERVERS
from broker.errors import SubjectError
from broker.server import LOOPBACK, is_loopback
from broker.server_tls import ServerTls
from broker.subjects import check_name
from understudy.delivery import DeliveryConfig
from understudy.fields import Duration, Size
from understudy.files import explain, read_yaml
from understudy.objectives import RecoveryConfig
from understudy.quantities import ConfigError


def _checked(kind: str, name: str) -> str:
    try:
        return check_name(kind, name)
    except SubjectError as error:
        raise ValueError(str(error)) from error


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeConfig(_Strict):
    """One node process. `memory`: what stages may use on it."""

    name: str
    memory: Size | None = None
    threads: int = Field(default=1, ge=1, le=1024)
    providers: tuple[str, ...] = ("CPU",)

    @field_validator("name")
    @classmethod
    def _usable(cls, name: str) -> str:
        return _checked("node", name)


class UpConfig(_Strict):
    """What `understudy up` runs. Without `bundle` and `model`: the digits bundle. Without `broker`: an embedded one."""

    pipeline: str | None = None
    bundle: Path | None = None
    model: Path | None = None
    nodes: tuple[NodeConfig, ...] = tuple(NodeConfig(name=f"node{i}") for i in range(1, 5))
    stages: int | None = Field(default=None, ge=1)
    cluster: Path | None = None
    broker: str | None = None
    control_broker: str | None = None
    system_broker: str | None = None
    servers: int = Field(default=1, ge=1, le=MOST_SERVERS)
    host: str = LOOPBACK
    port: int = Field(default=0, ge=0, le=65535)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    mqtt_port: int | None = Field(default=None, ge=0, le=65535)
    max_payload: Size = 8 << 20
    window: int = Field(default=0, ge=0, le=65536)
    max_batch: int = Field(default=64, ge=1, le=1024)
    top_k: int = Field(default=5, ge=1, le=1000)
    heartbeat: Duration = 0.1
    recovery: RecoveryConfig = RecoveryConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    resend_after: Duration = 5.0
    start_timeout: Duration = 60.0

    @field_validator("nodes", mode="before")
    @classmethod
    def _count(cls, nodes: Any) -> Any:
        """A number stands for so many nodes with the defaults."""
        if isinstance(nodes, int) and not isinstance(nodes, bool):
            if not 1 <= nodes <= 256:
                raise ValueError(f"{nodes} nodes: 1 to 256 are possible on one machine")
            return [{"name": f"node{i}"} for i in range(1, nodes + 1)]
        return nodes

    @field_validator("pipeline")
    @classmethod
    def _usable(cls, name: str | None) -> str | None:
        return None if name is None else _checked("pipeline", name)

    @property
    def tls(self) -> ServerTls | None:
        """Of the embedded broker."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return ServerTls(cert=self.tls_cert.absolute(), key=self.tls_key.absolute(), trust=self.tls_ca)

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if self.broker is not None and (self.tls_cert or self.tls_key or self.tls_ca or self.host != LOOPBACK):
            raise ValueError("host, tls_cert, tls_key and tls_ca are for the embedded broker, and broker names another")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("of tls_cert and tls_key one is given: both, or none")
        if self.tls_ca is not None and self.tls_cert is None:
            raise ValueError("tls_ca says who has signed tls_cert: give tls_cert and tls_key too")
        if self.tls is None and not is_loopback(self.host):
            raise ValueError(f"host {self.host} is reached from other machines: give tls_cert and tls_key too")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.bundle is not None and self.model is not None:
            raise ValueError("bundle and model are both given: one of them")
        if self.broker is not None and self.mqtt_port is not None:
            raise ValueError("broker and mqtt_port are both given: the MQTT listener is one of the embedded broker")
        if self.delivery.folder is not None and (self.broker is not None or self.servers > 1):
            raise ValueError("delivery.folder is for one embedded broker: leave out broker and servers, or the folder")
        if self.delivery.sync_interval is not None and self.broker is not None:
            raise ValueError("delivery.sync_interval is for the embedded broker: set it in the configuration of yours")
        names = [node.name for node in self.nodes]
        if not names:
            raise ValueError("nodes is empty: at least one is needed")
        if len(set(names)) < len(names):
            raise ValueError(f"a node name is there twice: {', '.join(names)}")
        if self.broker is not None and self.servers > 1:
            raise ValueError("servers is for the embedded broker, and broker names another one: one of them")
        if "controller" in names:
            raise ValueError("a node cannot be named controller: that is the controller's own name")
        if self.port and self.port + self.servers - 1 > 65535:
            raise ValueError(f"port is {self.port}: {self.servers} servers need as many ports from there")
        if self.stages is not None and self.stages > len(names):
            raise ValueError(
                f"stages is {self.stages}, but there are {len(names)} nodes: every stage needs a node of its own; "
                f"raise nodes to {self.stages}"
            )
        return self


def load_config(path: Path) -> dict[str, Any]:
    """The raw mapping of a YAML file; paths in it are relative to the file.

    Raises:
        ConfigError: missing, not YAML, or not a mapping.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must be a mapping of settings such as 'nodes: 4'")
    for key in ("bundle", "model", "cluster", "tls_cert", "tls_key", "tls_ca"):
        if isinstance(raw.get(key), str):
            raw[key] = path.parent / raw[key]
    return raw


def make_config(raw: dict[str, Any], source: str) -> UpConfig:
    """Check settings.

    Raises:
        ConfigError: a wrong key, value or unit; names each, and the keys that there are.
    """
    try:
        return UpConfig.model_validate(raw)
    except ValidationError as error:
        nested: dict[str, type[BaseModel]] = {
            "nodes": NodeConfig,
            "recovery": RecoveryConfig,
            "delivery": DeliveryConfig,
        }
        raise explain(error, source, UpConfig, nested) from error
