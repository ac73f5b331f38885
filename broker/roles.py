"""Who may publish and subscribe to what, by role and account. docs/security.md is the prose of this file.

| role | who has it |
| --- | --- |
| client | anyone who reaches the port: publishes frames, hears results |
| node | one node process of a pipeline |
| controller | the controllers of a pipeline |
| operator | who measures links and serves another model: everything, but not the broker's own account |
| system | who looks after the broker: its own account |

Core NATS alone is in these lists, and the bucket of leases. What a role is to do with streams goes into `_streams`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from broker import lease, subjects

Account = Literal["DATA", "CTRL", "SYS"]
ACCOUNTS: tuple[Account, ...] = ("DATA", "CTRL", "SYS")

ANY = "*"
INBOXES = "_INBOX.>"
EVERYTHING = ">"


def _streams(role: str, pipeline: str) -> tuple[str, ...]:  # noqa: ARG001 - the place for what is to come
    """What a role publishes besides, in the data account, to use JetStream: `$JS.API. ...`, `$JS.ACK. ...`. To publish
    into a stream takes nothing more: a client publishes a frame, and hears the acknowledgement in its inbox."""
    return ()


MQTT_SESSION_PUBLISH = ("$MQTT.deliver.pubrel.>",)
MQTT_SESSION_SUBSCRIBE = ("$MQTT.sub.>",)
"""What nats-server has a client of its MQTT listener do under its own name, at QoS 1 and 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Subjects that a user may publish, and subscribe, to in one account. A subscription must be inside one of them."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


ALL = Rights(publish=(EVERYTHING,), subscribe=(EVERYTHING,))


def _password() -> str:
    return secrets.token_urlsafe(24)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A role, with the name and the password of its users: one per account in which it has rights."""

    name: str
    rights: dict[Account, Rights]
    password: str = field(default_factory=_password, repr=False)


def client() -> User:
    return User(name="client", rights={"DATA": _CLIENT})


def operator() -> User:
    return User(name="operator", rights={"DATA": ALL, "CTRL": ALL})


def system() -> User:
    return User(name="system", rights={"SYS": ALL})


def node(pipeline: str, name: str = ANY) -> User:
    """A node of a pipeline; of any name, or of this one: then it cannot pass for another one of the pipeline.

    Raises:
        SubjectError: a name cannot be part of a subject.
    """
    subjects.check_name("pipeline", pipeline)
    if name != ANY:
        subjects.check_name("node", name)
    user = f"node-{pipeline}" if name == ANY else f"node-{pipeline}.{name}"
    return User(name=user, rights={"DATA": _node_data(pipeline, name), "CTRL": _node_control(pipeline, name)})


def controller(pipeline: str) -> User:
    """Raises SubjectError where the name cannot be part of a subject."""
    subjects.check_name("pipeline", pipeline)
    rights: dict[Account, Rights] = {
        "DATA": _controller_data(pipeline),
        "CTRL": _controller_control(pipeline),
        "SYS": _CONTROLLER_SYSTEM,
    }
    return User(name=f"controller-{pipeline}", rights=rights)


_CLIENT = Rights(
    publish=(subjects.frames_in(ANY), subjects.STATUS, subjects.journal(ANY), *_streams("client", ANY)),
    subscribe=(
        subjects.results_out(ANY),
        subjects.dead_letters(ANY),
        subjects.events(ANY),
        subjects.lead(ANY),
        INBOXES,
    ),
)
"""It publishes into no inbox: what arrives there is an answer, and nobody must be able to make one up."""


def _node_data(pipeline: str, name: str) -> Rights:
    return Rights(
        publish=(
            # A stage sends to the others of its pipeline, whose names a plan chooses.
            subjects.activation(pipeline, ANY, ANY),
            subjects.results_out(pipeline),
            subjects.dead_letters(pipeline),
            subjects.lead(pipeline),
            subjects.gap(pipeline),
            subjects.handover(pipeline, ANY),
            subjects.blob(ANY),
            subjects.probe_data(ANY),
            INBOXES,
            *_streams("node", pipeline),
        ),
        subscribe=(
            subjects.activations(pipeline, name),
            subjects.frames_in(pipeline),
            subjects.results_out(pipeline),
            subjects.gap(pipeline),
            subjects.handover(pipeline, name),
            subjects.blob(ANY),
            subjects.probe_data(name),
            INBOXES,
        ),
    )


def _node_control(pipeline: str, name: str) -> Rights:
    return Rights(
        publish=(subjects.beat(name), subjects.pulse(name), subjects.BYE, subjects.confirm(pipeline), INBOXES),
        subscribe=(
            subjects.beat(name),
            subjects.assign(name),
            subjects.spares(name),
            # A node that is free listens to the controllers of all pipelines, and drops what is not for it.
            subjects.activate(ANY),
            subjects.probe(name),
            INBOXES,
        ),
    )


def _controller_data(pipeline: str) -> Rights:
    return Rights(
        publish=(
            subjects.events(pipeline),
            subjects.STATUS,
            subjects.blob(ANY),
            INBOXES,
            *_streams("controller", pipeline),
        ),
        subscribe=(subjects.STATUS, subjects.journal(pipeline), subjects.blob(ANY), INBOXES),
    )


def _controller_control(pipeline: str) -> Rights:
    return Rights(
        publish=(
            subjects.assign(ANY),
            subjects.spares(ANY),
            subjects.activate(pipeline),
            *lease.subjects_of(pipeline),
            INBOXES,
        ),
        subscribe=(
            subjects.BEATS,
            subjects.PULSES,
            subjects.BYE,
            subjects.confirm(pipeline),
            subjects.update(pipeline),
            INBOXES,
        ),
    )


_CONTROLLER_SYSTEM = Rights(
    publish=("$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.PING.IDZ", "$SYS.REQ.SERVER.*.KICK"),
    subscribe=("$SYS.ACCOUNT.*.*", INBOXES),
)
"""What `broker.nats_presence` needs: who is connected, and to end the connection of a head that hangs."""


def render(users: Sequence[User], *, mqtt: bool = False) -> str:
    """The accounts with these users, in nats-server's configuration syntax. `mqtt`: they may come by MQTT too."""
    lines = ["accounts {"]
    for account in ACCOUNTS:
        stream = "" if account == "SYS" else "jetstream: enabled"
        lines += [f"  {account} {{", *([f"    {stream}"] if stream else []), "    users: ["]
        for user in users:
            if account in user.rights:
                lines += _render_user(user, account, mqtt=mqtt and account == "DATA")
        lines += ["    ]", "  }"]
    return "\n".join([*lines, "}", "system_account: SYS"]) + "\n"


def user_name(user: User, account: Account) -> str:
    """A server's user belongs to one account: of a role that has rights in several there is one user in each."""
    return user.name if account == "DATA" or len(user.rights) == 1 else f"{user.name}-{account.lower()}"


def _render_user(user: User, account: Account, *, mqtt: bool) -> list[str]:
    rights = user.rights[account]
    publish = rights.publish + (MQTT_SESSION_PUBLISH if mqtt else ())
    subscribe = rights.subscribe + (MQTT_SESSION_SUBSCRIBE if mqtt else ())
    lines = [f"      {{ user: {json.dumps(user_name(user, account))}, password: {json.dumps(user.password)}"]
    if rights != ALL:
        lines += ["        permissions {", f"          publish: {json.dumps(publish)}"]
        lines += [f"          subscribe: {json.dumps(subscribe)}", "        }"]
    return [*lines, "      }"]
