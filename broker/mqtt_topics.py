"""Subjects as MQTT topics: `.` is `/`, `*` is `+`, a last `>` is `#`. nats-server maps its own subjects the same way.

`a/#` also matches `a`, which `a.>` does not; and brokers differ in how often they deliver to a client whose filters
overlap (MQTT 3.1.1, 3.3.5). So a connection asks its broker for the widest filters alone, and finds the subscriptions
that a message is for by itself (`broker.dispatch`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations

from broker.errors import BrokerError

MAX_TOPIC_BYTES = 65_535
_NOT_IN_A_WORD = re.compile(r"[\s/+#\0]")


def topic_of(subject: str) -> str:
    """The topic that a message for this subject is published to.

    Raises:
        BrokerError: it is no subject, has wildcards, or has a word that is none of MQTT's.
    """
    return "/".join(_words(subject, wild=False))


def filter_of(subject: str) -> str:
    """The topic filter of a subscription to this subject, which may have wildcards.

    Raises:
        BrokerError: see `topic_of`.
    """
    return "/".join({"*": "+", ">": "#"}.get(word, word) for word in _words(subject, wild=True))


def subject_of(topic: str) -> str:
    return topic.replace("/", ".")


def widest(filters: Iterable[str]) -> set[str]:
    """Those that no other one covers.

    Raises:
        BrokerError: two of them overlap and neither covers the other.
    """
    found = set(filters)
    wild = {one for one in found if "+" in one or "#" in one}
    kept = {one for one in found if not any(other != one and covers(other, one) for other in wild)}
    for one, other in combinations(sorted(kept & wild), 2):
        if _overlap(one.split("/"), other.split("/")):
            raise BrokerError(
                f"'{subject_of(one)}' and '{subject_of(other)}' overlap, and MQTT brokers differ in what they do "
                f"then: subscribe on two connections"
            )
    return kept


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic that matches `narrow` matches `wide`."""
    one, other = wide.split("/"), narrow.split("/")
    for position, word in enumerate(one):
        if word == "#":
            return True
        if position == len(other) or other[position] == "#" or (word != "+" and word != other[position]):
            # `a/#` matches `a` too.
            return False
    return len(one) == len(other)


def _overlap(one: list[str], other: list[str]) -> bool:
    for position in range(max(len(one), len(other))):
        here = one[position] if position < len(one) else None
        there = other[position] if position < len(other) else None
        if "#" in (here, there):
            return True
        if here is None or there is None or ("+" not in (here, there) and here != there):
            return False
    return True


def _words(subject: str, *, wild: bool) -> list[str]:
    words = subject.split(".")
    for position, word in enumerate(words, start=1):
        if wild and (word == "*" or (word == ">" and position == len(words))):
            continue
        if not word or _NOT_IN_A_WORD.search(word) or "*" in word or ">" in word:
            raise BrokerError(f"'{subject}' is not a subject that MQTT can carry: its words have no '/', '+', '#', '*'")
    if subject.startswith("$"):
        raise BrokerError(f"'{subject}' is not a subject that MQTT can carry: what begins with '$' is the broker's own")
    if len(subject.encode(errors="surrogatepass")) > MAX_TOPIC_BYTES:
        raise BrokerError(f"'{subject[:40]}...' is not a subject that MQTT can carry: it has more than 65535 bytes")
    return words
