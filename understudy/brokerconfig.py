"""Configurations for a broker of one's own: the roles of `broker.roles`, with fresh passwords, and their URLs, as the
environment variables that each process reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from broker import mosquitto, roles
from broker.errors import UnderstudyError
from broker.roles import Account, User, user_name

_SERVER = """\
# nats-server -c FILE. It holds passwords: keep it readable for its user alone.
{urls}
server_name: {name}
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
{jetstream}
{mqtt}
# On a network that others reach, turn this on, and write tls:// in the URLs.
# tls {{ cert_file: "server.pem", key_file: "server.key" }}

# Anyone may publish frames and hear results. Without this line everybody needs one of the users.
no_auth_user: client

{accounts}{cluster}"""

_MQTT = """\

# Cameras and others that speak MQTT 3.1.1: understudy/PIPELINE/in and understudy/PIPELINE/out.
mqtt {{ port: {port} }}
"""

_MOSQUITTO = """\
# mosquitto -c FILE. It must be able to read the two files that are named here: root's goes on as the user mosquitto, to
# whom they are given with chown then.
listener {port}
allow_anonymous false
password_file {passwords}
acl_file {acl}

# Of what a receiver does not take at once, so many wait. More is dropped without a word; its own default is 1000.
max_queued_messages 10000
# A message leaves at once: without this one that follows another waits for its acknowledgement, 40 ms.
set_tcp_nodelay true
# Routes are announced again, and nothing else is retained: nothing needs a disk.
persistence false

# On a network that others reach, turn this on, and write mqtts:// in the URLs.
# certfile /etc/mosquitto/certs/server.pem
# keyfile /etc/mosquitto/certs/server.key
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """The users of a pipeline on a broker. `nodes`: names; none: one user for all of them, however they are named."""

    pipeline: str
    nodes: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int
    node_users: tuple[User, ...] = field(init=False)
    controller: User = field(init=False)
    client: User = field(init=False)
    operator: User = field(default_factory=roles.operator)

    def __post_init__(self) -> None:
        users = tuple(roles.node(self.pipeline, name) for name in self.nodes) or (roles.node(self.pipeline),)
        object.__setattr__(self, "node_users", users)
        object.__setattr__(self, "controller", roles.controller(self.pipeline))
        object.__setattr__(self, "client", roles.client(self.pipeline))

    def files(self, out: Path) -> Mapping[Path, str]:
        """What to write where, none of it for other eyes. `out` comes first: the broker is started with it."""
        raise NotImplementedError

    def urls(self) -> str:
        """What to set for each process."""
        parts = self._for_clients()
        for name, user in zip(self.nodes or ("NAME",), self.node_users, strict=True):
            parts += [f"understudy node --name {name} --pipeline {self.pipeline}", *self._variables(user)]
        parts += [f"understudy controller --pipeline {self.pipeline}", *self._variables(self.controller)]
        parts += ["understudy measure, understudy update", *self._variables(self.operator)]
        return "\n".join(parts)

    def environment(self, user: User, *hosts: str) -> dict[str, str]:
        raise NotImplementedError

    def _for_clients(self) -> list[str]:
        raise NotImplementedError

    def _variables(self, user: User) -> list[str]:
        return [f"  {name}={url}" for name, url in self.environment(user).items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsConfig(BrokerConfig):
    """For nats-server: one file. Whoever has no password is a client."""

    port: int = 4222
    mqtt_port: int | None = None
    store: str = "/tmp/understudy-jetstream"  # noqa: S108 - a lease need not outlive the machine
    system: User = field(default_factory=roles.system)

    def files(self, out: Path) -> Mapping[Path, str]:
        return {out: self.render()}

    def render(self, *, name: str = "understudy", cluster: str = "") -> str:
        """The configuration, with `urls` in comments at its top. `name`: of this one of several servers; `cluster`: how
        it finds the others. A server of such a cluster stores nothing."""
        users = (self.client, self.operator, self.system, self.controller, *self.node_users)
        return _SERVER.format(
            name=name,
            urls="\n".join(f"# {line}".rstrip() for line in self.urls().splitlines()),
            port=self.port,
            jetstream="" if cluster else f'jetstream {{ store_dir: "{self.store}" }}',
            mqtt="" if self.mqtt_port is None else _MQTT.format(port=self.mqtt_port),
            accounts=roles.render(users, mqtt=self.mqtt_port is not None, jetstream=not cluster),
            cluster=cluster,
        )

    def _for_clients(self) -> list[str]:
        by_mqtt = "" if self.mqtt_port is None else f", or mqtt://{self.host}:{self.mqtt_port}"
        return [f"Clients: nats://{self.host}:{self.port}{by_mqtt}"]

    def environment(self, user: User, *hosts: str) -> dict[str, str]:
        """What a process of that user is started with; it tries the hosts in this order."""
        where = ",".join(f"{host}:{self.port}" for host in hosts or (self.host,))
        names: Mapping[Account, str] = {"DATA": "BROKER", "CTRL": "CONTROL_BROKER", "SYS": "SYSTEM_BROKER"}
        return {
            f"UNDERSTUDY_{name}": f"nats://{user_name(user, account)}:{user.password}@{where}"
            for account, name in names.items()
            if account in user.rights
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MosquittoConfig(BrokerConfig):
    """For mosquitto: its configuration, and beside it a file of hashed passwords and one of rights."""

    port: int = 1883

    def files(self, out: Path) -> Mapping[Path, str]:
        users = (self.client, self.operator, self.controller, *self.node_users)
        own = out.absolute()  # mosquitto may be started anywhere
        passwords, acl = own.with_name(f"{own.name}.passwords"), own.with_name(f"{own.name}.acl")
        return {
            out: _MOSQUITTO.format(port=self.port, passwords=passwords, acl=acl),
            passwords: mosquitto.render_passwords(users),
            acl: mosquitto.render_acl(users),
        }

    def _for_clients(self) -> list[str]:
        return ["Clients", *self._variables(self.client)]

    def environment(self, user: User, *hosts: str) -> dict[str, str]:
        """What a process of that user is started with."""
        where = ",".join(f"{host}:{self.port}" for host in hosts or (self.host,))
        return {"UNDERSTUDY_BROKER": f"mqtt://{user.name}:{user.password}@{where}"}


def write_private(files: Mapping[Path, str]) -> None:
    """Files for this user alone, from their first byte; all of them or none.

    Raises:
        UnderstudyError: one is there already, or cannot be written.
    """
    written: list[Path] = []
    try:
        for path, text in files.items():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
    except OSError as error:
        for one in written:
            one.unlink(missing_ok=True)
        if isinstance(error, FileExistsError):
            raise UnderstudyError(
                f"{path} is there already, and its passwords may be in use: choose another name"
            ) from error
        raise UnderstudyError(f"{path} cannot be written: {error.strerror}") from error
