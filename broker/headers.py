"""Message headers: which names and values there are, and how NATS writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from broker.errors import BrokerError

ID_HEADER = "Nats-Msg-Id"
"""The name of a frame, and of a stored result. JetStream stores one message of a name."""

REPLY_HEADER = "Understudy-Reply"
"""Of a frame that is stored: who wants its result; its reply subject takes the word that it is stored."""

PUBLISHER_HEADER = "Understudy-Publisher"
"""Who published a frame; results are put in order for each publisher."""

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LINE_ENDS = str.maketrans("\r\n", "  ")


def clean_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The headers as a receiver will see them: values trimmed, line ends replaced by spaces.

    Raises:
        BrokerError: a name is not a token of RFC 7230.
    """
    cleaned = {}
    for name, value in (headers or {}).items():
        if not _NAME.fullmatch(name):
            raise BrokerError(f"{name!r} is not a header name: it takes letters, digits and !#$%&'*+-.^_`|~")
        cleaned[name] = value.translate(_LINE_ENDS).strip()
    return cleaned


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """A NATS header block; empty without headers. Takes what `clean_headers` returned."""
    if not headers:
        return b""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()
