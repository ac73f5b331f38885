"""Who may publish and subscribe to what, by role and account. docs/security.md is the prose of this file.

`render` says it to nats-server, `broker.mosquitto` to mosquitto.

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

from broker import kv, lease, subjects

Account = Literal["DATA", "CTRL", "SYS"]
ACCOUNTS: tuple[Account, ...] = ("DATA", "CTRL", "SYS")

ANY = "*"
INBOXES = "_INBOX.>"
EVERYTHING = ">"


VERSIONS = "understudy_versions"
"""The bucket that keeps which version of its model a pipeline is served in."""


def _streams(role: Literal["client", "node", "controller"], pipeline: str) -> tuple[str, ...]:
    """What a role publishes besides, in the data account, for durable delivery (`stages.feed`). To publish into a
    stream takes nothing more: a client publishes a frame, and hears the acknowledgement in its inbox."""
    if pipeline == ANY:
        return ()  # a stream's name is one token: it cannot be said that it begins with something
    frames, results = subjects.input_stream(pipeline), subjects.result_stream(pipeline)
    both = (frames, results)
    if role == "client":
        # It may read results by any consumer of its own; of the frames it may know how many wait.
        by_name = ("CREATE", "DURABLE.CREATE", "MSG.NEXT", "INFO", "DELETE")
        return (
            "$JS.API.INFO",
            "$JS.API.STREAM.NAMES",
            *(f"$JS.API.STREAM.INFO.{stream}" for stream in both),
            f"$JS.API.STREAM.MSG.GET.{results}",
            f"$JS.API.CONSUMER.CREATE.{results}",
            *(f"$JS.API.CONSUMER.{operation}.{results}.>" for operation in by_name),
            f"$JS.ACK.{results}.>",
            f"$JS.FC.{results}.>",
        )
    made = tuple(f"$JS.API.STREAM.{what}.{stream}" for what in ("CREATE", "UPDATE", "INFO") for stream in both)
    if role == "controller":
        return made
    consumer = ("CONSUMER.DURABLE.CREATE", "CONSUMER.DELETE")
    return (*made, *(f"$JS.API.{operation}.{frames}.>" for operation in consumer), f"$JS.ACK.{frames}.>")


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


def client(pipeline: str = ANY) -> User:
    """Of all pipelines; of this one also what is stored.

    Raises:
        SubjectError: the name cannot be part of a subject.
    """
    if pipeline != ANY:
        subjects.check_name("pipeline", pipeline)
    publish = (*_CLIENT.publish, *_streams("client", pipeline))
    return User(name="client", rights={"DATA": Rights(publish=publish, subscribe=_CLIENT.subscribe)})


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
    publish=(subjects.frames_in(ANY), subjects.STATUS, subjects.journal(ANY)),
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
            subjects.sent(pipeline, ANY),
            subjects.blob(ANY),
            subjects.probe_data(ANY),
            INBOXES,
            *_streams("node", pipeline),
        ),
        subscribe=(
            subjects.activations(pipeline, name),
            subjects.frames_in(pipeline),
            subjects.feed(pipeline),
            subjects.results_out(pipeline),
            subjects.gap(pipeline),
            subjects.handover(pipeline, name),
            subjects.sent(pipeline, name),
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
            *kv.rights(VERSIONS, pipeline),
            INBOXES,
        ),
        subscribe=(
            subjects.BEATS,
            subjects.PULSES,
            subjects.BYE,
            subjects.GONE,
            subjects.confirm(pipeline),
            subjects.update(pipeline),
            kv.subject(VERSIONS, pipeline),
            INBOXES,
        ),
    )


_CONTROLLER_SYSTEM = Rights(
    publish=("$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.PING.IDZ", "$SYS.REQ.SERVER.*.KICK"),
    subscribe=("$SYS.ACCOUNT.*.*", INBOXES),
)
"""What `broker.nats_presence` needs: who is connected, and to end the connection of a head that hangs."""


def render(users: Sequence[User], *, mqtt: bool = False, jetstream: bool = True) -> str:
    """The accounts with these users, in nats-server's configuration syntax. `mqtt`: they may come by MQTT too.
    `jetstream`: the server stores what they want stored."""
    lines = ["accounts {"]
    for account in ACCOUNTS:
        stream = "jetstream: enabled" if jetstream and account != "SYS" else ""
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
