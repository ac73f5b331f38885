"""Broker URLs: one URL or a comma-separated list of servers, parsed, checked, and redacted for logs.

- `nats://host:4222`
- `nats://user:password@a:4222,b:4222`: a list; later servers inherit the scheme
- `nats://token@host`: a token instead of user and password
- `tls://host:4222?ca=FILE&cert=FILE&key=FILE`: TLS; `ca` where the system does not know the authority, `cert` and `key`
  where the server wants to know who we are
- `nats://host?creds=FILE`, `nats://host?nkey=FILE`: a NATS credentials file, or an NKey's seed; with `tls://` too
- `mqtt://user:password@host:1883`, `mqtts://host:8883` (with TLS)
- `memory://name`

What follows a `?` is for the whole list. In a file's name `%2C` stands for a comma and `%26` for an ampersand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from broker.errors import BrokerError

NATS_SCHEMES = ("nats", "tls")
MQTT_SCHEMES = ("mqtt", "mqtts")
MEMORY_SCHEME = "memory"
SCHEMES = (*NATS_SCHEMES, *MQTT_SCHEMES, MEMORY_SCHEME)
DEFAULT_PORTS = {"nats": 4222, "tls": 4222, "mqtt": 1883, "mqtts": 8883}

TLS_OPTIONS = frozenset({"ca", "cert", "key"})
KEY_OPTIONS = frozenset({"creds", "nkey"})
OPTIONS: Mapping[str, frozenset[str]] = {
    "nats": KEY_OPTIONS,
    "tls": TLS_OPTIONS | KEY_OPTIONS,
    "mqtt": frozenset(),
    "mqtts": TLS_OPTIONS,
}
"""What may follow the `?`, by scheme."""

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[A-Za-z0-9_.-]*)(:\d*)?/?")
_WORD = re.compile(r"[A-Za-z]*")
_MEMORY_NAME = re.compile(r"[A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Either `user` and `password`, or `token`. Never printed. Of an MQTT broker: `user` alone, or both."""

    user: str = ""
    password: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlOptions:
    """Files that the URL names; they are read when a connection is made.

    Attributes:
        ca: certificates of the authorities to trust, in place of those that the system trusts.
        cert, key: our own certificate and its key.
        creds: a NATS credentials file. nkey: the seed of an NKey.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    creds: Path | None = None
    nkey: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrl:
    """A parsed broker URL. `servers` are `scheme://host:port` without credentials; `name` is for memory:// alone."""

    scheme: str
    servers: tuple[str, ...] = ()
    name: str = ""
    credentials: Credentials | None = None
    options: UrlOptions = UrlOptions()

    def __str__(self) -> str:
        return ",".join(self.servers) if self.servers else f"{self.scheme}://{self.name}"


def is_mqtt(url: str) -> bool:
    """Whether the URL names an MQTT broker."""
    return url.strip().partition("://")[0].lower() in MQTT_SCHEMES


def redact(url: str) -> str:
    """The URL without user, password, token and options. Takes any string, also one that is no URL."""
    # Not urlsplit: what is not a URL must be printable too, and a password may hold an '@', '/' or ',' by mistake.
    if "@" not in url:
        return url.partition("?")[0] if "://" in url else url
    return ",".join(_redact_part(part) for part in url.split(","))


def _redact_part(part: str) -> str:
    scheme, separator, rest = part.partition("://")
    if not separator:
        scheme, rest = "", part
    # Before the first '?' behind the host: a password may hold one too.
    address = rest.rpartition("@")[2].partition("?")[0]
    if not _WORD.fullmatch(scheme):
        return "***"
    return f"{scheme}{separator}{address}" if _ADDRESS.fullmatch(address) else f"{scheme}{separator}***"


def parse_broker_url(url: str) -> BrokerUrl:
    """Parse and check a broker URL.

    Raises:
        BrokerError: it is empty, has an unknown scheme, no host, a bad port, or mixes schemes that cannot be mixed.
    """
    first, *others = [part.strip() for part in url.split(",")]
    scheme, separator, _ = first.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in SCHEMES:
        supported = ", ".join(f"{known}://" for known in SCHEMES)
        raise BrokerError(f"'{redact(url)}' is not a broker URL: it starts with one of {supported}")
    if scheme == MEMORY_SCHEME:
        return _parse_memory(url)
    parts = [_split(part if "://" in part else f"{scheme}://{part}", url) for part in (first, *others)]
    credentials = next((found for part in parts if (found := _credentials(part)) is not None), None)
    family = MQTT_SCHEMES if scheme in MQTT_SCHEMES else NATS_SCHEMES
    servers = tuple(_server(part, url, family) for part in parts)
    return BrokerUrl(scheme=scheme, servers=servers, credentials=credentials, options=_options(parts, scheme, url))


def _parse_memory(url: str) -> BrokerUrl:
    name = url.partition("://")[2].strip()
    if not _MEMORY_NAME.fullmatch(name):
        raise BrokerError(f"'{redact(url)}' is not a broker URL: memory:// takes a name of letters, digits, '_.-'")
    return BrokerUrl(scheme=MEMORY_SCHEME, name=name)


def _split(part: str, url: str) -> SplitResult:
    try:
        return urlsplit(part)
    except ValueError as error:
        raise BrokerError(f"'{redact(url)}' is not a broker URL: {error}") from error


def _server(part: SplitResult, url: str, family: tuple[str, ...]) -> str:
    if part.scheme not in family:
        kinds = " and ".join(f"{scheme}://" for scheme in family)
        raise BrokerError(f"'{redact(url)}' is not a broker URL: a list of servers takes {kinds} only")
    try:
        port = part.port or DEFAULT_PORTS[part.scheme]
    except ValueError as error:
        raise BrokerError(f"'{redact(url)}' is not a broker URL: its port is not a number from 1 to 65535") from error
    if not part.hostname or any(character.isspace() for character in part.netloc):
        raise BrokerError(f"'{redact(url)}' is not a broker URL: it names no host")
    if part.path.strip("/") or part.fragment:
        raise BrokerError(f"'{redact(url)}' is not a broker URL: nothing but ?option=value may follow the port")
    host = f"[{part.hostname}]" if ":" in part.hostname else part.hostname
    return f"{part.scheme}://{host}:{port}"


def _credentials(part: SplitResult) -> Credentials | None:
    if part.username is None:
        return None
    if part.password is None and part.scheme in MQTT_SCHEMES:
        return Credentials(user=unquote(part.username))  # MQTT knows no tokens
    if part.password is None:
        return Credentials(token=unquote(part.username))
    return Credentials(user=unquote(part.username), password=unquote(part.password))


def _options(parts: list[SplitResult], scheme: str, url: str) -> UrlOptions:
    given: dict[str, Path] = {}
    known = OPTIONS[scheme]
    for name, value in (pair for part in parts for pair in _pairs(part.query, url)):
        if name in TLS_OPTIONS - known:
            raise BrokerError(f"'{redact(url)}' takes no '{name}': TLS is for tls:// and mqtts:// alone")
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise BrokerError(f"'{redact(url)}' takes no '{name}': there are {there}")
        if not value:
            raise BrokerError(f"'{redact(url)}' names no file with {name}=")
        if given.setdefault(name, Path(value)) != Path(value):
            raise BrokerError(f"'{redact(url)}' names two files with {name}=")
    if "key" in given and "cert" not in given:
        raise BrokerError(f"'{redact(url)}' names a key and no certificate: add cert=FILE")
    if {"creds", "nkey"} <= given.keys():
        raise BrokerError(f"'{redact(url)}' names both creds and nkey: one of them")
    return UrlOptions(**given)


def _pairs(query: str, url: str) -> list[tuple[str, str]]:
    # A file's name may hold a '+', which parse_qsl would take for a space.
    try:
        return parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise BrokerError(f"'{redact(url)}' is not a broker URL: after the ? comes option=FILE") from error
