"""Who we say we are to a nats-server, whom we take it for, and what it does not let us do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from nats import errors as nats_errors

from broker.errors import BrokerError
from broker.nats_errors import UnusableServerError
from broker.nkey import NKey
from broker.tls import client_context
from broker.url import BrokerUrl

REFUSALS_LOGGED = 32
"""Different ones, per connection. Above that they are counted by nobody: something is wrong altogether."""

_REFUSED = re.compile(
    r'permissions violation for (?P<action>publish|subscription) to "(?P<subject>[^"]*)"', re.IGNORECASE
)

_log = structlog.get_logger(__name__)

Action = Literal["publish", "subscribe"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server does not let this user publish or subscribe to the subject."""

    action: Action
    subject: str


def auth_options(url: BrokerUrl) -> dict[str, Any]:
    """What nats-py's `connect` is to be given besides the servers.

    Raises:
        BrokerError: a file that the URL names is missing, cannot be read, or is not what it should be.
    """
    options: dict[str, Any] = {}
    if wants_tls(url):
        options["tls"] = client_context(url.options)
    if (key := _key(url)) is not None:
        key.check()
        options["signature_cb"] = _guarded(key.sign)
        if url.options.creds is not None:
            options["user_jwt_cb"] = _guarded(key.jwt)
    if (credentials := url.credentials) is not None:
        # As options, not in the URLs: servers that the cluster announces later need them too.
        if credentials.token:
            options["token"] = credentials.token
        else:
            options |= {"user": credentials.user, "password": credentials.password}
    return options


def public_nkey(url: BrokerUrl) -> str | None:
    """What nats-py sends of an NKey without a JWT."""
    return None if url.options.nkey is None else NKey(url.options.nkey, "nkey").public_key()


def wants_tls(url: BrokerUrl) -> bool:
    return any(server.startswith("tls://") for server in url.servers)


def check_encryption(wanted: bool, info: dict[str, Any]) -> None:
    """By the server's first words, before anything of ours is sent: nats-py would go on without TLS, and send the
    password in the clear.

    Raises:
        UnusableServerError: the URL says TLS and the server cannot, or the reverse.
    """
    if wanted and not (info.get("tls_required") or info.get("tls_available")):
        raise UnusableServerError(
            "the server does not speak TLS: write nats:// in place of tls://, or turn TLS on there"
        )
    if not wanted and info.get("tls_required"):
        raise UnusableServerError("the server wants TLS: write tls:// in place of nats://")
    if wanted:
        info["tls_required"] = True  # where it is optional there nats-py would do without


def parse_refusal(text: str) -> Refusal | None:
    """What a server's `-ERR` says of permissions; None where it is about something else."""
    found = _REFUSED.search(text)
    if found is None:
        return None
    return Refusal("publish" if found["action"].lower() == "publish" else "subscribe", found["subject"])


class Refusals:
    """Says each refusal once, and no more than `REFUSALS_LOGGED` of them: a stage would repeat one with every frame."""

    def __init__(self, url: BrokerUrl) -> None:
        self._url = url
        self._said: set[Refusal] = set()

    def say(self, refusal: Refusal) -> None:
        if refusal in self._said or len(self._said) >= REFUSALS_LOGGED:
            return
        self._said.add(refusal)
        _log.error(
            "broker_refused",
            url=str(self._url),
            user=self.who,
            action=refusal.action,
            subject=refusal.subject,
            hint="connect as a user whose role needs it (docs/security.md)",
        )
        if len(self._said) == REFUSALS_LOGGED:
            _log.error("broker_refuses_much", url=str(self._url), user=self.who, hint="no more of it is logged")

    @property
    def who(self) -> str:
        """The user by name; never a password, token or key."""
        credentials, options = self._url.credentials, self._url.options
        if options.creds is not None or options.nkey is not None:
            return f"the owner of the key in {options.creds or options.nkey}"
        if credentials is None:
            return "who gives no user in the broker's URL"
        return f"user '{credentials.user}'" if credentials.user else "the owner of the token in the broker's URL"


def _key(url: BrokerUrl) -> NKey | None:
    creds, nkey = url.options.creds, url.options.nkey
    if creds is not None:
        return NKey(creds, "creds")
    return None if nkey is None else NKey(nkey, "nkey")


def _guarded(call: Callable[..., Any]) -> Callable[..., Any]:
    """A file that broke since the start: an error of nats-py's, which it takes for a reason to try again."""

    def guarded(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except BrokerError as error:
            raise nats_errors.Error(str(error)) from error

    return guarded
