"""Every subject, in one place, next to what it carries. docs/protocol.md is the prose of this file.

Data subjects (any client may use the first three):

| subject                              | carries                                                    |
| ------------------------------------ | ---------------------------------------------------------- |
| `understudy.<pipeline>.in`           | a frame: JPEG, PNG, `.npy` bytes or a tensor message        |
| `understudy.<pipeline>.out`          | a result: JSON                                              |
| `understudy.<pipeline>.dead`         | a dead letter: JSON                                         |
| `understudy.<pipeline>.cut.<k>.<node>` | an activation (`broker.activation`) of cut k for that node |
| `understudy.<pipeline>.feed`         | durable delivery: a stored frame, from JetStream to the head and its standby |
| `understudy.<pipeline>.lead`         | a head has begun: JSON, with whether it knows what was published before |
| `understudy.<pipeline>.gap`          | nothing: a node was disconnected for a moment               |
| `understudy.<pipeline>.events`       | what happened to the pipeline, and what was done: JSON      |
| `understudy.<pipeline>.journal`      | request: the controller answers the records of its journal  |
| `understudy.<pipeline>.handover.<node>` | request: a new head asks the one before what it will finish |
| `understudy.<pipeline>.sent.<node>`  | request: a new head asks what this node has sent to a lost one |
| `understudy._.status`                | request: every controller answers its status as JSON        |
| `understudy._.blob.<sha256>`         | request: who has this sub-model                             |
| `understudy._.probe-data.<node>`     | request: a chunk that measures a link; answered by `ProbeAck` |

Control subjects (their own account where the broker has accounts), messages of `broker.control`:

| subject                              | carries                                   |
| ------------------------------------ | ----------------------------------------- |
| `understudy._.beat.<node>`           | `Beat`: node to every controller          |
| `understudy._.pulse.<node>`          | `broker.pulse.Pulse`: the same way, often and tiny |
| `understudy._.bye`                   | `Bye`: a node leaves on purpose           |
| `understudy._.assign.<node>`         | `Assignment`: controller to one node      |
| `understudy._.spares.<node>`         | `Spares`: controller to one node          |
| `understudy._.update.<pipeline>`     | request: the manifest of a bundle to serve in place of what is |
| `understudy._.confirm.<pipeline>`    | request: `Confirm`, from a head that was paused; answered by `Confirmed` |
| `understudy._.gone.<connection>`     | empty: the last will of a node's connection (MQTT alone) |
| `understudy._.activate.<pipeline>`   | `Activate`: controller to all its nodes   |
| `understudy._.probe.<node>`          | request: `ProbeOrder`; answered by `ProbeResult` |
"""

from __future__ import annotations

import re

from broker.errors import SubjectError

ROOT = "understudy"

STATUS = f"{ROOT}._.status"
BEATS = f"{ROOT}._.beat.*"
PULSES = f"{ROOT}._.pulse.*"
BYE = f"{ROOT}._.bye"
GONE = f"{ROOT}._.gone.*"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can be part of a subject or topic.

    Raises:
        SubjectError: it holds anything but letters, digits, `-` and `_`, or does not start with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise SubjectError(
            f"{kind} name {name!r} is not usable: 1 to 63 letters, digits, '-' or '_', the first a letter or digit"
        )
    return name


def is_answerable(reply: str) -> bool:
    """Whether an answer may go there. Not to a subject of ours: a client that may not publish a result could otherwise
    name the output as the place for its answer, and have one who may publish there do it."""
    return bool(reply) and not reply.startswith(f"{ROOT}.")


def frames_in(pipeline: str) -> str:
    return f"{ROOT}.{pipeline}.in"


def results_out(pipeline: str) -> str:
    return f"{ROOT}.{pipeline}.out"


def dead_letters(pipeline: str) -> str:
    return f"{ROOT}.{pipeline}.dead"


def feed(pipeline: str) -> str:
    return f"{ROOT}.{pipeline}.feed"


def input_stream(pipeline: str) -> str:
    """JetStream's name of what stores the frames (durable delivery)."""
    return f"{ROOT}_in_{pipeline}"


def result_stream(pipeline: str) -> str:
    return f"{ROOT}_out_{pipeline}"


def activation(pipeline: str, cut: int | str, node: str) -> str:
    return f"{ROOT}.{pipeline}.cut.{cut}.{node}"


def activations(pipeline: str, node: str) -> str:
    """All cuts of a node."""
    return f"{ROOT}.{pipeline}.cut.*.{node}"


def handover(pipeline: str, node: str) -> str:
    return f"{ROOT}.{pipeline}.handover.{node}"


def sent(pipeline: str, node: str) -> str:
    return f"{ROOT}.{pipeline}.sent.{node}"


def lead(pipeline: str) -> str:
    return f"{ROOT}.{pipeline}.lead"


def gap(pipeline: str) -> str:
    return f"{ROOT}.{pipeline}.gap"


def confirm(pipeline: str) -> str:
    return f"{ROOT}._.confirm.{pipeline}"


def events(pipeline: str) -> str:
    return f"{ROOT}.{pipeline}.events"


def update(pipeline: str) -> str:
    return f"{ROOT}._.update.{pipeline}"


def journal(pipeline: str) -> str:
    return f"{ROOT}.{pipeline}.journal"


def blob(sha256: str) -> str:
    return f"{ROOT}._.blob.{sha256}"


def beat(node: str) -> str:
    return f"{ROOT}._.beat.{node}"


def pulse(node: str) -> str:
    return f"{ROOT}._.pulse.{node}"


def assign(node: str) -> str:
    return f"{ROOT}._.assign.{node}"


def spares(node: str) -> str:
    return f"{ROOT}._.spares.{node}"


def activate(pipeline: str) -> str:
    return f"{ROOT}._.activate.{pipeline}"


def gone(connection: str) -> str:
    return f"{ROOT}._.gone.{connection}"


def probe(node: str) -> str:
    return f"{ROOT}._.probe.{node}"


def probe_data(node: str) -> str:
    return f"{ROOT}._.probe-data.{node}"
