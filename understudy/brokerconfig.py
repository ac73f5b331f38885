"""A configuration for a nats-server of one's own: the roles of `broker.roles`, with fresh passwords, and their URLs, as
the environment variables that each process reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from broker import roles
from broker.errors import UnderstudyError
from broker.roles import Account, User, user_name

_SERVER = """\
# nats-server -c FILE. It holds passwords: keep it readable for its user alone.
{urls}
server_name: understudy
listen: "0.0.0.0:{port}"

# The largest frame and the largest activation. The server's own default is 1 MB.
max_payload: 8MB
max_pending: 128MB
# A receiver behind a slow link is not cut off while it takes a few large messages; one that has vanished is noticed.
write_deadline: "30s"
ping_interval: "5s"
ping_max: 2

# A lease tells which of several controllers serves, a record which version of the model. With durable delivery frames
# and results are here too: give it a folder that outlives the machine's next start then.
jetstream {{ store_dir: {store} }}
{mqtt}
# On a network that others reach, turn this on, and write tls:// in the URLs.
# tls {{ cert_file: "server.pem", key_file: "server.key" }}

# Anyone may publish frames and hear results. Without this line everybody needs one of the users.
no_auth_user: client

{accounts}"""

_MQTT = """\

# Cameras and others that speak MQTT 3.1.1: understudy/PIPELINE/in and understudy/PIPELINE/out.
mqtt {{ port: {port} }}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """The users of a pipeline on a broker. `nodes`: names; none: one user for all of them, however they are named."""

    pipeline: str
    nodes: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 4222
    mqtt_port: int | None = None
    store: str = "/tmp/understudy-jetstream"  # noqa: S108 - a lease need not outlive the machine
    node_users: tuple[User, ...] = field(init=False)
    controller: User = field(init=False)
    client: User = field(init=False)
    operator: User = field(default_factory=roles.operator)
    system: User = field(default_factory=roles.system)

    def __post_init__(self) -> None:
        users = tuple(roles.node(self.pipeline, name) for name in self.nodes) or (roles.node(self.pipeline),)
        object.__setattr__(self, "node_users", users)
        object.__setattr__(self, "controller", roles.controller(self.pipeline))
        object.__setattr__(self, "client", roles.client(self.pipeline))

    def render(self) -> str:
        """The configuration, with `urls` in comments at its top."""
        users = (self.client, self.operator, self.system, self.controller, *self.node_users)
        return _SERVER.format(
            urls="\n".join(f"# {line}".rstrip() for line in self.urls().splitlines()),
            port=self.port,
            store=f'"{self.store}"',
            mqtt="" if self.mqtt_port is None else _MQTT.format(port=self.mqtt_port),
            accounts=roles.render(users, mqtt=self.mqtt_port is not None),
        )

    def urls(self) -> str:
        """What to set for each process."""
        parts = [f"Clients: nats://{self.host}:{self.port}"]
        if self.mqtt_port is not None:
            parts[0] += f", or mqtt://{self.host}:{self.mqtt_port}"
        for name, user in zip(self.nodes or ("NAME",), self.node_users, strict=True):
            parts += [f"understudy node --name {name} --pipeline {self.pipeline}", *self._variables(user)]
        parts += [f"understudy controller --pipeline {self.pipeline}", *self._variables(self.controller)]
        parts += ["understudy measure, understudy update", *self._variables(self.operator)]
        return "\n".join(parts)

    def _variables(self, user: User) -> list[str]:
        names: Sequence[tuple[Account, str]] = (
            ("DATA", "BROKER"),
            ("CTRL", "CONTROL_BROKER"),
            ("SYS", "SYSTEM_BROKER"),
        )
        return [
            f"  UNDERSTUDY_{name}=nats://{user_name(user, account)}:{user.password}@{self.host}:{self.port}"
            for account, name in names
            if account in user.rights
        ]


def write_private(path: Path, text: str) -> None:
    """A file for this user alone, from its first byte.

    Raises:
        UnderstudyError: it is there already, or cannot be written.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UnderstudyError(
            f"{path} is there already, and its passwords may be in use: choose another name"
        ) from error
    except OSError as error:
        raise UnderstudyError(f"{path} cannot be written: {error.strerror}") from error
