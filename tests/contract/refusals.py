"""What each role may not do, whatever the broker."""

from __future__ import annotations

from broker import roles, subjects
from broker.roles import Account, User

CLIENT = roles.client()
"""Anyone. On nats-server that is whoever gives no password."""

NODE_A, NODE_B = roles.node("a", "one"), roles.node("b", "two")
ANY_NODE_OF_A = roles.node("a")
CONTROLLER_A, CONTROLLER_B = roles.controller("a"), roles.controller("b")

REFUSED_TO_PUBLISH: list[tuple[str, User, Account, str, str]] = [
    # what, who, account, refused subject, allowed subject
    ("a client an activation", CLIENT, "DATA", subjects.activation("a", 3, "one"), subjects.frames_in("a")),
    ("a client a result", CLIENT, "DATA", subjects.results_out("a"), subjects.frames_in("a")),
    ("a client a dead letter", CLIENT, "DATA", subjects.dead_letters("a"), subjects.frames_in("a")),
    ("a client an event", CLIENT, "DATA", subjects.events("a"), subjects.frames_in("a")),
    ("a client the news of a head", CLIENT, "DATA", subjects.lead("a"), subjects.frames_in("a")),
    ("a client a handover", CLIENT, "DATA", subjects.handover("a", "one"), subjects.frames_in("a")),
    ("a client a question for what was sent", CLIENT, "DATA", subjects.sent("a", "one"), subjects.frames_in("a")),
    ("a client an answer", CLIENT, "DATA", "_INBOX.somebody.1", subjects.journal("a")),
    ("a client a route", CLIENT, "DATA", subjects.activate("a"), subjects.STATUS),
    ("a client an assignment", CLIENT, "DATA", subjects.assign("one"), subjects.STATUS),
    ("a client a beat", CLIENT, "DATA", subjects.beat("one"), subjects.STATUS),
    ("a client the broker's api", CLIENT, "DATA", "$JS.API.STREAM.CREATE.X", subjects.STATUS),
    ("a client the broker's own", CLIENT, "DATA", "$SYS.REQ.SERVER.PING", subjects.STATUS),
    ("a node another pipeline's result", NODE_A, "DATA", subjects.results_out("b"), subjects.results_out("a")),
    ("a node another pipeline's activation", NODE_A, "DATA", subjects.activation("b", 0, "two"), subjects.lead("a")),
    ("a node a frame", NODE_A, "DATA", subjects.frames_in("a"), subjects.activation("a", 1, "three")),
    ("any node another pipeline's result", ANY_NODE_OF_A, "DATA", subjects.results_out("b"), subjects.results_out("a")),
    ("a node another one's beat", NODE_A, "CTRL", subjects.beat("two"), subjects.beat("one")),
    ("a node another one's pulse", NODE_A, "CTRL", subjects.pulse("two"), subjects.pulse("one")),
    ("a node another pipeline's question", NODE_A, "CTRL", subjects.confirm("b"), subjects.confirm("a")),
    ("a node an assignment", NODE_A, "CTRL", subjects.assign("two"), subjects.beat("one")),
    ("a node a route", NODE_A, "CTRL", subjects.activate("a"), subjects.beat("one")),
    ("a node an update", NODE_A, "CTRL", subjects.update("a"), subjects.beat("one")),
    ("a node an order to measure", NODE_A, "CTRL", subjects.probe("two"), subjects.beat("one")),
    ("a controller another's route", CONTROLLER_A, "CTRL", subjects.activate("b"), subjects.activate("a")),
    ("a controller a beat", CONTROLLER_A, "CTRL", subjects.beat("one"), subjects.assign("one")),
    ("a controller a result", CONTROLLER_A, "DATA", subjects.results_out("a"), subjects.events("a")),
    ("a controller another's event", CONTROLLER_A, "DATA", subjects.events("b"), subjects.events("a")),
]

REFUSED_TO_SUBSCRIBE: list[tuple[str, User, Account, str, str]] = [
    ("a client to frames", CLIENT, "DATA", subjects.frames_in("a"), subjects.results_out("a")),
    ("a client to activations", CLIENT, "DATA", subjects.activation("a", 1, "one"), subjects.results_out("*")),
    ("a client to everything", CLIENT, "DATA", ">", subjects.events("a")),
    ("a client to the broker's own", CLIENT, "DATA", "$SYS.>", subjects.events("a")),
    (
        "a node to another one's activations",
        NODE_A,
        "DATA",
        subjects.activations("a", "two"),
        subjects.activations("a", "one"),
    ),
    ("a node to another pipeline's frames", NODE_A, "DATA", subjects.frames_in("b"), subjects.frames_in("a")),
    ("a node to another one's assignments", NODE_A, "CTRL", subjects.assign("two"), subjects.assign("one")),
    ("a node to the broker's own", NODE_A, "CTRL", "$SYS.>", subjects.spares("one")),
    ("a controller to frames", CONTROLLER_A, "DATA", subjects.frames_in("a"), subjects.STATUS),
    ("a controller to another's updates", CONTROLLER_A, "CTRL", subjects.update("b"), subjects.update("a")),
]
