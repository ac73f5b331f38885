"""The roles as mosquitto knows them: an ACL file and a password file, from the table that nats-server's come from.

mosquitto has no accounts: a user may do in one place what its role may do in all. What JetStream alone knows (`$JS`) is
left out. Two rights belong to a connection rather than to a role: its last will, and its inbox, known by its client id
(`%c`). Somebody who hears answers and sends none, a client, has nothing but this inbox.

A publish that the ACL does not allow is dropped. A subscription is always granted, and what is not allowed is not
delivered.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Sequence

from broker import subjects
from broker.mqtt_topics import filter_of, topic_of
from broker.roles import INBOXES, User

_ITERATIONS = 101
"""mosquitto's own. Each connection waits for it; more would be for passwords that can be guessed, which ours cannot."""

_SALT_BYTES = 12
_OWN = "%c"

_OF_EACH = f"""\
# What belongs to each connection, by its client id: its last will, and the answers to its questions.
pattern write {topic_of(subjects.gone(_OWN))}
pattern readwrite {filter_of(f"_INBOX.{_OWN}.>")}
"""


def render_acl(users: Sequence[User]) -> str:
    """The ACL file. What no line allows is refused."""
    return "\n".join([_OF_EACH, *(_render_user(user) for user in users)])


def render_passwords(users: Sequence[User], *, salt: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """The password file: hashes, as `mosquitto_passwd` makes them (PBKDF2 with HMAC and SHA-512)."""
    return "".join(f"{user.name}:{_hashed(user.password, salt(_SALT_BYTES))}\n" for user in users)


def _hashed(password: str, salt: bytes) -> str:
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _render_user(user: User) -> str:
    publish = {subject for rights in user.rights.values() for subject in rights.publish}
    subscribe = {subject for rights in user.rights.values() for subject in rights.subscribe}
    if INBOXES not in publish:
        subscribe.discard(INBOXES)
    lines = [f"user {user.name}"]
    for word, allowed in (
        ("readwrite", publish & subscribe),
        ("write", publish - subscribe),
        ("read", subscribe - publish),
    ):
        lines += [f"topic {word} {filter_of(subject)}" for subject in sorted(allowed) if not subject.startswith("$")]
    return "\n".join([*lines, ""])
