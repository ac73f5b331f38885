"""NKeys, and a nats-server that lives by JWTs, made for a test as NATS's own tool `nsc` would make them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nkeys


@dataclass(slots=True)
class Key:
    """An NKey of an operator, an account or a user."""

    prefix: int = nkeys.PREFIX_BYTE_USER
    seed: bytes = field(default=b"")

    def __post_init__(self) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), self.prefix)

    @property
    def public(self) -> str:
        return bytes(self._pair().public_key).decode()

    def jwt(self, subject: Key, name: str, nats: dict[str, Any]) -> str:
        """Claims about another key, signed with this one."""
        claims: dict[str, Any] = {"iat": 1, "iss": self.public, "name": name, "sub": subject.public}
        claims["nats"] = {**nats, "version": 2}
        claims["jti"] = hashlib.sha256(json.dumps(claims).encode()).hexdigest()
        text = f"{_encoded({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_encoded(claims)}"
        return f"{text}.{_base64(self._pair().sign(text.encode()))}"

    def _pair(self) -> Any:
        return nkeys.from_seed(bytearray(self.seed))


@dataclass(slots=True)
class Operator:
    """An operator with one account and one user in it."""

    operator: Key = field(default_factory=lambda: Key(nkeys.PREFIX_BYTE_OPERATOR))
    account: Key = field(default_factory=lambda: Key(nkeys.PREFIX_BYTE_ACCOUNT))
    user: Key = field(default_factory=Key)

    def server_config(self) -> str:
        """What a nats-server needs to take the user."""
        operator = self.operator.jwt(self.operator, "operator", {"type": "operator"})
        limits = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1}
        account = self.operator.jwt(self.account, "account", {"type": "account", "limits": limits})
        return f"operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {self.account.public}: {account} }}\n"

    def write_creds(self, path: Path) -> Path:
        limits = {"subs": -1, "data": -1, "payload": -1}
        jwt = self.account.jwt(self.user, "user", {"type": "user", **limits})
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"************************* IMPORTANT *************************\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return path


def _encoded(document: dict[str, Any]) -> str:
    return _base64(json.dumps(document).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
